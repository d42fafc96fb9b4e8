"""How likely a language model finds each of a few words after each of many prompts."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm.auto import tqdm
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from chapterlib._store import VectorStore
from chapterlib.models import loading
from chapterlib.models.devices import device_and_dtype
from chapterlib.models.hidden_states import Floats
from chapterlib.settings import get_settings

# A common start of the prompts below this length is not worth a pass of its own.
SHARED_TOKENS = 16
# Keys and values are kept for no more tokens than these at once (in an 8B Llama 2 GB).
CACHED_TOKENS = 16_384


class Batch(NamedTuple):
    """Likelihoods of one batch.

    Attributes
    ----------
    rows : list of int
        Which prompts these are.
    values : ndarray of float32, shape [len(rows), words]
        Log-probability of each word after each prompt, in nats.
    """

    rows: list[int]
    values: Floats


class _Shared(NamedTuple):
    """The start that all prompts share: its length, and its keys and values."""

    length: int
    cache: DynamicCache | None


def word_tokens(
    tokenizer: PreTrainedTokenizerBase, before: str, word: str
) -> list[int]:
    """Tokens of a word as it stands after other words.

    Parameters
    ----------
    tokenizer
    before : str
        What stands before it; a few words are enough.
    word : str
        With the space, if any, that separates it.

    Raises
    ------
    ValueError
        If the word has no tokens of its own there.
    """
    head = tokenizer(before, add_special_tokens=False).input_ids if before else []
    whole = tokenizer(before + word, add_special_tokens=False).input_ids
    if len(whole) <= len(head) or whole[: len(head)] != head:
        raise ValueError(
            f"{word!r} melts into the tokens of {before[-20:]!r}: a verbalizer needs "
            "tokens of its own, so let it, or the template's end, be another word"
        )
    return list(whole[len(head) :])


def log_likelihoods(
    prompts: Sequence[str],
    words: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    network: PreTrainedModel,
    *,
    batch_tokens: int,
) -> Iterator[Batch]:
    """Log-probability of each word after each prompt, the longest prompts first.

    All words of one token come out of one forward pass that computes logits at the
    last position alone. Longer words go on from the keys and values of that pass. What
    all prompts begin with, say the same demonstrations, is read once.

    Parameters
    ----------
    prompts : sequence of str, length n
    words : sequence of sequences of int, length w
        The tokens of each word, at least one.
    tokenizer, network
        As `models.load` gives them for "generate".
    batch_tokens : int
        Tokens in a batch, padding included; a longer prompt is a batch of its own.

    Yields
    ------
    Batch

    Raises
    ------
    ValueError
        If a prompt is empty, or longer than the model can read.
    """
    tokens = [list(ids) for ids in tokenizer(list(prompts)).input_ids]
    _check_lengths(tokens, words, network)
    shared = _read_shared(tokens, network)
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]), reverse=True)
    several = sum(len(word) > 1 for word in words)
    while order:
        # The longest first: if memory is short, it shows at once.
        length = len(tokens[order[0]])
        size = batch_tokens // (length - shared.length)
        if shared.cache is not None or several:
            size = min(size, CACHED_TOKENS // (length * max(1, several)))
        batch, order = order[: max(1, size)], order[max(1, size) :]
        endings = [tokens[row][shared.length :] for row in batch]
        with torch.inference_mode():
            yield Batch(batch, _score(endings, words, shared, network))


def _check_lengths(
    tokens: list[list[int]], words: Sequence[Sequence[int]], network: PreTrainedModel
) -> None:
    limit = getattr(network.config, "max_position_embeddings", None)
    extra = max((len(word) for word in words), default=0)
    for row, ids in enumerate(tokens):
        if not ids:
            raise ValueError(f"prompt {row} is empty: there is nothing to go on from")
        if limit is not None and len(ids) + extra > limit:
            raise ValueError(
                f"prompt {row} has {len(ids):,} tokens and the model reads {limit:,}: "
                "give fewer demonstrations, or a smaller max_length"
            )


def _read_shared(tokens: list[list[int]], network: PreTrainedModel) -> _Shared:
    """Read what all prompts begin with, but never the whole of one."""
    if len(tokens) < 2:
        return _Shared(0, None)
    # What the first and the last in order share, all between them share.
    first, last = min(tokens), max(tokens)
    length = min(map(len, tokens)) - 1
    for place, (a, b) in enumerate(zip(first[:length], last[:length], strict=True)):
        if a != b:
            length = place
            break
    if length < SHARED_TOKENS:
        return _Shared(0, None)
    cache = DynamicCache(config=network.config)
    with torch.inference_mode():
        network(
            input_ids=torch.tensor([first[:length]], device=network.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return _Shared(length, cache)


def _score(
    endings: list[list[int]],
    words: Sequence[Sequence[int]],
    shared: _Shared,
    network: PreTrainedModel,
) -> Floats:
    """Read one batch and return the words' log-probabilities."""
    longest, device = max(map(len, endings)), network.device
    ids = torch.full((len(endings), longest), int(network.config.pad_token_id or 0))
    attended = torch.zeros((len(endings), shared.length + longest), dtype=torch.long)
    attended[:, : shared.length] = 1
    # Padding stands on the left, so that every prompt ends at the last position.
    for line, ending in enumerate(endings):
        ids[line, longest - len(ending) :] = torch.tensor(ending)
        attended[line, shared.length + longest - len(ending) :] = 1
    positions = (attended.cumsum(1) - 1).clamp(min=0)[:, shared.length :]
    longer = [place for place, word in enumerate(words) if len(word) > 1]
    options: dict[str, Any] = {"use_cache": False}
    if shared.cache is not None or longer:
        cache = _copies(shared.cache, len(endings), network)
        options = {"use_cache": True, "past_key_values": cache}
    if bool(attended.all()) and shared.cache is None:
        mask = None  # attention is faster where there is nothing to leave out
    else:
        mask = attended.to(device)
    logits = network(
        input_ids=ids.to(device),
        attention_mask=mask,
        position_ids=positions.to(device),
        logits_to_keep=1,
        **options,
    ).logits[:, -1]
    starts = torch.tensor([word[0] for word in words], device=device)
    values = logits.float().log_softmax(-1)[:, starts]
    if longer:
        ends = positions[:, -1].to(device)
        rest = [list(words[place]) for place in longer]
        values[:, longer] += _go_on(rest, attended.to(device), ends, cache, network)
    return values.cpu().numpy()


