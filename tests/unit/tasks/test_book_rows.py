"""The book's rows, picked out of copies that hold more, in another order."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from chapterlib.settings import results_folder
from chapterlib.tasks import loading, sampling

SHIPPED = results_folder() / "rows" / "ag-news.json"


def test_a_key_is_that_of_letters_and_digits() -> None:
    expected = hashlib.sha256(b"wallst2bearsclawback").hexdigest()[:16]
    assert sampling.row_key("Wall St. 2: Bears\\ Claw  Back!") == expected
    assert sampling.row_key("wall st 2 bears claw black") != expected


def test_the_rows_are_found_in_a_larger_copy(tiny_news: DatasetDict) -> None:
    manifest = sampling.make_manifest(tiny_news)
    larger = DatasetDict()
    for split, rows in tiny_news.items():
        # The first text once more under another label, and what the book left out.
        first = rows[0]
        more = {
            "text": [first["text"], "Nothing that the book knows of"],
            "label": [(first["label"] + 1) % 4, 0],
        }
        extra = Dataset.from_dict(more, features=rows.features)
        larger[split] = concatenate_datasets([extra, rows]).shuffle(seed=1)
    picked = sampling.book_rows(larger, manifest)
    for split, rows in tiny_news.items():
        assert picked[split][:] == rows[:]
    assert sampling.book_rows(tiny_news, manifest)["train"] is tiny_news["train"]


def test_rows_that_are_not_there_are_counted(tiny_news: DatasetDict) -> None:
    manifest = sampling.make_manifest(tiny_news)
    smaller = DatasetDict(
        train=tiny_news["train"].select(range(3, 24)), test=tiny_news["test"]
    )
    with pytest.raises(loading.DataError, match=r"3 of the 24 rows .* 'train', .* 21"):
        sampling.book_rows(smaller, manifest)


def test_a_folder_without_a_manifest_uses_that_of_the_wheel(
    tiny_news: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr(
        "chapterlib.tasks.sampling.shipped_folder", lambda: tmp_path / "no"
    )
    with pytest.raises(loading.DataError, match="no manifest of the book's rows"):
        sampling.book_rows(tiny_news)
    path = tmp_path / "no" / "rows" / "ag-news.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(sampling.make_manifest(tiny_news)))
    assert sampling.book_rows(tiny_news) == tiny_news


def test_the_manifest_lists_the_rows_of_the_records() -> None:
    manifest = json.loads(SHIPPED.read_text(encoding="utf-8"))
    assert {split: len(part["keys"]) for split, part in manifest.items()} == {
        "train": 14_112,
        "test": 3_800,
    }
    for part in manifest.values():
        assert all(re.fullmatch("[0-9a-f]{16}", key) for key in part["keys"])
        assert len(part["labels"]) == len(part["keys"])
    assert [manifest["test"]["labels"].count(str(i)) for i in range(4)] == [950] * 4


def test_loading_picks_them(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="SAMPLE"):
        sample = sampling.load_ag_news("sample", rows="book")
    assert len(sample["train"]) == 480  # it has none of the rows, and stays as it is
    with pytest.raises(ValueError, match="rows is 'all'"):
        sampling.load_ag_news("sample", rows="all")  # type: ignore[arg-type]


def test_the_manifest_is_that_of_the_rows_at_hand(ag_news_folder: Path) -> None:
    ds = sampling.load_ag_news(ag_news_folder)
    assert sampling.make_manifest(ds) == json.loads(SHIPPED.read_text("utf-8"))
    picked = sampling.load_ag_news(ag_news_folder, rows="book")
    assert sampling.describe(picked) == sampling.describe(ds)
