"""The rows of a task: from files, a folder or the Hub, checked, in one form."""

from __future__ import annotations

import difflib
import functools
import html
import math
import os
import re
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import huggingface_hub
from datasets import ClassLabel, Dataset, DatasetDict, DatasetInfo, Features, Value
from filelock import FileLock

from chapterlib.settings import data_file, get_settings
from chapterlib.tasks.files import (
    KINDS,
    DataError as DataError,
    Source as Source,
    Table,
    as_splits as as_splits,
    first_line,
    read,
)

# Of AG News: where it lies, how many rows make it whole, and what stands in for it.
HUB_ID = "fancyzhx/ag_news"
HUB_ROWS = {"train": 120_000, "test": 7_600}
SAMPLE = data_file("sample")

BUILDER = "chapterlib"
PATH = (str, os.PathLike)
WHOLE = re.compile(r"^([+-]?\d+)\.0+$")  # of tools that write class ids as 2.0
HALF = re.compile("[\ud800-\udfff]")
HALVED = "half a character (a lone surrogate)"

Origin = Literal["folder", "hub", "sample", "unknown"]


class Form(NamedTuple):
    """What a task wants of its rows: its name, its two columns and its labels."""

    name: str
    text: str
    label: str
    names: tuple[str, ...]
    parse: Callable[[str], int | None]


def load(source: Source, form: Form) -> DatasetDict:
    """Read a source and check its rows; files of the Hub are kept in the cache."""
    if not _is_hub_id(source):
        origin: Origin = "folder" if isinstance(source, PATH) else "unknown"
        return _checked(read(source), _called(source), form, origin)
    where = f"Hub dataset '{source}'"
    with _hub_folder(str(source)) as folder:
        ds = _checked(read(folder), where, form, "hub")
        if source == HUB_ID and (rows := ds.num_rows) != HUB_ROWS:
            raise DataError(f"{where} has {rows} rows, not {HUB_ROWS}: try later.")
    return ds


def load_ag_news(source: Source | None, form: Form) -> DatasetDict:
    """Load AG News from the source, the setting's or the Hub, or else the sample."""
    named = get_settings().ag_news if source is None else source
    reason = "It was asked for by name."
    if not _is_sample(named):
        try:
            ds = load(HUB_ID if named is None else named, form)
        except DataError as error:
            if named is not None:  # what was asked for is never replaced
                raise
            reason = str(error)
        else:
            if missing := [f"no split '{s}'" for s in HUB_ROWS if s not in ds]:
                raise DataError(
                    f"{_called(named)}: {' and '.join(missing)}; found: {list(ds)}. "
                    "Name the files train and test, as in train-00000.parquet."
                )
            return DatasetDict({split: ds[split] for split in HUB_ROWS})
    _tell_of_the_sample(reason)
    form = form._replace(name="chapterlib sample")
    return _checked(read(SAMPLE), str(SAMPLE), form, "sample")


def ag_news_source() -> str:
    """Name what `datasets.load_dataset` reads the rows of `AG_NEWS.load()` from.

    The setting's folder or Hub id; else what was fetched from the Hub before, or the
    Hub's dataset, if the Hub can be reached; else the folder of the sample.
    """
    settings = get_settings()
    if _is_sample(settings.ag_news):
        return str(SAMPLE)
    if settings.ag_news is not None:
        path = Path(settings.ag_news).expanduser()
        return str(path) if path.exists() else settings.ag_news
    kept = _kept(HUB_ID)
    return str(kept) if kept.is_dir() else str(SAMPLE) if unreachable() else HUB_ID


def _kept(repo_id: str) -> Path:
    return get_settings().cache / "datasets" / repo_id.replace("/", "--")


