"""The rows that the book's records were measured on, found in any copy of AG News.

The rows themselves are not the project's to give away. ``results/rows/ag-news.json``
holds a short digest of each, in order, and its label: enough to pick the same rows out
of the full dataset. ``python -m chapterlib.bookrows`` writes it anew.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict, deque
from pathlib import Path
from typing import TypedDict

from datasets import DatasetDict

from chapterlib.rows import DataError

__all__ = ["Manifest", "make_manifest", "manifest_path", "pick", "row_key"]


class Manifest(TypedDict):
    """Of one split: the key of each row in order, and the labels as digits."""

    keys: list[str]
    labels: str


def row_key(text: str) -> str:
    """Digest a text: the same for copies that differ in case, spaces or punctuation.

    Returns
    -------
    str
        The first 16 hex digits of the sha256 of its lower-cased letters and digits.

    Examples
    --------
    >>> row_key("Oil, again!") == row_key("oil  again")
    True
    """
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
    from chapterlib.records import results_folder, shipped_folder

    name = Path("rows", "ag-news.json")
    chosen = results_folder() / name
    # A folder of the reader's own records need not have one.
    return chosen if chosen.is_file() else shipped_folder() / name


def pick(ds: DatasetDict, manifest: dict[str, Manifest] | None = None) -> DatasetDict:
    """Take the rows of the book out of a dataset that holds them, in their order.

    Parameters
    ----------
    ds : DatasetDict
        With the features of `data.load_ag_news`, say the full dataset from the Hub.
    manifest : dict, optional
        As `make_manifest` gives it; by default that of the book's records.

    Returns
    -------
    DatasetDict

    Raises
    ------
    DataError
        If rows are missing, or there is no manifest.
    """
    if manifest is None:
        path = manifest_path()
        if not path.is_file():
            raise DataError(
                f"There is no manifest of the book's rows at {path}: reinstall the "
                "package, or write one with python -m chapterlib.bookrows"
            )
        manifest = json.loads(path.read_text(encoding="utf-8"))
    picked = DatasetDict()
    for split, wanted in manifest.items():
        rows = ds[split]
        places: dict[tuple[str, int], deque[int]] = defaultdict(deque)
        # The same text may stand there twice, with two labels.
        for place, (text, label) in enumerate(
            zip(rows["text"], rows["label"], strict=True)
        ):
            places[row_key(text), label].append(place)
        found, missing = [], 0
        for key, label in zip(wanted["keys"], wanted["labels"], strict=True):
            left = places[key, int(label)]
            if left:
                found.append(left.popleft())
            else:
                missing += 1
        if missing:
            raise DataError(
                f"{missing:,} of the {len(wanted['keys']):,} rows that the book's "
                f"records were measured on are not in the split '{split}', which has "
                f"{len(rows):,}: load the full dataset (120,000 and 7,600 rows), or "
                'leave out rows="book"'
            )
        same = found == list(range(len(rows)))
        picked[split] = rows if same else rows.select(found)
    return picked


def main() -> None:
    """Write the manifest of the rows that the settings name."""
    from chapterlib.data import describe, load_ag_news
    from chapterlib.records import results_folder

    ds = load_ag_news()
    if describe(ds).is_sample:
        raise SystemExit("These are the sample's rows: set CHAPTERLIB_AG_NEWS first.")
    path = results_folder() / "rows" / "ag-news.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make_manifest(ds), indent=0) + "\n", encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
