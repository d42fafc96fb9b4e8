"""Rows a second of label scores: a pass per label against ours.

    python benchmarks/scoring.py [--rows 128] [--rounds 3] [--dtype float32]

Naive: each row once with each label behind it, in file order, batches of 8 padded to
their longest row, logits at every position. Ours: one pass for all labels of one token,
logits at the last position, batches of like length. Both read the same rows by the same
model in the same number format, already loaded, by turns; the best round of each
counts. Neither uses a cache. A third line tells what verbalizers of several tokens
cost, and a fourth what demonstrations do that all rows share.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.models import devices, loading
from chapterlib.models.likelihood import log_likelihoods, word_tokens
from chapterlib.tasks import sampling
from chapterlib.tasks.task import AG_NEWS

LONGER = ("world news", "sports news", "business news", "science and technology")
Scores = npt.NDArray[np.float64]


def naive(
    prompts: list[str],
    words: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
) -> Scores:
    """One pass a label: the log-probability of its tokens after the prompt."""
    found = np.zeros((len(prompts), len(words)))
    for column, word in enumerate(words):
        for start in range(0, len(prompts), 8):
            part = prompts[start : start + 8]
            batch = tokenizer(
                [prompt + word for prompt in part], padding=True, return_tensors="pt"
            ).to(model.device)
            with torch.inference_mode():
                logs = model(**batch).logits.float().log_softmax(-1)
            ends = batch["attention_mask"].sum(1).tolist()
            for line, prompt in enumerate(part):
                first = len(tokenizer(prompt).input_ids)
                ids = batch["input_ids"][line]
                found[start + line, column] = sum(
                    logs[line, place - 1, ids[place]].item()
                    for place in range(first, int(ends[line]))
                )
    return found


def ours(
    prompts: list[str],
    words: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
) -> Scores:
    """Return the same scores by the loop under `LabelScorer`."""
    found = np.zeros((len(prompts), len(words)))
    tokens = [word_tokens(tokenizer, prompts[0], word) for word in words]
    batches = log_likelihoods(prompts, tokens, tokenizer, model, batch_tokens=2048)
    for rows, values in batches:
        found[rows] = values
    return found


def race(
    title: str,
    prompts: list[str],
    words: list[str],
    loaded: loading.LoadedModel,
    rounds: int,
) -> None:
    """Print both speeds, their ratio, and how far the scores differ."""
    ways: dict[str, Callable[..., Scores]] = {"naive": naive, "ours": ours}
    seconds = dict.fromkeys(ways, float("inf"))
    scores = {}
    for way in ways.values():  # once unmeasured: allocators and threads wake up
        way(prompts[:8], words, *loaded)
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            scores[name] = way(prompts, words, *loaded)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    rates = {name: len(prompts) / duration for name, duration in seconds.items()}
    apart = np.abs(scores["naive"] - scores["ours"]).max()
    print(
        f"{title:30} naive {rates['naive']:7.2f} rows/s, ours {rates['ours']:7.2f} "
        f"rows/s, ratio {rates['ours'] / rates['naive']:6.2f}, scores differ by at "
        f"most {apart:.1e}"
    )


def main() -> None:
    """Print a line for each kind of prompt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    train = AG_NEWS.load()["train"]
    texts = list(dict.fromkeys(train["text"][: options.rows]))
    device = devices.pick_device()
    loaded = loading.load("generate", dtype=options.dtype, device=device)
    print(f"{len(texts)} rows, {options.dtype}, {device}")
    short = LabelScorer().words
    longer = [f" {word}" for word in LONGER]
    drawn = sampling.balanced_sample(train.select(range(options.rows, len(train))), 1)
    shots = [dict(row) for row in drawn]
    plain = LabelScorer().prompts(texts)
    fewer = texts[: max(8, options.rows // 4)]
    led = LabelScorer(demonstrations=shots).prompts(fewer)
    race("labels of one token", plain, short, loaded, options.rounds)
    race("labels of several tokens", plain, longer, loaded, options.rounds)
    race("after 4 shared demonstrations", led, short, loaded, options.rounds)


if __name__ == "__main__":
    main()
