"""Rows a second of hidden states: the naive way against `chapterlib.models.embed`.

    python benchmarks/embed.py [--rows 256] [--rounds 3]

Naive: fp32, rows in file order, batches of 8, each row padded to 128 tokens, as most
tutorials do; and, for comparison, padded only to the longest row of its batch. Ours:
the type that is fast here, batches of like length. All read the same rows by the same
model, already loaded, by turns; the best round of each counts. None uses a cache.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.models import devices, loading
from chapterlib.models.hidden_states import BATCH_TOKENS, pooled_states
from chapterlib.tasks.task import AG_NEWS

TEMPLATE = AG_NEWS.template
# Tokens of a row that are read, the template included, and so the width of a batch.
MAX_LENGTH = 128


def naive(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    layer: int,
    padding: str = "max_length",
) -> dict[str, np.ndarray]:
    """Last token of the template, batch after batch in file order."""
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(texts), 8):
        part = texts[start : start + 8]
        batch = tokenizer(
            [TEMPLATE.format(text=text) for text in part],
            padding=padding,
            truncation=True,
            max_length=MAX_LENGTH,
            return_tensors="pt",
        ).to(model.device)
        with torch.inference_mode():
            states = model(**batch, output_hidden_states=True).hidden_states[layer]
        last = batch["attention_mask"].sum(1) - 1
        rows = states[torch.arange(len(part)), last].float().cpu().numpy()
        found.update(zip(part, rows, strict=True))
    return found


def ours(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    layer: int,
) -> dict[str, np.ndarray]:
    """Return the same vectors by the loop under `features.embed`."""
    batches = pooled_states(
        texts,
        tokenizer,
        model,
        layers=[layer],
        template=TEMPLATE,
        max_length=MAX_LENGTH - len(tokenizer(TEMPLATE.format(text="")).input_ids),
        batch_tokens=BATCH_TOKENS.get(model.device.type, 16_384),
    )
    return {
        text: vector for rows in batches for text, kind, vector in rows
        if kind == f"last{layer}"
    }  # fmt: skip


def main() -> None:
    """Print both speeds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    ds = AG_NEWS.load()
    texts = list(dict.fromkeys(ds["train"]["text"][: options.rows]))
    device = devices.pick_device()
    dtype = devices.pick_dtype(device)
    plain = loading.load("features", dtype="float32", device=device)
    ways: dict[
        str, tuple[Callable[..., dict[str, np.ndarray]], loading.LoadedModel]
    ] = {
        "padded to 128": (naive, plain),
        "padded to longest": (partial(naive, padding="longest"), plain),
        "ours": (ours, loading.load("features", dtype=dtype, device=device)),
    }
    layer = plain.model.config.num_hidden_layers
    seconds = dict.fromkeys(ways, float("inf"))
    vectors = {}
    for way, loaded in ways.values():  # once unmeasured: allocators and threads wake up
        way(texts[:16], *loaded, layer)
    for _ in range(options.rounds):
        for name, (way, loaded) in ways.items():
            start = time.perf_counter()
            vectors[name] = way(texts, *loaded, layer)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    for name, duration in seconds.items():
        kind = dtype if name == "ours" else torch.float32
        ratio = f"  ours is {duration / seconds['ours']:.2f} times as fast"
        print(
            f"{name:18} {len(texts) / duration:6.1f} rows/s  ({kind}, {device})"
            + (ratio if name != "ours" else "")
        )
    print(f"ratio {seconds['padded to 128'] / seconds['ours']:.2f}")
    # Where a template is cut off by the tokenizer, another token is the last.
    whole = [
        text
        for text in texts
        if len(plain.tokenizer(TEMPLATE.format(text=text)).input_ids) <= MAX_LENGTH
    ]
    a, b = (
        np.array([vectors[name][text] for text in whole])
        for name in ("padded to 128", "ours")
    )
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    print(f"least cosine of the vectors of {len(whole)} rows: {cosine.min():.4f}")


if __name__ == "__main__":
    main()
