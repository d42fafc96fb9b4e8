"""The methods that are measured; hosted ones only where a key is set."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict
from fault_server import FaultServer
from sklearn.base import clone
from sklearn.dummy import DummyClassifier

from chapterlib.classifiers.prompt import FewShotPrompt, PromptClassifier
from chapterlib.reporting import methods, records, runs
from chapterlib.reporting.methods import hosted_methods


def test_every_method_is_an_estimator_of_its_own() -> None:
    assert len({m.slug for m in methods.METHODS}) == len(methods.METHODS)
    assert len({m.title for m in methods.METHODS}) == len(methods.METHODS)
    for method in methods.METHODS:
        for per_class in (1, None):
            estimator = method.estimator(per_class, 3)
            params = runs.plain_params(clone(estimator).get_params())
            assert params == runs.plain_params(estimator.get_params())
            assert params.get("seed", 3) == 3


def test_few_rows_have_a_recipe_of_their_own(tiny_news: DatasetDict) -> None:
    most: dict[str, Any] = {"make": lambda seed: DummyClassifier(strategy="uniform")}
    few = methods.Method(
        "own",
        "Own",
        **most,
        uses_model=False,
        make_from_few=lambda s: DummyClassifier(),
    )
    assert few.estimator(methods.FEW, 0).strategy == "prior"
    assert few.estimator(methods.FEW + 1, 0).strategy == "uniform"
    assert few.estimator(None, 0).strategy == "uniform"
    assert methods.Method("own", "Own", **most).estimator(1, 0).strategy == "uniform"
    record = runs.execute(runs.Run(few, 5, 0), tiny_news)
    assert record.params["strategy"] == "prior"
    assert runs.is_current(runs.Run(few, 5, 0), tiny_news, [record])


def test_the_baseline_learns(tiny_news: DatasetDict) -> None:
    train = tiny_news["train"]
    texts, labels = list(train["text"]), list(train["label"])
    fitted = methods.tfidf_classifier().fit(texts, labels)
    assert fitted.score(texts, labels) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(texts).sum(1), 1)


# ---- hosted models ----


KEY = "sk-planted-0123456789abcdefghij"
MODEL = "someone/Big-Model-70B"
SLUGS = ["hosted-zero-shot-big-model-70b", "hosted-few-shot-big-model-70b"]


@pytest.fixture
def labels(tiny_news: DatasetDict) -> dict[str, str]:
    """The label's name of every text."""
    names = tiny_news["train"].features["label"].names
    return {
        row["text"]: names[row["label"]]
        for split in tiny_news.values()
        for row in split
    }


@pytest.fixture
def server(
    labels: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FaultServer]:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    with FaultServer(labels.__getitem__, key=KEY, models=[MODEL]) as server:
        monkeypatch.setenv("CHAPTERLIB_LLM_BASE_URL", server.base_url)
        monkeypatch.setenv("CHAPTERLIB_LLM_MODEL", MODEL)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        yield server


def test_without_a_key_nobody_is_asked(tiny_news: DatasetDict) -> None:
    assert hosted_methods() == ()
    assert not [r for r in runs.plan(tiny_news) if r.method.slug.startswith("hosted")]


def test_a_hosted_model_gets_records_under_its_name(
    server: FaultServer,
    tiny_news: DatasetDict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(methods, "DEMONSTRATIONS", 3)
    assert [m.slug for m in hosted_methods()] == SLUGS
    (folder := tmp_path / "results").mkdir()
    planned = runs.plan(tiny_news, SLUGS)
    assert [(run.per_class, run.seed) for run in planned] == [
        (0, 0),
        *((3, seed) for seed in range(3)),
    ]
    files = runs.measure_all(tiny_news, folder, only=SLUGS)
    assert len(files) == 4
    n = len(tiny_news["test"])
    for record in records.read(folder):
        assert record.model == MODEL
        assert record.model_sha256 is None
        assert record.data.labels_used == (0 if "zero" in record.method else 12)
        assert record.metrics.accuracy == 1.0
        found: Any = record.params["found"]
        assert found["articles"] == {"parsed": n}
        assert found["usage"]["requests"] == 2  # ten articles in the first
        record.recompute(tiny_news["test"]["label"])
    assert len(server.requests) == 4 * 2
    assert runs.measure_all(tiny_news, folder, only=SLUGS) == []
    kept = [*files, *(tmp_path / "cache").rglob("*")]
    assert not [f for f in kept if f.is_file() and KEY.encode() in f.read_bytes()]


def test_every_row_is_shown_in_an_order_of_the_seed(
    server: FaultServer, tiny_news: DatasetDict
) -> None:
    train = tiny_news["train"]
    rows = list(train["text"]), list(train["label"])

    def shown(seed: int) -> list[int]:
        fitted = clone(FewShotPrompt(PromptClassifier(progress=False), seed)).fit(*rows)
        few = tiny_news["test"][:2]
        assert fitted.predict(few["text"]).tolist() == few["label"]
        assert len(fitted.answers_) == 2
        messages = server.requests[-1].body["messages"]
        asked = "\n".join(m["content"] for m in messages if m["role"] == "user")
        places = [asked.index(json.dumps(text)) for text in rows[0]]
        return sorted(range(len(places)), key=places.__getitem__)

    first, again, other = shown(0), shown(0), shown(1)
    assert first == again != other
    assert sorted(first) == list(range(len(rows[0])))
    classes = [rows[1][i] for i in first]
    assert classes != sorted(classes)


def test_bad_rows_are_refused_before_anyone_is_asked(server: FaultServer) -> None:
    with pytest.raises(ValueError, match="text 1 is ''"):
        FewShotPrompt().fit(["Rain stops play", ""], [1, 2])
    with pytest.raises(ValueError, match="2 texts, but labels of shape"):
        FewShotPrompt().fit(["Rain stops play", "Shares fall"], [1])
    assert not server.requests
