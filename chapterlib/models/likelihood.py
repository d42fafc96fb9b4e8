"""How likely a language model finds each of a few words after each of many prompts."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from chapterlib.models import loading
from chapterlib.models.batching import Floats, Row, computed_once
from chapterlib.models.devices import device_and_dtype

# A common start of the prompts below this length is not worth a pass of its own.
SHARED_TOKENS = 16
# Keys and values are kept for no more tokens than these at once (in an 8B Llama 2 GB).
CACHED_TOKENS = 16_384
# So many characters before a word decide how it is cut into tokens.
TAIL = 20


def word_tokens(
    tokenizer: PreTrainedTokenizerBase, before: str, word: str
) -> list[int]:
    """Tokens of a word, with the space that separates it, after the words before it.

    Of these the last `TAIL` characters are looked at. `ValueError` if it has none of
    its own.
    """
    before = before[-TAIL:]
    head = tokenizer(before, add_special_tokens=False).input_ids if before else []
    whole = tokenizer(before + word, add_special_tokens=False).input_ids
    if len(whole) <= len(head) or whole[: len(head)] != head:
        raise ValueError(
            f"{word!r} melts into the tokens of {before!r}: a verbalizer needs "
            "tokens of its own, so let it, or the template's end, be another word"
        )
    return list(whole[len(head) :])


def with_one_ending(
    words: Sequence[str], tokenizer: PreTrainedTokenizerBase, before: str
) -> list[str]:
    """Put a line break behind all words, if the tokens of one begin those of another.

    Else "card" would always be likelier than "card arrival", which goes on from it.
    """
    tokens = {tuple(word_tokens(tokenizer, before, word)) for word in words}
    # In their order, what begins another one begins the next one too.
    found = any(long[: len(short)] == short for short, long in pairwise(sorted(tokens)))
    return [f"{word}\n" for word in words] if found else list(words)


def log_likelihoods(
    prompts: Sequence[str],
    words: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    network: PreTrainedModel,
    *,
    batch_tokens: int,
) -> Iterator[tuple[list[int], Floats]]:
    """Log-probability of each word, given as its tokens, after each prompt.

    Longer words go on from keys and values; what all prompts begin with is read once.
    Yields batches: which prompts, and float32 in nats [those prompts, words].
    """
    tokens = [list(ids) for ids in tokenizer(list(prompts)).input_ids]
    _check_lengths(tokens, words, network)
    shared = _read_shared(tokens, network)
    known = shared.get_seq_length() if shared is not None else 0
    order = sorted(range(len(tokens)), key=lambda row: len(tokens[row]), reverse=True)
    several = sum(len(word) > 1 for word in words)
    while order:
        # The longest first: if memory is short, it shows at once.
        length = len(tokens[order[0]])
        size = batch_tokens // (length - known)
        if shared is not None or several:
            size = min(size, CACHED_TOKENS // (length * max(1, several)))
        batch, order = order[: max(1, size)], order[max(1, size) :]
        endings = [tokens[row][known:] for row in batch]
        with torch.inference_mode():
            yield batch, _score(endings, words, shared, network)


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


def _read_shared(
    tokens: list[list[int]], network: PreTrainedModel
) -> DynamicCache | None:
    """Keys and values of what all prompts begin with, but never the whole of one."""
    if len(tokens) < 2:
        return None
    # What the first and the last in order share, all between them share.
    first, last = min(tokens), max(tokens)
    limit = min(map(len, tokens)) - 1
    length = next((i for i in range(limit) if first[i] != last[i]), limit)
    if length < SHARED_TOKENS:
        return None
    cache = DynamicCache(config=network.config)
    with torch.inference_mode():
        network(
            input_ids=torch.tensor([first[:length]], device=network.device),
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
    return cache


def _score(
    endings: list[list[int]],
    words: Sequence[Sequence[int]],
    shared: DynamicCache | None,
    network: PreTrainedModel,
) -> Floats:
    """Read one batch, and return the words' log-probabilities: shape [n, words]."""
    longest, device = max(map(len, endings)), network.device
    known = shared.get_seq_length() if shared is not None else 0
    ids = torch.full((len(endings), longest), int(network.config.pad_token_id or 0))
    attended = torch.zeros((len(endings), known + longest), dtype=torch.long)
    attended[:, :known] = 1
    # Padding stands on the left, so that every prompt ends at the last position.
    for line, ending in enumerate(endings):
        ids[line, longest - len(ending) :] = torch.tensor(ending)
        attended[line, known + longest - len(ending) :] = 1
    positions = (attended.cumsum(1) - 1).clamp(min=0)[:, known:]
    longer = [place for place, word in enumerate(words) if len(word) > 1]
    options: dict[str, Any] = {"use_cache": False}
    if shared is not None or longer:
        cache = DynamicCache(config=network.config)
        if shared is not None:
            cache = copy.deepcopy(shared)
            cache.batch_repeat_interleave(len(endings))
        options = {"use_cache": True, "past_key_values": cache}
    # Attention is faster without a mask, where there is nothing to leave out.
    whole = bool(attended.all()) and shared is None
    logits = network(
        input_ids=ids.to(device),
        attention_mask=None if whole else attended.to(device),
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
    """Log-probability in nats of each word after each prompt: float32 [n, w].

    All prompts end alike; a word holds the space before it. Kept on disk. In half
    precision the third digit hangs on the batch's shape; float32 agrees to 1e-4.
    """
    source = loading.resolve(model)
    on_device, in_dtype = device_and_dtype(device, dtype)

    def compute(missing: list[str]) -> Iterator[list[Row]]:
        tokenizer, network = loading.load(
            "generate", model, device=on_device, dtype=in_dtype
        )
        tokens = [word_tokens(tokenizer, missing[0], word) for word in new]
        for rows, values in log_likelihoods(
            missing, tokens, tokenizer, network, batch_tokens=batch_tokens
        ):
            yield [
                (missing[row], word, scores[[column]])
                for row, scores in zip(rows, values, strict=True)
                for column, word in enumerate(new)
            ]

    new = list(dict.fromkeys(words))
    key = (source.sha256, str(in_dtype), on_device.type)
    found = computed_once(
        prompts,
        new,
        compute,
        folder="scores",
        key=key if cache else None,
        title="Scoring",
        progress=progress,
    )
    scores = [[found[word][prompt][0] for word in words] for prompt in prompts]
    return np.array(scores, np.float32).reshape(len(prompts), len(words))
