"""Texts to vectors: pooled hidden states of a frozen model, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import AutoConfig

from chapterlib import models
from chapterlib.devices import place
from chapterlib.hidden_states import Floats, pooled_states
from chapterlib.inputs import check_template, check_texts
from chapterlib.settings import get_settings
from chapterlib.store import VectorStore

Pooling = Literal["mean", "last", "both"]

# The words after the text make the model sum it up in the state of the last token.
TEMPLATE = "{text}\nThis news article is about"
# On a CPU larger batches are slower: their states leave the caches between layers.
BATCH_TOKENS = {"cpu": 512}


def embed(
    texts: Sequence[str],
    *,
    model: str | Path | None = None,
    layer: int | Sequence[int] = -1,
    pooling: Pooling = "mean",
    template: str = TEMPLATE,
    max_length: int = 128,
    batch_tokens: int | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache: bool = True,
    progress: bool = True,
) -> Floats:
    """Turn each text into a vector: a pooled hidden state of a frozen model.

    Texts are sorted by length, so that a batch needs next to no padding; layers above
    the highest one asked for are not run; and what was computed once is read from disk.

    Parameters
    ----------
    texts : sequence of str, length n
    model : str or path, optional
        As for `models.load`.
    layer : int or sequence of int
        0 is the token embeddings, 1 the first layer's output, and the model's number
        of layers (or -1) its last one, after the final norm.
    pooling : {"mean", "last", "both"}
        The mean over the tokens of the text; or the state at the last token of the
        template, in a causal model the only one that has seen everything; or one after
        the other, a vector twice as long.
    template : str
        What the model reads, with ``{text}`` where the text goes. Pooling "mean" skips
        the words around the text.
    max_length : int
        Tokens of a text that are read; the rest is cut off. The template is not.
    batch_tokens : int, optional
        Tokens in a batch, padding included; by default as many as the caches of a
        processor hold, or many times more on a GPU.
    device, dtype : optional
        By default those of `devices.pick_device` and `devices.pick_dtype`.
    cache : bool
        Keep the vectors on disk, under the setting ``CHAPTERLIB_CACHE``, keyed by
        model, text and all options that change a value.
    progress : bool
        Show a progress bar while the model runs.

    Returns
    -------
    ndarray of float32, shape [n, d] for one layer, [n, k, d] for k of them
        Half-precision types round: the same text in a batch of another shape may
        differ in the third digit. In float32 it agrees to 1e-4.

    Raises
    ------
    ValueError
        If a text is no str or empty, or an option is out of range.
    ModelError
        If the model can't be found.

    Examples
    --------
    >>> from chapterlib import features
    >>> features.embed(["Rain stops play at the Oval"]).shape  # doctest: +SKIP
    (1, 576)
    """
    _check(texts, pooling, template, max_length)
    source = models.resolve(model)
    device, dtype = place(device, dtype)
    config = AutoConfig.from_pretrained(source.location)
    one = isinstance(layer, int)
    wanted = [layer] if isinstance(layer, int) else list(layer)
    layers = [_layer_number(number, config.num_hidden_layers) for number in wanted]
    poolings = ("mean", "last") if pooling == "both" else (pooling,)
    kinds = [[f"{name}{number}" for name in poolings] for number in layers]

    store = None
    found: dict[str, dict[str, Floats]] = {k: {} for pair in kinds for k in pair}
    if cache:
        key = (source.sha256, str(dtype), device.type, template, max_length)
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        store = VectorStore(get_settings().cache / "embeddings" / f"{name}.sqlite")
        found = {kind: store.get(texts, kind) for kind in found}
    missing = [
        text
        for text in dict.fromkeys(texts)
        if any(text not in known for known in found.values())
    ]
    if missing:
        # No name holds the model, so that its weights are freed with the generator.
        batches = pooled_states(
            missing,
            *models.load("features", model, device=device, dtype=dtype),
            layers=sorted(set(layers)),
            template=template,
            max_length=max_length,
            batch_tokens=batch_tokens or BATCH_TOKENS.get(device.type, 16_384),
        )
        # None leaves it to the library: no bar where TQDM_DISABLE says so.
        hidden = None if progress else True
        with tqdm(total=len(missing), desc="Embedding", disable=hidden) as bar:
            for rows in store.keep(batches) if store else batches:
                for text, kind, vector in rows:
                    if kind in found:
                        found[kind][text] = vector
                bar.update(len({text for text, _, _ in rows}))
    vectors = [
        [np.concatenate([found[kind][text] for kind in pair]) for pair in kinds]
        for text in texts
    ]
    width = config.hidden_size * len(poolings)
    stacked = np.array(vectors, np.float32).reshape(len(texts), len(layers), width)
    return stacked[:, 0] if one else stacked


def _check(texts: Sequence[str], pooling: str, template: str, max_length: int) -> None:
    check_texts(texts)
    check_template(template, max_length)
    if pooling not in ("mean", "last", "both"):
        raise ValueError(f"pooling is {pooling!r}: choose 'mean', 'last' or 'both'")


def _layer_number(layer: int, depth: int) -> int:
    number = int(layer) + depth + 1 if layer < 0 else int(layer)
    if not 0 <= number <= depth:
        raise ValueError(
            f"layer is {layer}, but the model has {depth}: choose 0 (token embeddings) "
            f"to {depth}, or -1 (the last) to {-depth - 1}"
        )
    return number
