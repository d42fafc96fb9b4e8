"""Rows a second of hidden states: the naive way against `chapterlib.features.embed`.

    python benchmarks/embed.py [--rows 256] [--rounds 3]

Naive: fp32, rows in file order, batches of 8 padded to their longest row. Ours: the
type that is fast here, batches of like length. Both read the same rows by the same
model, already loaded, by turns; the best round of each counts. Neither uses a cache.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from chapterlib import data, devices, models
from chapterlib.embeddings import TEMPLATE
from chapterlib.hidden_states import pooled_states


def naive(
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    layer: int,
) -> dict[str, np.ndarray]:
    """Last token of the template, batch after batch in file order."""
    found: dict[str, np.ndarray] = {}
    for start in range(0, len(texts), 8):
        part = texts[start : start + 8]
        batch = tokenizer(
            [TEMPLATE.format(text=text) for text in part],
            padding=True,
            truncation=True,
            max_length=128,
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
        max_length=128,
        batch_tokens=2048,
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
    ds = data.load_ag_news()
    texts = list(dict.fromkeys(ds["train"]["text"][: options.rows]))
    device = devices.pick_device()
    dtype = devices.pick_dtype(device)
    ways = {
        "naive": (naive, models.load("features", dtype="float32", device=device)),
        "ours": (ours, models.load("features", dtype=dtype, device=device)),
    }
    layer = ways["naive"][1].model.config.num_hidden_layers
    seconds = dict.fromkeys(ways, float("inf"))
    vectors = {}
    for way, loaded in ways.values():  # once unmeasured: allocators and threads wake up
        way(texts[:16], *loaded, layer)
    for _ in range(options.rounds):
        for name, (way, loaded) in ways.items():
            start = time.perf_counter()
            vectors[name] = way(texts, *loaded, layer)
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    a, b = (np.array([found[text] for text in texts]) for found in vectors.values())
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    for name, duration in seconds.items():
        kind = torch.float32 if name == "naive" else dtype
        print(f"{name:6} {len(texts) / duration:7.1f} rows/s  ({kind}, {device})")
    print(f"ratio  {seconds['naive'] / seconds['ours']:7.2f}")
    print(f"bf16 matrix products are {devices.bf16_speedup():.2f} times as fast here")
    print(f"least cosine between the two ways' vectors: {cosine.min():.4f}")


if __name__ == "__main__":
    main()
