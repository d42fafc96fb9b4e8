"""The shape of AG News rows: checks that name the bad row, and one fixed form."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import datasets
import huggingface_hub
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value
from filelock import FileLock

from chapterlib.settings import data_file
from chapterlib.tasks.task import LABEL_NAMES

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


HUB_ID = "fancyzhx/ag_news"
HUB_ROWS = {"train": 120_000, "test": 7_600}
SAMPLE = data_file("sample")
# Part of every copy's name: raise it when the form of the copies changes.
COPY_VERSION = "v1"
# A folder beyond these bounds is not AG News (the full set: 30 MB in two files).
MAX_FILES, MAX_BYTES = 1_000, 2_000_000_000


def from_folder(folder: Path, cache: Path, origin: Origin = "folder") -> DatasetDict:
    """Load the rows of a folder in the Hub's layout or of `save_to_disk`.

    Parameters
    ----------
    folder : pathlib.Path
        Holds train and test as parquet, JSON lines or CSV, or a saved `DatasetDict`.
    cache : pathlib.Path
        Folder for the checked copy.
    origin : {"folder", "sample"}
        What the rows are marked with.

    Returns
    -------
    datasets.DatasetDict

    Raises
    ------
    DataError
        If the folder or a row in it is not as it should be.
    """
    key = f"{origin}-{_digest(folder)}"
    name = "chapterlib sample" if origin == "sample" else "AG News"
    return _copy(
        key, cache, lambda: checked(_read(folder, cache), str(folder), origin, name)
    )


def from_hub(repo_id: str, cache: Path, token: str | None = None) -> DatasetDict:
    """Load a Hub dataset, from the copy in the cache if there is one.

    Parameters
    ----------
    repo_id : str
        ``"owner/name"`` of a dataset.
    cache : pathlib.Path
        Folder for the download and the checked copy.
    token : str, optional
        Hub token, for private datasets.

    Returns
    -------
    datasets.DatasetDict

    Raises
    ------
    DataError
        If the Hub can't be reached, has no such dataset, or its rows are not right.
    """

    def fetch() -> DatasetDict:
        reason = unreachable()
        if reason:
            raise DataError(f"The Hub dataset '{repo_id}' can't be fetched: {reason}.")
        with _scratch(cache) as folder:
            try:
                huggingface_hub.snapshot_download(
                    repo_id, repo_type="dataset", local_dir=folder, token=token
                )
            except Exception as error:  # each transport has its own errors
                raise DataError(
                    f"The Hub dataset '{repo_id}' can't be fetched: {_first(error)}. "
                    "Check its name, your connection and, if private, HF_TOKEN."
                ) from error
            where = f"Hub dataset '{repo_id}'"
            ds = checked(_read(folder, cache), where, "hub", "AG News")
        rows = {split: ds[split].num_rows for split in ds}
        if repo_id == HUB_ID and rows != HUB_ROWS:
            raise DataError(f"{where} has {rows} rows, not {HUB_ROWS}: try later.")
        return ds

    return _copy(f"hub-{repo_id.replace('/', '--')}", cache, fetch)


def unreachable(seconds: float = 3.0) -> str | None:
    """Say why the Hub can't be reached, or None where it answers.

    One request in a thread of its own: name resolution knows no time limit, and the
    Hub's client would retry for half a minute.

    Parameters
    ----------
    seconds : float
        Limit for the connection and for the answer; one second more in all.

    Returns
    -------
    str or None
    """
    url = huggingface_hub.constants.ENDPOINT
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    outcome: list[str | None] = []

    def ask() -> None:
        try:
            answer = huggingface_hub.get_session().head(url, timeout=seconds)
            # 403 and 5xx are what proxies and captive portals answer.
            refused = answer.status_code == 403 or answer.status_code >= 500
            status = f"{url} answered with status {answer.status_code}"
            outcome.append(status if refused else None)
        except Exception as error:  # whatever goes wrong, the Hub is out of reach
            outcome.append(f"no connection to {url} ({_first(error)})")

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return outcome[0] if outcome else f"{url} did not answer in {seconds + 1:.0f} s"


def _first(error: BaseException) -> str:
    """Return the first line of the innermost cause."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__ or error
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _digest(folder: Path) -> str:
    """Return 16 hex digits that change with any file of the folder."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise DataError(
            f"{folder} {what}. Name a folder with AG News (CHAPTERLIB_AG_NEWS or "
            f"source=..., best as an absolute path), seen from {Path.cwd()}."
        )
    hasher, size, count = hashlib.sha256(), 0, 0
    for path in sorted(_files(folder)):
        size, count = size + path.stat().st_size, count + 1
        if size > MAX_BYTES or count > MAX_FILES:
            raise DataError(
                f"{folder} holds far more than AG News does. Name the folder with the "
                "data itself."
            )
        name = path.relative_to(folder).as_posix().encode()
        content = hashlib.sha256(path.read_bytes()).digest()
        hasher.update(len(name).to_bytes(8, "little") + name + content)
    return hasher.hexdigest()[:16]


def _files(folder: Path) -> Iterator[Path]:
    """Yield the folder's files, without hidden ones; stop soon in a huge folder."""
    found = 0
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not hidden:
            yield path
            found += 1
            if found > MAX_FILES:
                return


def _read(folder: Path, cache: Path) -> object:
    """Read a folder with `datasets`, without leaving anything in its caches."""
    try:
        if any((folder / f).is_file() for f in ("dataset_dict.json", "state.json")):
            return datasets.load_from_disk(str(folder), keep_in_memory=True)
        with _scratch(cache) as scratch:
            return datasets.load_dataset(
                str(folder), cache_dir=str(scratch), keep_in_memory=True
            )
    except Exception as error:
        # The library's message names no row: look at the raw tables for a better one.
        for path in sorted(folder.rglob("*.parquet")):
            split = "test" if "test" in path.name else "train"
            try:
                table = Dataset(pq.read_table(path))
            except Exception:
                continue
            checked_split(table, split, str(path))
        raise DataError(
            f"{folder} can't be read as a dataset: {_first(error)}. It should hold "
            "train and test as parquet files (data/train-*.parquet and so on) with the "
            "columns 'text' and 'label', or what save_to_disk wrote."
        ) from error


def _copy(key: str, cache: Path, read: Callable[[], DatasetDict]) -> DatasetDict:
    """Return the cached copy of this name, made by `read` where there is none."""
    safe = re.sub(r"[^\w.-]", "_", key)
    target = cache / "ag_news" / f"{COPY_VERSION}-{safe}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{target}.lock"):
            if not (target / "dataset_dict.json").is_file():
                shutil.rmtree(target, ignore_errors=True)
                with _scratch(cache) as scratch, _no_bars():
                    read().save_to_disk(str(scratch / "copy"))
                    (scratch / "copy").rename(target)
    except OSError as error:
        raise DataError(
            f"The cache folder {cache} can't be used ({error}). Set CHAPTERLIB_CACHE "
            "to a folder that you can write to."
        ) from error
    loaded = datasets.load_from_disk(str(target))
    assert isinstance(loaded, DatasetDict)
    return loaded


@contextmanager
def _scratch(cache: Path) -> Iterator[Path]:
    """Give a folder beside the copies (the same disk: renames are atomic)."""
    parent = cache / "ag_news"
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        dir=parent, prefix="scratch-", ignore_cleanup_errors=True
    ) as folder:
        yield Path(folder)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Hide the progress bars of `datasets`: this takes a moment only."""
    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
