"""Disks that are full or can't be written: what is there works, nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import record_double
from datasets import DatasetDict
from fault_server import FaultServer

from chapterlib import (
    FinetunedClassifier,
    LabelScorer,
    NeighborVote,
    ProbeClassifier,
    PromptClassifier,
)
from chapterlib.models import embedded
from chapterlib.models.embedded import EmbeddedModelError
from chapterlib.prompting.cache import ReplyCache
from chapterlib.prompting.chat_models import chat_model
from chapterlib.reporting import records
from chapterlib.reporting.records import RecordError
from chapterlib.tasks import loading
from chapterlib.tasks.files import DataError
from chapterlib.tasks.task import AG_NEWS
from chapterlib.training.saving import SavedModelError
from chapterlib.training.trainer import TrainingError

WORDS = ["the team wins", "shares fall", "minister talks", "chip probe"]
TEXTS = [f"{words} on day {i}" for i in range(6) for words in WORDS]
LABELS = [1, 2, 0, 3] * 6
NAMED = "CHAPTERLIB_CACHE"


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("this machine lets no test mount a disk")


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Mount a disk of 4 MB, which holds the cache."""
    if shutil.which("mount") is None:
        pytest.skip("there is no mount here")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder))
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(folder / "cache"))
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def lock(disk: Path) -> None:
    mount("-o", "remount,ro", str(disk))


def fill(disk: Path, leave: int = 0) -> Path:
    filler = disk / "filler"
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, shutil.disk_usage(disk).free - leave)
    return filler


@pytest.fixture
def finetuned(tiny_llama: Path) -> Callable[[], FinetunedClassifier]:
    return lambda: FinetunedClassifier(
        model=tiny_llama, epochs=2, first_layer=1, batch_size=4, progress=False
    )


def test_what_a_read_only_cache_holds_works(
    disk: Path,
    tiny_llama: Path,
    tiny_news: DatasetDict,
    finetuned: Callable[[], FinetunedClassifier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    base: dict[str, Any] = {"model": tiny_llama}
    options: dict[str, Any] = {**base, "progress": False}
    scorer = LabelScorer(verbalizers=("team", "a", "of", "match"), **options)
    replies = ReplyCache(disk / "cache" / "replies.sqlite", "one")
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(disk / "results"))
    tiny_news.save_to_disk(disk / "news")
    # As if it had been fetched.
    kept = disk / "cache" / "datasets" / "someone--news"
    shutil.copytree(disk / "news", kept)
    finetuned().fit(TEXTS, LABELS).save(disk / "saved")
    records.write(record_double.make())

    def everything(server: FaultServer, texts: list[str]) -> list[Any]:
        llm = chat_model(
            "openai", "m", base_url=server.base_url, api_key="k", cache=replies
        )
        return [
            ProbeClassifier(**options).fit(TEXTS, LABELS).predict_proba(texts),
            NeighborVote(scorer, k=3).fit(TEXTS, LABELS).predict_proba(texts),
            PromptClassifier(llm, progress=False).predict(texts),
            FinetunedClassifier.load(disk / "saved", **base).decision_function(texts),
            [AG_NEWS.load(x)["test"].num_rows for x in (disk / "news", "someone/news")],
            [record.file_name for record in records.read()],
        ]

    with FaultServer(lambda text: "Sports") as server:
        before = everything(server, TEXTS)
        sent = len(server.requests)
        lock(disk)
        for old, new in zip(before, everything(server, TEXTS), strict=True):
            np.testing.assert_array_equal(old, new)
        assert len(server.requests) == sent
        # What is new is computed and asked, and told that it can't be kept.
        with pytest.warns(RuntimeWarning, match=NAMED) as caught:
            new = everything(server, ["a new text"])
        assert str(disk / "cache") in str(caught[0].message)
        assert new[2].tolist() == [1]
        assert len(server.requests) == sent + 1


def test_what_must_be_written_names_folder_and_setting(
    disk: Path,
    finetuned: Callable[[], FinetunedClassifier],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, record = finetuned().fit(TEXTS, LABELS), record_double.make()
    monkeypatch.setattr(loading, "unreachable", lambda: None)
    lock(disk)
    for error, work, setting in (
        (TrainingError, lambda: finetuned().fit(TEXTS, LABELS), NAMED),
        (EmbeddedModelError, embedded.model_folder, NAMED),
        (DataError, lambda: AG_NEWS.load("someone/news"), NAMED),
        (SavedModelError, lambda: model.save(disk / "saved"), "another folder"),
        (
            RecordError,
            lambda: records.write(record, disk),
            "CHAPTERLIB_RESULTS",
        ),
    ):
        with pytest.raises(error, match=f"{disk}.*{setting}"):
            work()


def test_a_disk_that_fills_up_loses_no_vector_and_no_reply(
    disk: Path, tiny_llama: Path
) -> None:
    probe = ProbeClassifier(model=tiny_llama, progress=False, cache=False)
    expected = probe.fit(TEXTS, LABELS).predict_proba(TEXTS)
    fill(disk)
    with FaultServer(lambda text: "World") as server:
        llm = chat_model("openai", "m", base_url=server.base_url, api_key="k")
        with pytest.warns(RuntimeWarning, match=rf"{disk}.*{NAMED}"):
            found = probe.set_params(cache=True).fit(TEXTS, LABELS).predict_proba(TEXTS)
        with pytest.warns(RuntimeWarning, match=rf"{disk}.*{NAMED}"):
            asked = PromptClassifier(llm, progress=False).predict(TEXTS)
    np.testing.assert_array_equal(found, expected)
    assert set(asked) == {0}


@pytest.mark.parametrize("leave", [20_000, 150_000])
def test_a_run_on_a_full_disk_goes_on_when_there_is_room(
    disk: Path, leave: int, finetuned: Callable[[], FinetunedClassifier]
) -> None:
    right = finetuned().fit(TEXTS, LABELS).decision_function(TEXTS)
    shutil.rmtree(disk / "cache")
    filler = fill(disk, leave)
    with pytest.raises(TrainingError, match=rf"disk is full.*{disk}.*{NAMED}"):
        finetuned().fit(TEXTS, LABELS)
    filler.unlink()
    again = finetuned().fit(TEXTS, LABELS).decision_function(TEXTS)
    np.testing.assert_allclose(again, right, atol=1e-6)


def test_a_save_on_a_full_disk_leaves_the_old_one_whole(
    disk: Path, tiny_llama: Path, finetuned: Callable[[], FinetunedClassifier]
) -> None:
    model = finetuned().fit(TEXTS, LABELS)
    expected = model.decision_function(TEXTS)
    model.save(disk / "saved")
    fill(disk, leave=4_000)
    other = finetuned().set_params(checkpoints=disk.parent / "other", seed=1)
    other.fit(TEXTS, LABELS)
    with pytest.raises(SavedModelError, match=f"{disk / 'saved'} can't be .* whole"):
        other.save(disk / "saved")
    again = FinetunedClassifier.load(disk / "saved", model=tiny_llama)
    np.testing.assert_array_equal(again.decision_function(TEXTS), expected)
    assert not list((disk / "saved").glob(".draft-*"))
