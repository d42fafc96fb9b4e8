"""Texts to batches of tokens: encode, order, pad, count what was cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from chapterlib.inputs import check_template, check_texts

# Batches drawn at random that are sorted by length together: enough for like
# lengths in a batch, few enough for other neighbors in every epoch.
GROUP = 20


class Encoder:
    """Put a text into its template and turn it into token ids.

    Only the text is cut where it is too long, never the words around it: the model
    reads its answer at the last token, which has to be the same in every row.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
    template : str
        With ``{text}`` exactly once.
    max_length : int
        Tokens of a text that are read.
    context : int, optional
        Tokens that the model can read at all.

    Raises
    ------
    ValueError
        If the template has not one place for the text, or a row could be longer than
        the context.

    Attributes
    ----------
    cut : int
        Texts of the last call that were longer than `max_length`.
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

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text in its template; lists of different lengths."""
        check_texts(texts)
        if not len(texts):
            return []
        bodies = self.tokenizer(
            list(texts),
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
    """A batch of rows, filled up on the right: their numbers, tokens and mask."""

    rows: list[int]
    input_ids: torch.Tensor
    attention_mask: torch.Tensor


def longest_first(
    ids: Sequence[Sequence[int]], batch_tokens: int, pad: int
) -> Iterator[Padded]:
    """Batches for a pass without gradients: rows of like length, the longest first.

    If memory is short, it shows at once.

    Parameters
    ----------
    ids : sequence of lists of int
        Encoded rows.
    batch_tokens : int
        Tokens in a batch, padding included; a longer row is a batch of its own.
    pad : int
        Token that rows are filled up with.

    Yields
    ------
    Padded
        Tensors of int64 [rows of the batch, tokens of the longest].
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


class Rows(Sized):
    """Encoded rows with their labels, as `transformers.Trainer` reads a dataset."""

    def __init__(
        self, ids: Sequence[Sequence[int]], labels: Sequence[int] | None = None
    ) -> None:
        self.ids, self.labels = ids, labels

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        """Return one row, unpadded."""
        found: dict[str, Any] = {"input_ids": list(self.ids[row])}
        if self.labels is not None:
            found["labels"] = int(self.labels[row])
        return found


class EpochOrder(Sampler[int]):
    """The order of rows, another one every epoch, and nothing but seed and epoch in it.

    So an interrupted epoch goes on with the rows that it still lacks, and several
    processes agree on the order without a word between them.

    Parameters
    ----------
    lengths : sequence of int
        Tokens of each row.
    batch_size : int
        Rows of a batch, over all processes.
    seed : int
    by_length : bool
        Put rows of like length into a batch, and the batches in random order.

    Attributes
    ----------
    epoch : int
        Which order is given; set it before an epoch starts.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        batch_size: int,
        seed: int = 0,
        *,
        by_length: bool = True,
    ) -> None:
        self.lengths = np.asarray(lengths)
        self.batch_size, self.seed, self.by_length = batch_size, seed, by_length
        self.epoch = 0

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        """Give the rows' numbers in the order of this epoch."""
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(len(self.lengths))
        if self.by_length:
            size = self.batch_size * GROUP
            batches, rest = [], []
            for start in range(0, len(order), size):
                group = order[start : start + size]
                group = group[np.argsort(self.lengths[group], kind="stable")]
                whole = len(group) - len(group) % self.batch_size
                batches += list(group[:whole].reshape(-1, self.batch_size))
                rest += list(group[whole:])
            shuffled = [batches[i] for i in rng.permutation(len(batches))]
            # The incomplete batch has to come last: the loader cuts by count.
            order = np.concatenate([*shuffled, np.array(rest, dtype=int)])
        return iter(order.tolist())