def _tell_of_the_sample(reason: str) -> None:
    """Warn in a terminal; in a notebook show a box, which no one takes for an error."""
    head = "THIS IS THE SHIPPED SAMPLE, NOT AG NEWS."
    rest = (
        f"{reason} The numbers that follow describe a few hundred invented items. For "
        "the real rows connect to the internet, or download the Hub dataset "
        f"{HUB_ID} elsewhere and set CHAPTERLIB_AG_NEWS to its folder."
    )
    ipython: Any = sys.modules.get("IPython")
    if ipython is None or not hasattr(ipython.get_ipython(), "kernel"):
        warnings.warn(f"{head} {rest}", UserWarning, stacklevel=4)
        return
    from IPython.display import HTML, display

    box = "border: 3px solid #b00020; padding: 0.5em 1em; background: #fff3f3"
    words = f"<b>{head}</b> {html.escape(rest)}"
    display(HTML(f'<div style="{box}; color: #600010">{words}</div>'))


def _called(source: Source | None) -> str:
    return str(source) if isinstance(source, PATH) else "These rows"


def _is_sample(source: Source | None) -> bool:
    if not isinstance(source, PATH):
        return False
    return source == "sample" or Path(source).expanduser().resolve() == SAMPLE.resolve()


def label_values(source: Source, column: str) -> list[str]:
    """List a source's class names, else its labels in order (of value, if numbers)."""
    found: set[str] = set()
    for split, table in read(source).items():
        if names := table.class_names(column):
            return names
        values = _column(table, column, f"{_called(source)}, split '{split}'")
        found |= {_as_text(value) for value in values}
    names = sorted(found - {""})
    whole = {WHOLE.sub(r"\1", name) for name in names}
    numbers = all(re.fullmatch(r"[+-]?\d+", name) for name in whole)
    return sorted(whole, key=int) if numbers else names


def _checked(
    tables: dict[str, Table], where: str, form: Form, origin: Origin
) -> DatasetDict:
    """Bring every split into the task's form, with lasting marks of its origin."""
    label = ClassLabel(names=list(form.names))
    info = DatasetInfo(
        features=Features({"text": Value("string"), "label": label}),
        builder_name=BUILDER,
        config_name=origin,
        dataset_name=form.name,
    )
    ds = DatasetDict()
    for split, table in tables.items():
        columns = _texts_and_ids(table, f"{where}, split '{split}'", form)
        ds[split] = Dataset.from_dict(columns, info=info, split=split)  # type: ignore[arg-type]
        absent = sorted({*range(len(form.names))} - {*columns["label"]})
        if split == "train" and absent:
            names = _listed([form.names[i] for i in absent])
            raise DataError(
                f"{where}, split 'train': no row of {names}. Add some, or drop them; "
                "if the file is only for testing, let its name begin with test."
            )
    return ds


def _texts_and_ids(table: Table, where: str, form: Form) -> dict[str, list[Any]]:
    """Check the rows of one split; messages name the first bad row, counted from 0."""
    if not (n := len(table.frame)):
        raise DataError(f"{where}: no rows. Fetch or write the split again.")
    texts = _column(table, form.text, where)
    labels = _column(table, form.label, where)

    def refuse(bad: list[int], what: str, remedy: str) -> None:
        if bad:
            rows = f"{len(bad)} of {n:,} rows {what}, the first is row {bad[0]}"
            raise DataError(f"{where}: {rows} (counted from 0). {remedy}")

    bad = [i for i, t in enumerate(texts) if not isinstance(t, str) or not t.strip()]
    refuse(bad, "have no text or an empty one", "Remove such rows or fill it in.")
    bad = [i for i, text in enumerate(texts) if HALF.search(text)]
    refuse(bad, f"hold {HALVED}", "Mend or remove such rows.")
    names = table.class_names(form.label)
    spelled = [_as_text(label, names) for label in labels]
    id_of = functools.cache(functools.partial(_label_id, form=form, start=table.start))
    ids = [id_of(label) for label in spelled]
    unknown = [i for i, label_id in enumerate(ids) if label_id is None]
    if unknown:
        raw, label = labels[unknown[0]], spelled[unknown[0]]
        shown = label if names and label else raw
        remedy = f"Its label is {shown!r}; correct it or remove such rows."
        if _as_text(raw) == str(len(form.names)):
            remedy += " Files that count the classes from 1 need 1 subtracted."
        elif close := difflib.get_close_matches(label, form.names, 1):
            remedy += f" Should it be {close[0]!r}?"
        refuse(unknown, f"have a label that is none of {_listed(form.names)}", remedy)
    return {"text": texts, "label": ids}


