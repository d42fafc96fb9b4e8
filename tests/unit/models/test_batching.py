"""Texts to batches: templates stay whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from chapterlib.models.batching import Encoder


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
