"""The runner of measurements: plans, skips what is current, writes true records."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from datasets import DatasetDict, concatenate_datasets
from fault_server import FaultServer
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier

from chapterlib.__main__ import main
from chapterlib.classifiers.neighbors import FewShotScorer, NeighborVote
from chapterlib.classifiers.prompt import PromptClassifier
from chapterlib.classifiers.scoring import LabelScorer
from chapterlib.prompting import chat_models
from chapterlib.reporting import methods, records, runs


class Broken(DummyClassifier):
    """Fails when it is asked."""

    def predict(self, texts: Any) -> Any:
        raise ValueError("the key was refused")


@pytest.fixture(autouse=True)
def small(tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny model, a tiny ladder of budgets and a folder for the records."""
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(tiny_llama))
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float32")
    monkeypatch.setattr(runs, "PER_CLASS", (5, 1000, None))
    monkeypatch.setattr(runs, "SEEDS_UP_TO", 5)
    (tmp_path / "results").mkdir()
    return tmp_path / "results"


def test_the_plan_fits_the_data(tiny_news: DatasetDict) -> None:
    learned = ["majority", "tfidf", "probe"]
    listed = [str(run) for run in runs.plan(tiny_news, learned)]
    assert listed == [
        *(f"{slug}, 5 a class, seed {s}" for slug in ("tfidf", "probe") for s in "012"),
        "majority, all rows, seed 0",
        "tfidf, all rows, seed 0",
        "probe, all rows, seed 0",
    ]
    assert len(runs.plan(tiny_news, ["majority"])) == 1
    (zero,) = runs.plan(tiny_news, ["zero-shot"])
    assert str(zero) == "zero-shot, no rows, seed 0"
    every = runs.plan(tiny_news)
    assert str(every[0]) == str(zero)
    assert {run.method.slug for run in every} <= {m.slug for m in methods.METHODS}
    assert len({(run.method.slug, run.per_class, run.seed) for run in every}) == len(
        every
    )
    with pytest.raises(ValueError, match="no method nonsense: there are majority"):
        runs.plan(tiny_news, ["nonsense"])


def test_records_hold_what_was_predicted(small: Path, tiny_news: DatasetDict) -> None:
    learned = ["majority", "tfidf", "probe"]
    written = runs.measure_all(tiny_news, small, only=learned)
    assert len(written) == 9
    found = records.read(small)
    for record in found:
        record.recompute(tiny_news["test"]["label"])
    probe = next(r for r in found if r.method == "probe" and r.data.n_train == 24)
    assert probe.model == "tiny-llama"
    assert probe.trainable_parameters == 4 * (64 + 1)
    assert probe.size_bytes
    assert min(probe.fit_seconds, probe.peak_memory_bytes) > 0
    majority = next(r for r in found if r.method == "majority")
    assert majority.model is None
    assert majority.metrics.accuracy == 0.25
    draws = [r.data.train_fingerprint for r in found if r.data.per_class == 5]
    assert len(set(draws)) == 3  # a draw a seed, the same for every method


