"""Texts to batches of tokens, and results that are computed once per text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from chapterlib._store import VectorStore
from chapterlib.settings import get_settings
from chapterlib.tasks.task import check_template, check_texts

Floats = npt.NDArray[np.float32]
Row = tuple[str, str, Floats]  # a text, a kind of result, the result


class Encoder:
    """Put a text into its template and turn it into token ids.

    Only the text is cut where it is too long, never the words around it: the model
    reads its answer at the last token, which has to be the same in every row.

    The `template` holds ``{text}`` once; of a text `max_length` tokens are read, and no
    row may be longer than the `context` of the model. `cut` counts the texts of the
    last call that were longer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str = "{text}",
        max_length: int = 128,
        context: int | None = None,
    ) -> None:
        check_template(template, max_length)
        self.tokenizer, self.max_length, self.cut = tokenizer, max_length, 0
        before, after = template.split("{text}")
        # What the tokenizer puts before any text (Llama 3: its begin-of-text token).
        self.before = list(tokenizer("").input_ids) + self._tokens(before)
        self.after = self._tokens(after)
        longest = len(self.before) + max_length + len(self.after)
        if context is not None and longest > context:
            raise ValueError(
                f"a row may have {longest} tokens (max_length {max_length} and the "
                f"template's {longest - max_length}), but the model reads {context}: "
                f"set max_length to {context - longest + max_length} or less"
            )

    def __call__(self, texts: Iterable[str]) -> list[list[int]]:
        """Token ids of each text in its template; lists of different lengths."""
        if not (texts := check_texts(texts)):
            return []
        bodies = self.tokenizer(
            texts,
            add_special_tokens=False,
            truncation=True,
            max_length=self.max_length + 1,
        ).input_ids
        self.cut = sum(len(body) > self.max_length for body in bodies)
        return [self.before + b[: self.max_length] + self.after for b in bodies]

    def _tokens(self, words: str) -> list[int]:
        if not words:
            return []
        return list(self.tokenizer(words, add_special_tokens=False).input_ids)


class Padded(NamedTuple):
    """A batch of rows, filled up on the right: which rows, their tokens, their mask."""

    rows: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def longest_first(
    ids: Sequence[Sequence[int]], batch_tokens: int, pad: int
) -> Iterator[Padded]:
    """Batches of rows of like length: tensors of int64 [rows, tokens of the longest].

    At most `batch_tokens` tokens each, padding included, or one longer row. The longest
    come first: if memory is short, it shows at once.
    """
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]), reverse=True)
    while order:
        longest = len(ids[order[0]])
        size = max(1, batch_tokens // max(1, longest))
        batch, order = order[:size], order[size:]
        tokens = torch.full((len(batch), longest), pad)
        mask = torch.zeros_like(tokens)
        for line, row in enumerate(batch):
            tokens[line, : len(ids[row])] = torch.tensor(ids[row])
            mask[line, : len(ids[row])] = 1
        yield Padded(batch, tokens, mask)


def computed_once(
    texts: Sequence[str],
    kinds: Iterable[str],
    compute: Callable[[list[str]], Iterator[list[Row]]],
    *,
    folder: str,
    key: tuple[Any, ...] | None,
    title: str,
    progress: bool,
) -> dict[str, dict[str, Floats]]:
    """Results by kind and text: read from disk where they are there, else computed.

    `compute` takes the texts that lack one. The file lies in a folder of the cache and
    is named by `key`, which holds all else that changes a result; None keeps nothing.
    """
    store = None
    found: dict[str, dict[str, Floats]] = {kind: {} for kind in kinds}
    if key is not None:
        name = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        store = VectorStore(get_settings().cache / folder / f"{name}.sqlite")
        found = {kind: store.get(texts, kind) for kind in found}
    missing = [
        text
        for text in dict.fromkeys(texts)
        if any(text not in known for known in found.values())
    ]
    if missing:
        batches = compute(missing)
        # None leaves it to the library: no bar where TQDM_DISABLE says so.
        hidden = None if progress else True
        with tqdm(total=len(missing), desc=title, disable=hidden) as bar:
            for rows in store.keep(batches) if store else batches:
                for text, kind, values in rows:
                    if kind in found:
                        found[kind][text] = values
                bar.update(len({text for text, _, _ in rows}))
    return found