def _copies(
    cache: DynamicCache | None, times: int, network: PreTrainedModel
) -> DynamicCache:
    """Return a cache for that many prompts, which begin alike or with nothing."""
    if cache is None:
        return DynamicCache(config=network.config)
    copied = copy.deepcopy(cache)
    copied.batch_repeat_interleave(times)
    return copied


def _go_on(
    words: list[list[int]],
    attended: torch.Tensor,
    ends: torch.Tensor,
    cache: DynamicCache,
    network: PreTrainedModel,
) -> torch.Tensor:
    """Log-probability of each word's tokens after its first one: shape [n, words]."""
    n, w, most = len(attended), len(words), max(map(len, words)) - 1
    cache.batch_repeat_interleave(w)
    given = torch.zeros((w, most), dtype=torch.long)
    asked, inside = given.clone(), given.clone()
    for line, word in enumerate(words):
        given[line, : len(word) - 1] = torch.tensor(word[:-1])
        asked[line, : len(word) - 1] = torch.tensor(word[1:])
        inside[line, : len(word) - 1] = 1
    given, asked, inside = (
        part.to(attended.device).repeat(n, 1) for part in (given, asked, inside)
    )
    steps = torch.arange(1, most + 1, device=attended.device)
    logits = network(
        input_ids=given,
        attention_mask=torch.cat([attended.repeat_interleave(w, 0), inside], 1),
        position_ids=ends.repeat_interleave(w)[:, None] + steps,
        past_key_values=cache,
        use_cache=True,
    ).logits
    found = logits.float().log_softmax(-1).gather(2, asked[..., None])[..., 0]
    return (found * inside).sum(1).view(n, w)


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
    source = loading.resolve(model)
    device, dtype = device_and_dtype(device, dtype)
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
        tokenizer, network = loading.load("generate", model, device=device, dtype=dtype)
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
