"""Which rows: those of the book's records, balanced draws, and what rows these are.

The records' rows are not the project's to give away: ``results/rows/ag-news.json``
holds a digest and the label of each, in order, enough to find them in any copy of AG
News. ``python -m chapterlib rows`` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from datasets import ClassLabel, Dataset, DatasetDict

from chapterlib.settings import results_folder, shipped_folder
from chapterlib.tasks.loading import BUILDER, DataError, Origin, as_splits

# Two common words a class: on train rows their mean did better than one.
AG_NEWS_WORDS = (
    ("politics", "war"),
    ("sports",),
    ("business", "finance"),
    ("technology", "science"),
)


class Manifest(TypedDict):
    """Of one split: the key of each row in order, and the labels as digits."""

    keys: list[str]
    labels: str


def row_key(text: str) -> str:
    """Digest a text's letters and digits in 16 hex digits, whatever their case."""
    kept = "".join(c for c in text.lower() if c.isalnum())
    return hashlib.sha256(kept.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def make_manifest(ds: DatasetDict) -> dict[str, Manifest]:
    """List the rows of every split, in order."""
    return {
        str(split): Manifest(
            keys=[row_key(text) for text in rows["text"]],
            labels="".join(str(label) for label in rows["label"]),
        )
        for split, rows in ds.items()
    }


def manifest_path() -> Path:
    """Where the manifest lies: beside the records of the checkout or the wheel."""
    name = Path("rows", "ag-news.json")
    chosen = results_folder() / name
    # A folder of the reader's own records need not have one.
    return chosen if chosen.is_file() else shipped_folder() / name


def book_rows(
    ds: DatasetDict, manifest: dict[str, Manifest] | None = None
) -> DatasetDict:
    """Pick the rows of the book's records out of AG News, in the records' order.

    The sample holds none of them, and is returned as it is. By default the manifest is
    that of the book's records. DataError if rows are missing, or there is no manifest.
    """
    if _origin(ds)[0] == "sample":
        return ds
    if manifest is None:
        path = manifest_path()
        if not path.is_file():
            raise DataError(
                f"There is no manifest of the book's rows at {path}: reinstall the "
                "package, or write one with python -m chapterlib rows"
            )
        manifest = json.loads(path.read_text(encoding="utf-8"))
    picked = DatasetDict()
    for split, wanted in manifest.items():
        rows = ds[split]
        places: dict[tuple[str, int], deque[int]] = defaultdict(deque)
        # The same text may stand there twice, with two labels.
        pairs = zip(rows["text"], rows["label"], strict=True)
        for place, (text, label) in enumerate(pairs):
            places[row_key(text), label].append(place)
        found, missing = [], 0
        for key, label in zip(wanted["keys"], wanted["labels"], strict=True):
            if left := places[key, int(label)]:
                found.append(left.popleft())
            else:
                missing += 1
        if missing:
            raise DataError(
                f"{missing:,} of the {len(wanted['keys']):,} rows that the book's "
                f"records were measured on are not in the split '{split}', which has "
                f"{len(rows):,}: load the full dataset (120,000 and 7,600 rows), or "
                "leave out book_rows"
            )
        same = found == list(range(len(rows)))
        picked[split] = rows if same else rows.select(found)
    return picked


@dataclass(frozen=True)
class DataInfo:
    """Which rows these are.

    Attributes
    ----------
    origin, name : str
        "folder" (files of any place), "hub", "sample" or, for rows that did not come
        from `Task.load`, "unknown"; and the name of the task.
    rows : dict of str to int
        Rows of each split.
    fingerprint : str
        16 hex digits that any change of a text, a label or their order changes.
    """

    origin: Origin
    name: str
    rows: dict[str, int]
    fingerprint: str

    @property
    def is_sample(self) -> bool:
        """Whether the rows are the shipped sample's, no AG News."""
        return self.origin == "sample"

    def _repr_html_(self) -> str:
        rows = ", ".join(f"{n:,} {escape(split)}" for split, n in self.rows.items())
        known = {
            "folder": f"{escape(self.name)} from local files",
            "hub": f"{escape(self.name)} from the Hugging Face Hub",
            "sample": "the sample shipped with chapterlib, not AG News",
        }
        name = known.get(self.origin, "rows of unknown origin")
        return (
            f"<p>Data: <b>{name}</b>; rows: {rows}; fingerprint "
            f"<code>{self.fingerprint}</code></p>"
        )


def describe(ds: DatasetDict | Dataset) -> DataInfo:
    """Tell where rows come from, how many there are, and their fingerprint in order.

    Also after select, shuffle, filter or map. DataError if a column is missing.
    """
    ds = as_splits(ds)
    origin, name = _origin(ds)
    hasher = hashlib.sha256()
    for split, rows in ds.items():
        hasher.update(f"{split}:{fingerprint(rows)};".encode())
    return DataInfo(
        origin=origin,
        name=name,
        rows={str(split): rows.num_rows for split, rows in ds.items()},
        fingerprint=hasher.hexdigest()[:16],
    )


def _origin(ds: DatasetDict) -> tuple[Origin, str]:
    """Tell origin and name; those of splits that differ in one of them are unknown."""
    infos = {
        (rows.info.builder_name, rows.info.config_name, rows.info.dataset_name)
        for rows in ds.values()
    }
    builder, origin, name = infos.pop()
    if infos or builder != BUILDER:
        return "unknown", "unknown"
    return cast(Origin, origin), str(name)


def fingerprint(dataset: Dataset) -> str:
    """Digest texts and labels, in order, in 16 hex digits.

    The start of a SHA-256 over each row's label and text, with the text's length in
    bytes before it, so that no two lists of rows are written alike. DataError if a
    column is missing.
    """
    missing = {"text", "label"} - set(dataset.column_names)
    if missing:
        raise DataError(
            f"A fingerprint needs the columns 'text' and 'label'; there is no "
            f"{sorted(missing)} among {dataset.column_names}."
        )
    hasher = hashlib.sha256()
    columns = dataset.with_format(None).select_columns(["text", "label"])
    for batch in columns.iter(batch_size=1_000):
        for text, label in zip(batch["text"], batch["label"], strict=True):
            content = text.encode("utf-8", "surrogatepass")
            hasher.update(f"{label}:{len(content)}:".encode() + content)
    return hasher.hexdigest()[:16]


def balanced_sample(
    dataset: Dataset, per_class: int, seed: int = 0, *, at_most: bool = False
) -> Dataset:
    """Draw the same number of rows of every class, in random order.

    Parameters
    ----------
    dataset : datasets.Dataset
        Rows with `label`.
    per_class : int
        Rows to draw of each class, at least 1.
    seed : int
        Seed of the draw. With one seed the sample of a larger `per_class` begins with
        the sample of a smaller one: a learning curve adds rows, it does not swap them.
    at_most : bool
        Where a class has fewer rows, draw as many of each as that one has.

    Raises
    ------
    DataError
        If a class has fewer rows than asked for, or none.
    """
    if per_class < 1:
        raise DataError(f"per_class is {per_class}; ask for at least 1 row a class.")
    labels = np.asarray(dataset.with_format(None)[:]["label"])
    feature = dataset.features["label"]
    names: Sequence[str] = [str(v) for v in np.unique(labels)]
    classes = np.unique(labels)
    if isinstance(feature, ClassLabel):
        names, classes = feature.names, np.arange(len(feature.names))
    rng = np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == c)) for c in classes]
    smallest = min(range(len(drawn)), key=lambda k: len(drawn[k]))
    if at_most and len(drawn[smallest]):
        per_class = min(per_class, len(drawn[smallest]))
    if len(drawn[smallest]) < per_class:
        raise DataError(
            f"The class {names[smallest]} has {len(drawn[smallest]):,} rows, fewer "
            f"than the {per_class:,} asked for. Ask for fewer, or give more rows."
        )
    # One row of each class a round, the rounds in order: this makes samples nested.
    rounds = np.stack([rows[:per_class] for rows in drawn], axis=1)
    order = [rng.permutation(one_round) for one_round in rounds]
    return dataset.select(np.concatenate(order))
