"""Under which environment the notebooks run, and when their stored runs are void."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import notebook_runs
import pytest


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a checkout with one module and one record, and no data beside it."""
    root = tmp_path / "checkout"
    (root / "chapterlib" / "data_files").mkdir(parents=True)
    (root / "chapterlib" / "data.py").write_text("A = 1\n")
    (root / "results").mkdir()
    (root / "results" / "run.json").write_text("{}")
    (root / "constraints.txt").write_text("torch==2\n")
    monkeypatch.setattr(notebook_runs, "ROOT", root)
    monkeypatch.setattr(
        notebook_runs, "SHARED_AG_NEWS", tmp_path / "shared" / "ag_news"
    )
    monkeypatch.chdir(root)
    return root


def test_progress_bars_are_quiet(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "sample")
    environment = notebook_runs.execution_environment()

    assert environment["TQDM_DISABLE"] == "1"
    assert environment["TRANSFORMERS_VERBOSITY"] == "error"


def test_a_setting_wins_and_becomes_absolute(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (checkout.parent / "mine").mkdir()
    (checkout.parent / "shared" / "ag_news").mkdir(parents=True)
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", "../mine")
    environment = notebook_runs.execution_environment()

    # notebooks run in another folder: a relative path would mean another place there
    assert environment["CHAPTERLIB_AG_NEWS"] == str(checkout.parent / "mine")


@pytest.mark.parametrize("named", ["sample", "someone/ag_news"])
def test_what_is_no_folder_stays_as_it_is(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("CHAPTERLIB_AG_NEWS", named)
    assert notebook_runs.execution_environment()["CHAPTERLIB_AG_NEWS"] == named


def test_data_beside_the_checkout_are_found(checkout: Path) -> None:
    beside = checkout.parent / "shared" / "ag_news"
    beside.mkdir(parents=True)
    environment = notebook_runs.execution_environment()

    assert environment["CHAPTERLIB_AG_NEWS"] == str(beside)


def test_without_folder_and_hub_it_is_the_sample(checkout: Path) -> None:
    environment = notebook_runs.execution_environment()

    assert environment["CHAPTERLIB_AG_NEWS"] == "sample"


def test_the_same_state_has_the_same_cache(checkout: Path) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    folder = notebook_runs.cache_folder(environment)

    assert folder == notebook_runs.cache_folder(environment)
    assert folder.parent == checkout / ".jupyter_cache"


def test_where_the_cache_lies_does_not_matter(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    before = notebook_runs.cache_folder(environment)
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "elsewhere"))

    assert notebook_runs.cache_folder(environment) == before


CHANGES: dict[str, Callable[[Path], object]] = {
    "module": lambda root: (root / "chapterlib/data.py").write_text("A = 2\n"),
    "new module": lambda root: (root / "chapterlib/new.py").write_text(""),
    "data file": lambda root: (root / "chapterlib/data_files/x.jsonl").write_text(""),
    "record": lambda root: (root / "results/run.json").write_text("[]"),
    "versions": lambda root: (root / "constraints.txt").write_text("torch==3\n"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_voids_the_stored_runs(checkout: Path, change: str) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    before = notebook_runs.cache_folder(environment)
    CHANGES[change](checkout)

    assert notebook_runs.cache_folder(environment) != before


@pytest.mark.parametrize(
    ("name", "value"),
    [("CHAPTERLIB_TIER", "t4"), ("CHAPTERLIB_SEED", "7"), ("CHAPTERLIB_X", "1")],
)
def test_a_setting_voids_the_stored_runs(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    before = notebook_runs.cache_folder(environment)
    monkeypatch.setenv(name, value)

    assert notebook_runs.cache_folder(environment) != before


def test_other_data_void_the_stored_runs(checkout: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    environment = {"CHAPTERLIB_AG_NEWS": str(folder)}
    before = notebook_runs.cache_folder(environment)
    (folder / "train.parquet").write_bytes(b"rows")

    assert notebook_runs.cache_folder(environment) != before


def test_the_sample_is_named(checkout: Path) -> None:
    environment = {"CHAPTERLIB_AG_NEWS": "sample"}
    cache = notebook_runs.cache_folder(environment)
    origin = notebook_runs.data_origin(environment, cache)

    assert origin.is_sample
    assert "480 train and 240 test rows" in origin.sentence
    assert notebook_runs.data_origin(environment, cache) == origin