def _column(table: Table, name: str, where: str) -> list[Any]:
    if name not in table.frame:
        raise DataError(
            f"{where}: no column {name!r}; there are {list(table.frame)}. Name the "
            "columns as the task does (in CSV in the first line), or its text_column "
            "and label_column as they are named."
        )
    return table.frame[name].tolist()


def _as_text(label: Any, names: Sequence[str] | None = None) -> str:
    """Spell a label that may be a number; "" for one that is missing or has no name."""
    if label is None or (isinstance(label, float) and math.isnan(label)):
        return ""
    if isinstance(label, float) and label.is_integer():
        label = int(label)
    if names is not None and not isinstance(label, str):
        return names[label] if label in range(len(names)) else ""
    return str(label).strip()


def _label_id(label: str, form: Form, start: int) -> int | None:
    """Read a name, or a class id where no name is itself a number."""
    whole = WHOLE.sub(r"\1", label)
    for spelled in (label, whole):
        if spelled in form.names:
            return form.names.index(spelled)
    if whole.isdecimal() and not any(name.isdecimal() for name in form.names):
        place = int(whole) - start
        return place if place in range(len(form.names)) else None
    return form.parse(label)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _is_hub_id(named: Source) -> bool:
    """Tell an id from a path; a name that fits neither is an error."""
    if not isinstance(named, str) or Path(named).expanduser().exists():
        return False
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", named):
        return Path(named).suffix.lower() not in KINDS
    if re.fullmatch(r"[\w-]+", named):
        # `datasets` would take whatever is cached under that short name.
        raise DataError(
            f"There is no folder '{named}' in {Path.cwd()}, and a Hub dataset needs "
            f"its full name, as in '{HUB_ID}'. Name one of these."
        )
    return False


@contextmanager
def _hub_folder(repo_id: str) -> Iterator[Path]:
    """Give the files of a Hub dataset; they are kept where reading them succeeds."""
    settings = get_settings()
    kept = _kept(repo_id)
    if kept.is_dir():
        yield kept
        return
    if reason := unreachable():
        raise DataError(f"The Hub dataset '{repo_id}' can't be fetched: {reason}.")
    folder, secret = kept.with_name(f"part-{kept.name}"), settings.hf_token
    with ExitStack() as stack:
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(settings.cache / "datasets.lock"))
        except OSError as error:
            raise DataError(
                f"The cache folder {settings.cache} can't be used ({error}). Set "
                "CHAPTERLIB_CACHE to a folder that you can write to."
            ) from error
        if kept.is_dir():  # another process was quicker
            yield kept
            return
        for old in (folder, *kept.parent.glob("scratch-*")):  # of one that was killed
            shutil.rmtree(old, ignore_errors=True)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        token = secret.get_secret_value() if secret else None
        try:
            huggingface_hub.snapshot_download(
                repo_id, repo_type="dataset", local_dir=folder, token=token
            )
        except Exception as error:  # each transport has its own errors
            raise DataError(
                f"The Hub dataset '{repo_id}' can't be fetched: {first_line(error)}. "
                "Check its name, your connection and, if private, HF_TOKEN."
            ) from error
        yield folder
        folder.rename(kept)


def unreachable(seconds: float = 3.0) -> str | None:
    """Say why the Hub can't be reached, or None; takes a second more at most."""
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
            outcome.append(f"no connection to {url} ({first_line(error)})")

    # Name resolution knows no time limit, and the Hub's client would retry for long.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return outcome[0] if outcome else f"{url} did not answer in {seconds + 1:.0f} s"
