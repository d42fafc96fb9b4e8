"""Log-probabilities of words after prompts, kept on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm.auto import tqdm

from chapterlib import models
from chapterlib.devices import place
from chapterlib.hidden_states import Floats
from chapterlib.likelihood import log_likelihoods, word_tokens
from chapterlib.settings import get_settings
from chapterlib.store import VectorStore

# So many characters before a word decide how it is cut into tokens.
TAIL = 20


def word_scores(
    prompts: Sequence[str],
    words: Sequence[str],
    *,
    model: str | Path | None = None,
    batch_tokens: int = 2048,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    cache: bool = True,
    progress: bool = True,
) -> Floats:
    """Score each word as the next one after each prompt.

    Parameters
    ----------
    prompts : sequence of str, length n
        All with the same ending, as a template gives it.
    words : sequence of str, length w
        Each with the space that separates it, if any.
    model : str or path, optional
        As for `models.load`.
    batch_tokens : int
        Tokens in a batch, padding included.
    device, dtype : optional
        By default those of `devices.pick_device` and `devices.pick_dtype`.
    cache : bool
        Keep the scores on disk, under the setting ``CHAPTERLIB_CACHE``, keyed by
        model, prompt and word.
    progress : bool
        Show a progress bar while the model runs.

    Returns
    -------
    ndarray of float32, shape [n, w]
        Log-probabilities in nats, summed over the tokens of a word. Half-precision
        types round: in a batch of another shape a score may differ in the third
        digit. In float32 it agrees to 1e-4.

    Raises
    ------
    ValueError
        If a prompt is empty or too long for the model, or a word has no tokens of its
        own after it.
    ModelError
        If the model can't be found.
    """
    source = models.resolve(model)
    device, dtype = place(device, dtype)
    store = None
    found: dict[str, dict[str, Floats]] = {word: {} for word in words}
    if cache:
        key = (source.sha256, str(dtype), device.type)
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        store = VectorStore(get_settings().cache / "scores" / f"{name}.sqlite")
        found = {word: store.get(prompts, word) for word in found}
    missing = [
        prompt
        for prompt in dict.fromkeys(prompts)
        if any(prompt not in known for known in found.values())
    ]
    if missing:
        tokenizer, network = models.load("generate", model, device=device, dtype=dtype)
        new = list(found)
        batches = log_likelihoods(
            missing,
            [word_tokens(tokenizer, missing[0][-TAIL:], word) for word in new],
            tokenizer,
            network,
            batch_tokens=batch_tokens,
        )
        rows = (
            [
                (missing[row], word, values[[column]])
                for row, values in zip(*batch, strict=True)
                for column, word in enumerate(new)
            ]
            for batch in batches
        )
        # None leaves it to the library: no bar where TQDM_DISABLE says so.
        hidden = None if progress else True
        with tqdm(total=len(missing), desc="Scoring", disable=hidden) as bar:
            for some in store.keep(rows) if store else rows:
                for prompt, word, value in some:
                    found[word][prompt] = value
                bar.update(len(some) // len(new))
    scores = [[found[word][prompt][0] for word in words] for prompt in prompts]
    return np.array(scores, np.float32).reshape(len(prompts), len(words))