def test_what_is_current_is_not_run_again(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = runs.measure_all(tiny_news, small, only=["majority", "tfidf"])
    assert runs.measure_all(tiny_news, small, only=["majority", "tfidf"]) == []
    first[0].unlink()
    assert runs.measure_all(tiny_news, small, only=["majority", "tfidf"]) == first[:1]
    forced = runs.measure_all(tiny_news, small, only=["majority"], force=True)
    assert len(forced) == 1
    # Other rows make every record one of something else.
    double = concatenate_datasets([tiny_news["test"], tiny_news["test"]])
    other = DatasetDict(train=tiny_news["train"], test=double)
    assert len(runs.measure_all(other, small, only=["majority"])) == 1


def test_a_run_that_fails_stops_no_other(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(seed: int) -> Any:
        return Broken()

    broken_one = methods.Method("broken", "Broken", broken, budgets=(5,), seeds=1)
    (majority,) = (m for m in methods.METHODS if m.slug == "majority")
    monkeypatch.setattr(runs, "METHODS", (broken_one, majority))
    with pytest.raises(runs.RunError, match=r"1 of 2 runs failed: broken, 5 a class"):
        runs.measure_all(tiny_news, small)
    assert [record.method for record in records.read(small)] == ["majority"]


def test_another_model_is_another_run(
    small: Path, tiny_news: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runs.plan(tiny_news, ["probe"])[-1]
    known = [runs.execute(run, tiny_news, rate=10.0)]
    assert runs.is_current(run, tiny_news, known)
    from tiny_llama import save_tiny_llama

    other = save_tiny_llama(tmp_path / "other", layers=1)
    monkeypatch.setenv("CHAPTERLIB_MODEL", str(other))
    assert not runs.is_current(run, tiny_news, known)


def _only(**changes: Any) -> runs.Run:
    """A run of a method of its own, on five rows a class."""
    options = {"slug": "own", "title": "Own", "make": lambda seed: LabelScorer()}
    return runs.Run(methods.Method(**{**options, **changes}), 5, 0)


# Few rows fit into what the tiny model reads: 256 tokens.
TINY = LabelScorer(
    template="{text}:",
    max_length=4,
    verbalizers=("team", "a", "of", "match"),
    progress=False,
)


def test_a_method_that_sees_no_rows_says_so(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = methods.Method(
        "own",
        "Own",
        lambda seed: clone(TINY),
        uses_model=True,
        scores=True,
        budgets=(0,),
    )
    monkeypatch.setattr(runs, "METHODS", (method,))
    (file,) = runs.measure_all(tiny_news, small)
    (record,) = records.read(small)
    assert file.name.endswith("-own-0-s0.json")
    assert record.data.labels_used == record.data.n_train == 0
    assert record.data.train_fingerprint is None
    assert record.params["verbalizers"] == ["team", "a", "of", "match"]
    assert record.predict_seconds > 0
    assert runs.measure_all(tiny_news, small) == []


def test_scores_are_timed_without_the_cache(
    tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "scoring_rate", lambda *_: 0.5)
    vote = _only(
        make=lambda seed: NeighborVote(clone(TINY), k=2), embeds=True, scores=True
    )
    record = runs.execute(vote, tiny_news, rate=0.25)
    assert record.predict_seconds == pytest.approx(16 / 0.5 + 16 / 0.25)
    assert record.fit_seconds > 20 / 0.25
    few = _only(make=lambda seed: FewShotScorer(clone(TINY)), scores=True)
    record = runs.execute(few, tiny_news, rate=0.25)
    assert record.predict_seconds == pytest.approx(16 / 0.5)
    assert record.fit_seconds < 20 / 0.25


def test_the_speed_of_scoring_is_measured(tiny_news: DatasetDict) -> None:
    texts = list(tiny_news["test"]["text"])
    assert runs.scoring_rate(TINY, texts) > 0
    few = FewShotScorer(clone(TINY)).fit(texts[:2], [0, 1])
    assert runs.scoring_rate(few, texts) > 0


class Asked(DummyClassifier):
    """A classifier that keeps account of its answers, as `PromptClassifier` does."""

    def predict(self, X: Any) -> Any:
        verdicts = ["parsed"] * (len(X) - 1) + ["refused"]
        self.answers_ = [SimpleNamespace(verdict=verdict) for verdict in verdicts]
        self.usage_ = Usage(requests=3)
        return np.array([0] * (len(X) - 1) + [-1])


@dataclass(frozen=True)
class Usage:
    requests: int


def test_what_became_of_each_article_is_recorded(
    small: Path, tiny_news: DatasetDict
) -> None:
    asked = _only(make=lambda seed: Asked(), asks=True)
    record = runs.execute(asked, tiny_news)
    assert record.params["found"] == {
        "articles": {"parsed": 15, "refused": 1},
        "usage": {"requests": 3},
    }
    assert record.metrics.answered == 15
    assert record.size_bytes is None
    assert runs.is_current(asked, tiny_news, [record])  # it is no part of the settings


def test_a_local_model_gets_no_earlier_replies(
    tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = chat_models.chat_model
    with FaultServer(lambda text: "World") as server:

        def served(provider: str, **options: Any) -> Any:
            assert provider == "local"
            url = server.base_url
            return make("openai", "m", base_url=url, api_key="none", **options)

        monkeypatch.setattr(chat_models, "chat_model", served)
        asked = _only(make=lambda seed: PromptClassifier("local"), asks=True)
        asked.estimator().predict(tiny_news["test"]["text"])
        sent = len(server.requests)
        record = runs.execute(asked, tiny_news)
        assert len(server.requests) == 2 * sent
    found: Any = record.params["found"]
    assert found["usage"]["requests"] == sent
    assert (found["usage"]["cached"], found["usage"]["usd"]) == (0, 0.0)
    assert found["usage"]["completion_tokens"] > 0
    assert (record.params["llm"], record.params["price_prompt"]) == ("local", None)


def test_a_slow_method_answers_a_sample(small: Path, tiny_news: DatasetDict) -> None:
    slow = _only(make=lambda seed: DummyClassifier(), test_per_class=2)
    record = runs.execute(slow, tiny_news)
    assert record.data.n_test == len(record.predictions) == 8
    assert runs.is_current(slow, tiny_news, [record])
    every = _only(make=lambda seed: DummyClassifier(), test_per_class=4)
    assert runs.execute(every, tiny_news).data.n_test == 16
    assert not runs.is_current(every, tiny_news, [record])


def test_finetuning_is_recorded_with_what_it_trained(
    small: Path, tiny_news: DatasetDict
) -> None:
    make = methods.finetuned(method="lora", r=2, epochs=1, progress=False)
    tuned = _only(make=make, uses_model=True)
    record = runs.execute(tuned, tiny_news)
    # Two layers of width 32 whose keys and values are 16 wide, and the head.
    adapters = 2 * 2 * ((32 + 32) + (32 + 16) + (32 + 16) + (32 + 32))
    assert record.trainable_parameters == adapters + 4 * 32
    assert record.size_bytes == 4 * record.trainable_parameters
    assert record.params["r"] == 2
    assert runs.is_current(tuned, tiny_news, [record])


class Keeping(BaseEstimator):
    """An estimator that keeps states in a folder, and tells in which it did."""

    def __init__(self, cache_prefix: bool | str = True) -> None:
        self.cache_prefix = cache_prefix

    def fit(self, X: Any, y: Any) -> Any:
        self.folder_ = self.cache_prefix
        return self


def test_a_training_is_timed_without_earlier_work() -> None:
    keeping = Keeping()
    with runs.without_earlier_work(keeping):
        assert list(Path(keeping.cache_prefix).iterdir()) == []
        keeping.fit(["a", "b"], [0, 1])
    assert keeping.cache_prefix is True
    assert not Path(keeping.folder_).exists()
    for alone in (Keeping(cache_prefix=False), DummyClassifier()):
        before = alone.get_params()
        with runs.without_earlier_work(alone):
            assert alone.get_params() == before


def test_finetuning_leaves_no_states_behind(
    tmp_path: Path, tiny_news: DatasetDict
) -> None:
    options: dict[str, Any] = {"method": "lora", "r": 2, "epochs": 1, "first_layer": 1}
    tuned = _only(make=methods.finetuned(**options, progress=False), uses_model=True)
    record = runs.execute(tuned, tiny_news)
    assert record.params["cache_prefix"] is True
    assert not (tmp_path / "cache" / "prefixes").exists()
    tuned.estimator().fit(tiny_news["test"]["text"][:], tiny_news["test"]["label"][:])
    assert (tmp_path / "cache" / "prefixes").exists()


def test_few_rows_have_a_recipe_of_their_own(tiny_news: DatasetDict) -> None:
    most: dict[str, Any] = {"make": lambda seed: DummyClassifier(strategy="uniform")}
    few = methods.Method(
        "own", "Own", **most, make_from_few=lambda s: DummyClassifier()
    )
    assert few.estimator(methods.FEW, 0).strategy == "prior"
    assert few.estimator(methods.FEW + 1, 0).strategy == "uniform"
    assert few.estimator(None, 0).strategy == "uniform"
    assert methods.Method("own", "Own", **most).estimator(1, 0).strategy == "uniform"
    record = runs.execute(runs.Run(few, 5, 0), tiny_news)
    assert record.params["strategy"] == "prior"
    assert runs.is_current(runs.Run(few, 5, 0), tiny_news, [record])


def test_a_model_runs_in_a_process_of_its_own(
    small: Path, tiny_news: DatasetDict, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(run: runs.Run, *_: Any) -> Any:
        raise AssertionError(f"{run} is run here")

    monkeypatch.setattr(runs, "execute", execute)
    other = runs.plan(tiny_news, ["probe"])[-1]
    assert other.name == ("probe", None, 0)
    monkeypatch.setattr(runs, "plan", lambda *_: [other])
    assert len(runs.measure_all(tiny_news, small, one_process=False)) == 1
    (record,) = records.read(small)
    assert record.model == "tiny-llama"
    record.recompute(tiny_news["test"]["label"])
    monkeypatch.setattr(runs, "plan", lambda *_: [_only()])
    with pytest.raises(runs.RunError, match="own, 5 a class, seed 0 is run here"):
        runs.measure_all(tiny_news, small, one_process=False)


class Resumed(DummyClassifier):
    """A classifier that took up its training after three quarters of the steps."""

    resumed_from_ = 75
    history_ = ({"step": 100},)

    def fit(self, X: Any, y: Any) -> Any:
        time.sleep(0.2)
        return super().fit(X, y)


def test_the_time_of_a_resumed_training_is_that_of_the_whole(
    small: Path, tiny_news: DatasetDict
) -> None:
    record = runs.execute(_only(make=lambda seed: Resumed()), tiny_news)
    assert record.fit_seconds > 4 * 0.2


def test_embedding_time_is_reckoned(tiny_news: DatasetDict) -> None:
    assert runs.embedding_rate(tiny_news) > 0
    run = runs.plan(tiny_news, ["probe"])[-1]
    record = runs.execute(run, tiny_news, rate=0.5)
    assert record.fit_seconds > 24 / 0.5
    assert record.predict_seconds > 16 / 0.5


def test_the_baseline_learns(tiny_news: DatasetDict) -> None:
    train = tiny_news["train"]
    fitted = methods.tfidf_classifier().fit(train["text"], train["label"])
    assert fitted.score(train["text"], train["label"]) > 0.9
    np.testing.assert_allclose(fitted.predict_proba(train["text"]).sum(1), 1)


def test_the_command_lists_and_measures(
    small: Path,
    tiny_news: DatasetDict,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str | None] = []

    def load(rows: str | None = None) -> DatasetDict:
        asked.append(rows)
        return tiny_news

    monkeypatch.setattr(runs.data, "load_ag_news", load)
    arguments = ["--only", "majority", "--results", str(small)]
    main(["measure", *arguments, "--list"])
    assert "to do    majority, all rows, seed 0" in capsys.readouterr().out
    main(["measure", *arguments])
    assert "1 records written" in capsys.readouterr().out
    main(["measure", *arguments, "--list", "--all-rows"])
    assert "current  majority" in capsys.readouterr().out
    assert asked == ["book", "book", None]
