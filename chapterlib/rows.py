"""The shape of AG News rows: checks that name the bad row, and one fixed form."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value

__all__ = ["LABEL_NAMES", "DataError", "Origin", "checked", "checked_split"]

LABEL_NAMES = ("World", "Sports", "Business", "Sci/Tech")
SPLITS = ("train", "test")
FEATURES = Features(
    {"text": Value("string"), "label": ClassLabel(names=list(LABEL_NAMES))}
)
BUILDER = "chapterlib"

Origin = Literal["folder", "hub", "sample", "unknown"]

_IDS = {name.casefold(): i for i, name in enumerate(LABEL_NAMES)}
# JSON and CSV files may carry the ids as text.
_IDS |= {str(i): i for i in range(len(LABEL_NAMES))}
_ALLOWED = f"0 to {len(LABEL_NAMES) - 1} or one of {', '.join(LABEL_NAMES)}"


class DataError(ValueError):
    """The data are not where or what they should be; the message says what to do."""


def _label_ids(raw: Dataset, where: str) -> list[int | None]:
    """Return a class id for each row, None where the label means nothing."""
    feature = raw.features["label"]
    values: list[Any] = raw[:]["label"]
    if isinstance(feature, ClassLabel):
        # Folders may list the four names in another order: names decide, not numbers.
        strangers = [n for n in feature.names if n.strip().casefold() not in _IDS]
        if strangers:
            raise DataError(
                f"{where}: the column 'label' has the unknown class names "
                f"{strangers}. Rename them to {', '.join(LABEL_NAMES)}."
            )
        values = [
            feature.names[v] if v is not None and 0 <= v < len(feature.names) else None
            for v in values
        ]
    ids: list[int | None] = []
    for value in values:
        if isinstance(value, str):
            ids.append(_IDS.get(value.strip().casefold()))
        elif isinstance(value, (int, float)) and value in range(len(LABEL_NAMES)):
            # Tools write class ids as 2.0 where another row of the column is empty.
            ids.append(int(value))
        else:
            ids.append(None)
    return ids


def _refuse(where: str, bad: list[int], n: int, what: str, remedy: str) -> None:
    if bad:
        count = f"{len(bad)} of {n:,} rows" if len(bad) > 1 else f"1 of {n:,} rows"
        raise DataError(f"{where}: {count} {what}, the first is row {bad[0]}. {remedy}")


def checked_split(
    raw: Dataset, split: str, where: str, info: Mapping[str, str] | None = None
) -> Dataset:
    """Check one split and bring it into the book's form, in the same order.

    Parameters
    ----------
    raw : datasets.Dataset
        Rows with `text` (str) and `label` (class ids, class names or `ClassLabel`);
        other columns are left out.
    split : str
        Name of the split, for messages and for the result.
    where : str
        Folder or Hub id that the rows came from, for messages.
    info : mapping, optional
        Fields of `datasets.DatasetInfo` that the result carries.

    Returns
    -------
    datasets.Dataset
        Features `text` (string) and `label` (`ClassLabel` of `LABEL_NAMES`).

    Raises
    ------
    DataError
        If a column is missing, there are no rows, a text is no string or empty, or a
        label is none of the four; the message names the split and the first bad row
        (counted from 0).
    """
    raw = raw.with_format(None)
    where = f"{where}, split '{split}'"
    n = raw.num_rows
    if n == 0:
        raise DataError(f"{where}: no rows. Fetch or write the split again.")
    # A column that README.md declares and the file lacks is read as nothing but None.
    filled = [c for c in raw.column_names if raw.data.column(c).null_count < n]
    missing = [c for c in ("text", "label") if c not in filled]
    if missing:
        raise DataError(
            f"{where}: no column {' and no column '.join(map(repr, missing))}, or "
            f"nothing in it; filled are {filled}. Name the columns 'text' and 'label'."
        )
    texts: list[Any] = raw[:]["text"]
    ids = _label_ids(raw, where)

    no_string = [i for i, t in enumerate(texts) if not isinstance(t, str)]
    remedy = "Remove such rows or fill in their text."
    _refuse(where, no_string, n, "have no string as text", remedy)
    empty = [i for i, t in enumerate(texts) if not t.strip()]
    _refuse(where, empty, n, "have an empty text", remedy)
    unknown = [i for i, label in enumerate(ids) if label is None]
    if unknown:
        value = raw[unknown[0]]["label"]
        what = f"have a label that is not {_ALLOWED}"
        hint = f"Its label is {value!r}; correct it or remove such rows."
        if value == len(LABEL_NAMES):
            hint += " Files that count the classes from 1 need 1 subtracted."
        _refuse(where, unknown, n, what, hint)

    return Dataset.from_dict(
        {"text": texts, "label": ids},
        info=DatasetInfo(features=FEATURES, **(info or {})),  # type: ignore[arg-type]
        split=split,  # type: ignore[arg-type]
    )


def checked(raw: object, where: str, origin: Origin, name: str) -> DatasetDict:
    """Check both splits and mark them with where they came from.

    Parameters
    ----------
    raw : datasets.DatasetDict
        What `datasets` read; splits other than train and test are left out.
    where : str
        Folder or Hub id, for messages.
    origin : {"folder", "hub", "sample"}
        Kept in `info.config_name`, so that it survives select, shuffle and map.
    name : str
        Name of the data for readers, kept in `info.dataset_name`.

    Returns
    -------
    datasets.DatasetDict
        The splits train and test, in this order.

    Raises
    ------
    DataError
        If a split is missing or a row is bad.
    """
    found = list(raw) if isinstance(raw, DatasetDict) else []
    missing = [s for s in SPLITS if s not in found]
    if missing or not isinstance(raw, DatasetDict):
        raise DataError(
            f"{where}: no split {' and no split '.join(map(repr, missing))}; found: "
            f"{found or 'a single table'}. Name the files train and test, for example "
            "data/train-00000.parquet and data/test-00000.parquet."
        )
    info = {"builder_name": BUILDER, "config_name": origin, "dataset_name": name}
    return DatasetDict({s: checked_split(raw[s], s, where, info) for s in SPLITS})
