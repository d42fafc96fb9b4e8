"""Read files and folders of rows as they are; what they must hold is checked elsewhere.

Files are read anew at each call: what `datasets` keeps of one folder it may return for
another of the same name, and an edited file must never serve its old rows.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import datasets
import pandas as pd
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict

Source: TypeAlias = "str | os.PathLike[str] | Dataset | DatasetDict"
KINDS = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
# A folder of so many files is not one of data: someone's home, say.
MAX_FILES = 10_000
SPLITS = re.compile("train|test|eval|val|dev", re.IGNORECASE)
# Columns of AG News as its authors gave it, without a header, and as Kaggle has it.
ORIGINAL = ["class index", "title", "description"]


class DataError(ValueError):
    """The data are not where or what they should be; the message says what to do."""


class Table(NamedTuple):
    """A split as it was read, and what is known of its columns."""

    frame: pd.DataFrame
    features: Mapping[str, Any]
    start: int = 0  # the number of the first class

    def class_names(self, column: str) -> list[str] | None:
        """Names that a column's numbers stand for, None if there are no such names."""
        feature = self.features.get(column)
        return feature.names if isinstance(feature, ClassLabel) else None


def read(source: Source) -> dict[str, Table]:
    """Read the splits of a file or a folder, or those of rows that are loaded."""
    if isinstance(source, (Dataset, DatasetDict)):
        splits = as_splits(source, "train")
        return {str(s): Table(d.to_pandas(), d.features) for s, d in splits.items()}
    path = Path(source).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise DataError(
            f"{path} does not exist, seen from {Path.cwd()}. Name a file or a folder, "
            "best by its absolute path."
        )
    return {"test" if path.stem.lower().startswith("test") else "train": _file(path)}


def as_splits(rows: Dataset | DatasetDict, name: str = "rows") -> DatasetDict:
    """Name a single split, by `name` where it has no name of its own."""
    if isinstance(rows, DatasetDict):
        return rows
    return DatasetDict({str(rows.split or name): rows})


def _folder(path: Path) -> dict[str, Table]:
    if len(list(islice(path.rglob("*"), MAX_FILES))) == MAX_FILES:
        raise DataError(
            f"{path} holds {MAX_FILES:,} files or more: name the folder of the data."
        )
    try:
        if any((path / f).is_file() for f in ("dataset_dict.json", "state.json")):
            return read(datasets.load_from_disk(str(path), keep_in_memory=True))
        # `datasets` finds the files of each split, and reads the folder's card.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            builder = datasets.load_dataset_builder(str(path), cache_dir=scratch)
        files = {str(s): map(Path, f) for s, f in builder.config.data_files.items()}
    except Exception as error:
        raise DataError(
            f"{path} can't be read as a dataset: {first_line(error)}. It should hold "
            "train and test as parquet, JSON lines or CSV files, or what save_to_disk "
            "wrote."
        ) from error
    splits = {}
    for split, names in files.items():
        parts = {name: _file(name) for name in names}
        _check_parts(path, split, list(parts))
        frame = pd.concat([part.frame for part in parts.values()], ignore_index=True)
        first = next(iter(parts.values()))
        declared = builder.info.features or {}
        splits[split] = first._replace(
            frame=frame, features={**first.features, **declared}
        )
    return splits


def _check_parts(folder: Path, split: str, files: list[Path]) -> None:
    """Refuse files that are in a split by the accident of their names."""
    card = folder / "README.md"
    if card.is_file() and "data_files" in card.read_text("utf-8", errors="ignore"):
        return
    # In a folder that has the split's name any file belongs to it.
    names = [Path(os.path.relpath(file, folder)) for file in files]
    alone = [name for name in names if not SPLITS.search(name.parent.as_posix())]
    # Parts of one split differ in their numbers alone.
    if len({re.sub(r"\d+", "0", file.name) for file in alone}) > 1:
        raise DataError(
            f"{folder}: the split '{split}' would be {' and '.join(map(str, alone))} "
            "together, for all have its name. Move away what does not belong to it, "
            "or name its files in data_files in a README.md."
        )


def _file(path: Path) -> Table:
    """Read one file; what stands in CSV stays text, be it "NA" or "1"."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise DataError(f"{path} is none of {', '.join(KINDS)}: save it as one.")
    try:
        if kind == ".parquet":
            rows = Dataset(pq.ParquetFile(path).read())
            return Table(rows.to_pandas(), rows.features)
        text = _decoded(path.read_bytes())
        return Table(_json(text.strip()), {}) if "json" in kind else _csv(text, kind)
    except Exception as error:
        raise DataError(
            f"{path} can't be read: {first_line(error)}. Save it again as a {kind} "
            "file in UTF-8; in CSV, texts with commas or quotes need quotes around "
            "them."
        ) from error


def _decoded(data: bytes) -> str:
    if b"\0" in data[:1_000]:
        raise ValueError("it is in UTF-16, or no text at all")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"its line {line} holds the byte 0x{data[error.start]:02x}, which is not "
            "UTF-8: it is in Windows-1252, perhaps"
        ) from None


def _csv(text: str, kind: str) -> Table:
    header = text.lstrip().partition("\n")[0]
    usual = "\t" if kind == ".tsv" else ","
    between = next((s for s in (usual, *";\t|,") if s in header), usual)
    options: dict[str, Any] = {"sep": between, "dtype": str, "keep_default_na": False}
    frame = pd.read_csv(io.StringIO(text), **options)
    names = [str(name).strip().lower() for name in frame.columns]
    bare = len(names) == 3 and names[0].isdecimal()
    if bare:
        frame = pd.read_csv(io.StringIO(text), names=ORIGINAL, **options)
    if len(frame) and not isinstance(frame.index, pd.RangeIndex):
        raise ValueError("its rows have more fields than its header")
    if not bare and names != ORIGINAL:
        return Table(frame, {})
    frame.columns = pd.Index(["label", "title", "text"])
    frame["text"] = frame.pop("title") + " " + frame["text"]
    return Table(frame, {}, start=1)


def _json(text: str) -> pd.DataFrame:
    if not text.startswith("["):  # an object a line, else one array of them
        text = "[" + ",\n".join(filter(str.strip, text.split("\n"))) + "]"
    return pd.DataFrame(json.loads(text), dtype=object)


def first_line(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ or (error.__context__ and not error.__suppress_context__):
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
