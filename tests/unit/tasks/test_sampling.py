"""The book's rows, balanced draws, and what `describe` tells of rows."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, concatenate_datasets

from chapterlib.settings import results_folder
from chapterlib.tasks import sampling
from chapterlib.tasks.loading import DataError
from chapterlib.tasks.task import AG_NEWS, Task

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
    with pytest.raises(DataError, match=r"3 of the 24 rows .* 'train', .* 21"):
        sampling.book_rows(smaller, manifest)


def test_a_folder_without_a_manifest_uses_that_of_the_wheel(
    tiny_news: DatasetDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHAPTERLIB_RESULTS", str(tmp_path))
    monkeypatch.setattr(
        "chapterlib.tasks.sampling.shipped_folder", lambda: tmp_path / "no"
    )
    with pytest.raises(DataError, match="no manifest of the book's rows"):
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


def test_the_sample_has_none_of_the_rows_and_stays_as_it_is() -> None:
    with pytest.warns(UserWarning, match="SAMPLE"):
        sample = AG_NEWS.load("sample")
    assert sampling.book_rows(sample) is sample


def test_the_manifest_is_that_of_the_rows_at_hand(ag_news_folder: Path) -> None:
    ds = AG_NEWS.load(ag_news_folder)
    assert sampling.fingerprint(ds["test"]) == "7c34d2ad6aa9b82e"  # of the records
    assert sampling.make_manifest(ds) == json.loads(SHIPPED.read_text("utf-8"))
    picked = sampling.book_rows(ds)
    assert sampling.describe(picked) == sampling.describe(ds)


def test_rows_of_elsewhere_are_of_unknown_origin(tiny_news):
    info = sampling.describe(tiny_news)
    assert (info.origin, info.name) == ("unknown", "unknown")
    assert "unknown origin" in info._repr_html_()


def test_mixed_splits_are_of_unknown_origin(tmp_path, tiny_news):
    tiny_news.save_to_disk(tmp_path / "a")
    ds = AG_NEWS.load(tmp_path / "a")
    ds["test"] = tiny_news["test"]
    assert sampling.describe(ds).origin == "unknown"
    tiny_news.save_to_disk(tmp_path / "b")
    ds["test"] = Task("Other", AG_NEWS.labels).load(tmp_path / "b")["test"]
    assert sampling.describe(ds).name == "unknown"


def test_origin_travels(tmp_path, tiny_news):
    tiny_news.save_to_disk(tmp_path / "a")
    rows = AG_NEWS.load(tmp_path / "a")["train"]
    kept = [
        rows.shuffle(seed=1).select(range(3)),
        rows.filter(lambda row: row["label"] > 0),
        rows.map(lambda row: {"n": len(row["text"])}),
        rows.train_test_split(0.5, seed=0)["train"],
        sampling.balanced_sample(rows, 1),
    ]
    assert [sampling.describe(k).origin for k in kept] == ["folder"] * len(kept)


def test_fingerprint_ignores_storage(tiny_news):
    rows = tiny_news["train"]
    wanted = sampling.fingerprint(rows)
    halves = concatenate_datasets([rows.select(range(5)), rows.select(range(5, 24))])
    backward = (
        rows.select(range(23, -1, -1)).flatten_indices().select(range(23, -1, -1))
    )
    more = rows.add_column("extra", list(range(24))).with_format("numpy")
    assert [sampling.fingerprint(d) for d in (halves, backward, more)] == [wanted] * 3


def test_fingerprint_sees_every_change(tiny_news):
    def of(texts, labels):
        return sampling.fingerprint(Dataset.from_dict({"text": texts, "label": labels}))

    assert of(["ab", "c"], [0, 1]) != of(["a", "bc"], [0, 1])
    assert of(["a", "b"], [0, 1]) != of(["b", "a"], [1, 0])
    assert of(["a", "b"], [0, 1]) != of(["a", "b"], [1, 0])
    assert of(["1:1:a", "b"], [0, 1]) != of(["1:1:a0:1:b"], [0])
    whole = sampling.describe(tiny_news).fingerprint
    swapped = DatasetDict({"train": tiny_news["test"], "test": tiny_news["train"]})
    assert whole != sampling.describe(swapped).fingerprint
    assert len(whole) == 16
    assert int(whole, 16) >= 0


def test_fingerprint_without_label():
    with pytest.raises(DataError, match="label"):
        sampling.fingerprint(Dataset.from_dict({"text": ["a"]}))


def test_balanced_samples_are_balanced_nested_and_seeded(tiny_news):
    rows = tiny_news["train"]
    small, large = (sampling.balanced_sample(rows, n, seed=3) for n in (2, 5))
    assert sorted(small["label"][:]) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert large["text"][:8] == small["text"][:]
    assert small["label"][:] != sorted(small["label"][:])
    assert sampling.balanced_sample(rows, 2, seed=3)[:] == small[:]
    assert sampling.balanced_sample(rows, 2, seed=4)[:] != small[:]


def test_balanced_sample_without_class_names():
    rows = Dataset.from_dict({"text": list("abcd"), "label": [5, 5, 9, 9]})
    assert sorted(sampling.balanced_sample(rows, 1)["label"][:]) == [5, 9]


def test_a_balanced_sample_takes_what_there_is_where_it_may(tiny_news):
    rows = tiny_news["train"].select(range(1, 24))  # one class has a row less
    drawn = sampling.balanced_sample(rows, 100, seed=3, at_most=True)
    assert sorted(drawn["label"]) == sorted([*range(4)] * 5)
    assert drawn[:] == sampling.balanced_sample(rows, 5, seed=3)[:]
    assert sampling.balanced_sample(rows, 2, seed=3, at_most=True)[:] == drawn[:8]
    none = tiny_news["train"].filter(lambda row: row["label"] != 2)
    with pytest.raises(DataError, match="The class Business has 0 rows"):
        sampling.balanced_sample(none, 1, at_most=True)


def test_balanced_sample_of_too_many(tiny_news):
    rows = tiny_news["train"].filter(lambda row, i: i != 1, with_indices=True)
    with pytest.raises(DataError, match="Sports has 5 rows, fewer than the 6"):
        sampling.balanced_sample(rows, 6)
    with pytest.raises(DataError, match="at least 1"):
        sampling.balanced_sample(rows, 0)
