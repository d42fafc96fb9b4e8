"""Demonstrations: read in any form, chosen as LangChain chooses them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from datasets import DatasetDict
from langchain_core.example_selectors import SemanticSimilarityExampleSelector
from langchain_core.vectorstores import InMemoryVectorStore
from transformers import AutoTokenizer

from chapterlib.models import hidden_states
from chapterlib.prompting import examples as example_module
from chapterlib.prompting.examples import (
    HiddenStateEmbeddings,
    NearestExamples,
    as_demonstration,
    completion_prompts,
)
from chapterlib.prompting.prompts import Demonstration
from chapterlib.tasks.task import AG_NEWS, Task


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def options(tiny_llama: Path) -> dict[str, Any]:
    return {"model": tiny_llama, "dtype": "float32", "progress": False}


class Pair(NamedTuple):
    text: str
    label: int


@pytest.mark.parametrize(
    "given",
    [
        {"text": "a", "label": 3},
        {"text": "a", "label": "Sci/Tech", "source": "elsewhere"},
        {"text": "a", "label": np.int64(3)},
        Demonstration("a", "science/technology"),
        Pair("a", 3),
    ],
)
def test_demonstrations_come_in_many_forms(given: Any) -> None:
    assert as_demonstration(given, AG_NEWS) == ("a", 3)


@pytest.mark.parametrize(
    ("label", "expected"), [("2", 0), ("1", 1), (1, 1), ("Zürich / Genf", 2)]
)
def test_labels_are_read_as_the_task_spells_them(label: Any, expected: int) -> None:
    task = Task("Mixed", ("2", "1", "Zürich/Genf"))
    found = as_demonstration({"text": "a", "label": label}, task)
    assert found == ("a", expected)


def test_vectors_are_those_of_embed(options: dict[str, Any]) -> None:
    texts = ["team wins", "shares fall", "team wins"]
    plain = HiddenStateEmbeddings(**options)
    expected = hidden_states.embed(texts, pooling="last", **options)
    np.testing.assert_allclose(plain.embed_documents(texts), expected)
    np.testing.assert_allclose(plain.embed_query("shares fall"), expected[1])
    assert plain.matrix(texts).dtype == np.float32
    scaled = HiddenStateEmbeddings(texts[:2], **options).matrix(texts[:2])
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(0), 1, atol=1e-3)


def test_one_reference_spreads_nothing(options: dict[str, Any]) -> None:
    vectors = HiddenStateEmbeddings(["alone"], **options)
    np.testing.assert_array_equal(vectors.embed_query("alone"), np.zeros(32))


def test_choices_are_those_of_langchain(
    options: dict[str, Any], tiny_news: DatasetDict
) -> None:
    train = tiny_news["train"]
    texts, labels = list(train["text"]), list(train["label"])
    vectors = HiddenStateEmbeddings(texts, **options)
    ours = NearestExamples(texts, labels, 3, vectors, nearest_last=False)
    theirs = SemanticSimilarityExampleSelector.from_examples(
        [{"text": t, "label": c} for t, c in zip(texts, labels, strict=True)],
        vectors,
        InMemoryVectorStore,
        k=3,
        input_keys=["text"],
    )
    for text in tiny_news["test"]["text"]:
        assert ours.select_examples({"text": text}) == theirs.select_examples(
            {"text": text}
        )
    last = NearestExamples(texts, labels, 3, vectors)
    query = {"text": texts[5]}
    assert last.select_examples(query) == ours.select_examples(query)[::-1]
    assert last.select_examples(query)[-1]["text"] == texts[5]


def test_neighbors_come_with_their_cosines(options: dict[str, Any]) -> None:
    texts = ["team wins", "shares fall", "border vote"]
    vectors = HiddenStateEmbeddings(**options)
    rows, cosines = NearestExamples(texts, [1, 2, 0], 2, vectors).neighbors(texts)
    np.testing.assert_array_equal(rows[:, 0], [0, 1, 2])
    np.testing.assert_allclose(cosines[:, 0], 1, atol=1e-5)
    assert (np.diff(cosines, axis=1) <= 0).all()


def test_an_example_can_be_added(options: dict[str, Any]) -> None:
    vectors = HiddenStateEmbeddings(**options)
    nearest = NearestExamples(["team wins"], [1], 1, vectors)
    nearest.add_example({"text": "shares fall", "label": 2})
    (found,) = nearest.select_examples({"text": "shares fall"})
    assert found == {"text": "shares fall", "label": 2}


def test_texts_are_embedded_in_one_pass(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[str]] = []
    original = hidden_states.embed

    def spy(texts: list[str], **rest: Any) -> Any:
        passes.append(texts)
        return original(texts, **rest)

    def prompts(texts: list[str], selector: Any) -> list[list[str]]:
        tokenizer = AutoTokenizer.from_pretrained(options["model"])
        style: dict[str, Any] = {"template": "{text}:", "endings": " abcd"}
        style |= {"separator": ";", "max_length": 9, "task": AG_NEWS}
        return completion_prompts(texts, tokenizer, selector, **style)

    monkeypatch.setattr(example_module, "embed", spy)
    vectors = HiddenStateEmbeddings(**options)
    examples = [{"text": "team wins", "label": 1}]
    theirs = SemanticSimilarityExampleSelector.from_examples(
        examples, vectors, InMemoryVectorStore, k=1, input_keys=["text"]
    )
    texts = ["shares fall", "border vote"]
    prompts(texts, theirs)
    assert passes == [["team wins"], texts]
    prompts([*texts, "storm"], NearestExamples(["team wins"], [1], 1, vectors))
    assert passes[2:] == [["storm"]]


def test_bad_pools_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="2 texts, but 1 labels"):
        NearestExamples(["a", "b"], [1], 1)
    with pytest.raises(ValueError, match="from 1 to 2"):
        NearestExamples(["a", "b"], [1, 2], 3)
