"""Rows to batches: templates stay whole, orders are pure functions of the epoch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, strategies as st
from transformers import AutoTokenizer

from chapterlib.models.batching import Encoder
from chapterlib.training.trainer import EpochOrder, Rows


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_llama)


def test_a_text_is_cut_but_not_its_template(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, "the {text} on the", max_length=3)
    ids = encoder(["team", "a very long text about shares"])
    assert encoder.cut == 1
    after = tokenizer(" on the", add_special_tokens=False).input_ids
    assert all(row[-len(after) :] == after for row in ids)
    fixed = len(encoder.before) + len(encoder.after)
    assert len(ids[1]) == fixed + 3
    assert tokenizer.decode(ids[0]).endswith("the team on the")


def test_the_empty_list_is_no_error(tokenizer: Any) -> None:
    assert Encoder(tokenizer)([]) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"template": "no place"}, "exactly once"),
        ({"template": "{text} {text}"}, "exactly once"),
        ({"max_length": 0}, "at least 1"),
        (
            {"template": "{text} the", "max_length": 64, "context": 64},
            r"a row may have \d+ tokens .* reads 64: set max_length to \d+ or less",
        ),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], words: str, tokenizer: Any
) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(tokenizer, **options)


def test_the_length_that_the_error_names_fits(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="set max_length") as caught:
        Encoder(tokenizer, "the {text} on", 100, context=50)
    named = int(str(caught.value).split("set max_length to ")[1].split()[0])
    encoder = Encoder(tokenizer, "the {text} on", named, context=50)
    assert len(encoder(["shares fall " * 100])[0]) == 50


@pytest.mark.parametrize(
    ("texts", "words"),
    [("one text", "a list"), (["fine", ""], "text 1 is ''"), ([3], "text 0 is 3")],
)
def test_bad_texts_are_named(texts: Any, words: str, tokenizer: Any) -> None:
    with pytest.raises(ValueError, match=words):
        Encoder(tokenizer)(texts)


def test_rows_are_what_a_trainer_reads() -> None:
    rows = Rows([[1, 2], [3]], np.array([1, 0]))
    assert len(rows) == 2
    assert rows[1] == {"input_ids": [3], "labels": 0}
    assert Rows([[1]])[0] == {"input_ids": [1]}


@given(
    lengths=st.lists(st.integers(1, 100), min_size=1, max_size=200),
    batch=st.integers(1, 9),
    seed=st.integers(0, 3),
    by_length=st.booleans(),
)
def test_an_order_holds_every_row_once(
    lengths: list[int], batch: int, seed: int, by_length: bool
) -> None:
    order = EpochOrder(lengths, batch, seed, by_length=by_length)
    assert len(order) == len(lengths)
    assert sorted(order) == list(range(len(lengths)))
    again = EpochOrder(lengths, batch, seed, by_length=by_length)
    assert list(again) == list(order)
    order.epoch = again.epoch = 3
    assert list(again) == list(order)


def test_epochs_and_seeds_differ() -> None:
    lengths = list(range(1, 101))
    order = EpochOrder(lengths, 5)
    first = list(order)
    order.epoch = 1
    assert list(order) != first
    assert list(EpochOrder(lengths, 5, seed=1)) != first


def test_batches_of_like_length_need_little_padding() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(20, 120, 480)

    def padded(by_length: bool) -> int:
        order = list(EpochOrder(lengths, 16, by_length=by_length))
        parts = [lengths[order[i : i + 16]] for i in range(0, 480, 16)]
        return sum(len(part) * int(part.max()) for part in parts)

    assert padded(True) < 1.1 * lengths.sum() < padded(False)
