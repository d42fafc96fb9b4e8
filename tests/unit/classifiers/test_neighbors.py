"""Few-shot classifiers: what they show the model, and how neighbors vote."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV

from chapterlib.classifiers.neighbors import FewShotScorer, NeighborVote
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting.examples import HiddenStateEmbeddings
from chapterlib.tasks.task import AG_NEWS, Task

Rows = tuple[list[str], list[int]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def scorer(tiny_llama: Path) -> LabelScorer:
    return LabelScorer(
        tiny_llama,
        template="{text}:",
        verbalizers=("team", "a", "of", "match"),
        separator="\n",
        dtype="float32",
        progress=False,
    )


@pytest.fixture
def train(tiny_news: DatasetDict) -> Rows:
    return list(tiny_news["train"]["text"]), list(tiny_news["train"]["label"])


def test_all_rows_come_before_each_text(scorer: LabelScorer) -> None:
    few = FewShotScorer(scorer).fit(["b", "a"], [1, 0])
    assert few.scorer_.prompts(["x", "y"]) == ["b: a\na: team\nx:", "b: a\na: team\ny:"]
    assert scorer.demonstrations is None
    probabilities = few.predict_proba(["x", "y"])
    assert probabilities.shape == (2, 4)
    np.testing.assert_array_equal(few.predict(["x", "y"]), probabilities.argmax(1))


def test_the_nearest_rows_come_last(scorer: LabelScorer, train: Rows) -> None:
    texts, labels = train
    few = FewShotScorer(scorer, choose="nearest", k=2).fit(texts, labels)
    (prompt,) = few.scorer_.prompts([texts[3]])
    assert prompt.count("\n") == 2
    word = scorer.words[labels[3]]
    assert prompt.endswith(f"\n{texts[3]}:{word}\n{texts[3]}:")
    many = FewShotScorer(scorer, choose="nearest", k=99).fit(texts[:3], labels[:3])
    assert many.scorer_.prompts(["x"])[0].count("\n") == 3
    assert few.predict(texts[:2]).shape == (2,)


def test_neighbors_vote_by_their_cosine(scorer: LabelScorer, train: Rows) -> None:
    texts, labels = train
    vote = NeighborVote(scorer, k=3, weight=0, smoothing=0.5).fit(texts, labels)
    names = {"model": scorer.model, "dtype": "float32", "progress": False}
    vectors = HiddenStateEmbeddings(texts, **names)
    units = vectors.matrix(texts)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    for row, text in enumerate(texts[:4]):
        cosines = units @ units[row]
        expected = np.full(4, 0.5)
        for place in np.argsort(-cosines, kind="stable")[:3]:
            expected[labels[place]] += max(0, cosines[place])
        found = vote.predict_proba([text])[0]
        np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-4)
    assert vote.predict(texts[:2]).tolist() == labels[:2]


def test_scores_weigh_the_vote(scorer: LabelScorer, train: Rows) -> None:
    texts, labels = train
    plain = NeighborVote(scorer, weight=0).fit(texts, labels).predict_proba(texts)
    mixed = NeighborVote(scorer, weight=0.5).fit(texts, labels).predict_proba(texts)
    expected = plain * np.sqrt(scorer.predict_proba(texts))
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(mixed, expected, rtol=1e-4)


@pytest.mark.parametrize("kind", [FewShotScorer, NeighborVote])
def test_they_are_scikit_learn_estimators(
    kind: Any, scorer: LabelScorer, train: Rows
) -> None:
    estimator = kind(scorer, k=1)
    twin = clone(estimator)
    assert twin.get_params()["scorer__separator"] == "\n"
    with pytest.raises(NotFittedError):
        twin.predict(["x"])
    grid = {"k": [1, 2], "scorer__calibration": ["none", "batch"]}
    search = GridSearchCV(NeighborVote(scorer), grid, cv=2).fit(*train)
    assert search.best_params_["k"] in (1, 2)
    fitted = twin.fit(*train)
    assert fitted is twin
    assert fitted.predict([]).shape == (0,)
    np.testing.assert_array_equal(fitted.classes_, np.arange(4))


def test_the_default_scorer_is_the_books() -> None:
    few = FewShotScorer().fit(["a"], [0])
    expected = LabelScorer(demonstrations=few.scorer_.demonstrations)
    assert few.scorer_.get_params() == expected.get_params()
    assert few.scorer_.task == AG_NEWS


def test_the_task_reaches_prompts_and_vectors(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(tiny_llama))
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float32")
    task = Task("Reviews", ("bad", "good"), item="review", kind="film")
    rows = ["team wins", "shares fall"], [1, 0]
    few = FewShotScorer(task=task).fit(*rows)
    sentence = "This film review is about"
    assert few.scorer_.prompts(["x"]) == [
        f"team wins\n{sentence} good\n\nshares fall\n{sentence} bad\n\nx\n{sentence}"
    ]
    for vote in (
        NeighborVote(k=1, weight=0, task=task),
        NeighborVote(LabelScorer(task=task, template="{text}:"), k=1, weight=0),
    ):
        vote.fit(*rows)
        assert vote.predict(rows[0]).tolist() == rows[1]
        assert vote.predict_proba(["x"]).shape == (1, 2)
        assert vote.neighbors_.embeddings.options["template"] == task.template


@pytest.mark.parametrize(
    ("estimator", "rows", "words"),
    [
        (FewShotScorer(choose="best"), (["a"], [0]), "'all' or 'nearest'"),
        (FewShotScorer(), (["a"], []), "1 texts and 0 labels"),
        (FewShotScorer(), ([], []), "at least one text"),
        (NeighborVote(k=0), (["a"], [0]), "at least 1"),
        (NeighborVote(weight=-1), (["a"], [0]), "not be negative"),
        (NeighborVote(smoothing=0), (["a"], [0]), "must be positive"),
        (NeighborVote(), (["a"], [7]), r"labels \[7\]"),
    ],
)
def test_bad_input_is_named(estimator: Any, rows: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        estimator.fit(*rows)
