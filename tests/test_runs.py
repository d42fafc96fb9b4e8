"""The runner of measurements: plans, skips what is current, writes true records."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from datasets import DatasetDict, concatenate_datasets

from chapterlib import methods, records, runs


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
    listed = [str(run) for run in runs.plan(tiny_news)]
    assert listed == [
        *(f"{slug}, 5 a class, seed {s}" for slug in ("tfidf", "probe") for s in "012"),
        "majority, all rows, seed 0",
        "tfidf, all rows, seed 0",
        "probe, all rows, seed 0",
    ]
    assert len(runs.plan(tiny_news, ["majority"])) == 1
    with pytest.raises(ValueError, match="no method nonsense: there are majority"):
        runs.plan(tiny_news, ["nonsense"])


def test_records_hold_what_was_predicted(small: Path, tiny_news: DatasetDict) -> None:
    written = runs.measure_all(tiny_news, small)
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
    monkeypatch.setattr(runs.data, "load_ag_news", lambda: tiny_news)
    arguments = ["--only", "majority", "--results", str(small)]
    runs.main([*arguments, "--list"])
    assert "to do    majority, all rows, seed 0" in capsys.readouterr().out
    runs.main(arguments)
    assert "1 records written" in capsys.readouterr().out
    runs.main([*arguments, "--list"])
    assert "current  majority" in capsys.readouterr().out
