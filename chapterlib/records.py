"""Records of measured runs: one JSON file each, which every quoted number is from.

`python -m chapterlib.records` prints the table of all records.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ValidationError

from chapterlib.machine import Measured, code_digest, hardware, measure, versions
from chapterlib.runrecord import (
    SCHEMA_VERSION,
    DataUsed,
    RecordError,
    RunRecord,
    Scores,
    decode_predictions,
    encode_predictions,
)
from chapterlib.summary import shown, summarize

__all__ = [
    "SCHEMA_VERSION",
    "DataUsed",
    "Measured",
    "RecordError",
    "RunRecord",
    "Scores",
    "code_digest",
    "decode_predictions",
    "encode_predictions",
    "hardware",
    "measure",
    "read",
    "results_folder",
    "shipped_folder",
    "shown",
    "table",
    "versions",
    "write",
]

AGAIN = "measure it again with `make results`"


def results_folder() -> Path:
    """Folder of the records: the setting, else the checkout's, else the wheel's.

    Returns
    -------
    Path
        `CHAPTERLIB_RESULTS`; else `results/` of the checkout that this package lies
        in; else the records that were shipped inside the installed package.
    """
    from chapterlib.settings import get_settings

    chosen = get_settings().results
    if chosen is not None:
        return chosen
    package = Path(__file__).parent
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / "results").is_dir():
        return checkout / "results"
    return shipped_folder()


def write(record: RunRecord, folder: str | Path | None = None) -> Path:
    """Write a record to its file, whole or not at all.

    Parameters
    ----------
    record : RunRecord
        Replaces an earlier record of the same data, method, train rows and seed.
    folder : path, optional
        Made where it is missing; `results_folder()` by default.

    Returns
    -------
    Path
        Of the file, named by `record.file_name`.

    Raises
    ------
    RecordError
        If the file holds a run of another model, or the default folder is that of
        an installed package, which is no place to write to.
    """
    target = Path(folder) if folder is not None else results_folder()
    if folder is None and target == shipped_folder():
        raise RecordError(
            "chapterlib is installed without a checkout, so there is no folder for "
            "new records: pass one, or set CHAPTERLIB_RESULTS."
        )
    target.mkdir(parents=True, exist_ok=True)
    path = target / record.file_name
    _refuse_other_model(record, path)
    payload = record.model_dump(mode="json")
    payload["digest"] = _digest(payload)
    text = json.dumps(
        payload, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    draft = target / f".{record.file_name}.{uuid.uuid4().hex}.tmp"
    try:
        with draft.open("x", encoding="utf-8", newline="\n") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path


def read(
    folder: str | Path | None = None, *, data: str | None = None
) -> list[RunRecord]:
    """Read every record of a folder, in the order of file names.

    Parameters
    ----------
    folder : path, optional
        `results_folder()` by default.
    data : str, optional
        Only records measured on this data, say "AG News"; all by default.

    Raises
    ------
    RecordError
        If the folder is missing, or any file is malformed, of another schema version,
        edited by hand or misnamed: the message names each such file, why, and what
        to do. None is skipped silently.
    """
    source = Path(folder) if folder is not None else results_folder()
    if not source.is_dir():
        raise RecordError(
            f"{source} is no folder: pass the folder of the records, or correct "
            "CHAPTERLIB_RESULTS."
        )
    found, problems = [], []
    for path in sorted(source.glob("[!.]*.json")):
        try:
            found.append(_read_file(path))
        except RecordError as problem:
            problems.append(str(problem))
    if problems:
        raise RecordError("\n".join(problems))
    return [record for record in found if data in (None, record.data.name)]


def table(
    records: Iterable[RunRecord] | None = None, *, data: str | None = None
) -> pd.DataFrame:
    """Compare runs: one row a method and label budget, the most accurate first.

    Parameters
    ----------
    records : iterable of RunRecord, optional
        `read()` by default.
    data : str, optional
        Only records measured on this data.

    Returns
    -------
    DataFrame
        `method`, `title`, `model`, `labels` (seen in training), `seeds` (how many),
        `accuracy`, `accuracy_min`, `accuracy_max`, `low`, `high`, `macro_f1`,
        `fit_seconds`, `predict_seconds`, `trainable_parameters`, `size_bytes`,
        `test_rows`, `level` (of the interval), `data` (its name). `shown` makes it
        readable.

    Raises
    ------
    RecordError
        If the records are of different data or confidence levels, which no table
        may mix.

    Notes
    -----
    Two kinds of luck stand side by side and are not added up. `low` to `high` is
    the luck of the test rows: the Wilson interval of one run, and over several
    seeds the mean of the runs' bounds, since all seeds share the same test rows and
    their answers may not be pooled as if there were more of them. `accuracy_min` to
    `accuracy_max` is the luck of the draw of train rows: the range over the seeds.
    Times are the shortest over the seeds, since other work on a machine, or a slower
    machine, only ever adds to them; other columns are means. Runs on different test
    rows, or of different models, stay in different rows of the table.
    """
    found = read() if records is None else records
    return summarize([r for r in found if data in (None, r.data.name)])


def shipped_folder() -> Path:
    """Folder of the records that an installed wheel carries."""
    return Path(__file__).parent / "data_files" / "results"


def _digest(payload: dict[str, Any]) -> str:
    """Of everything in the file but the digest itself: an edit shows."""
    rest = {name: value for name, value in payload.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _refuse_other_model(record: RunRecord, path: Path) -> None:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
    except (OSError, ValueError, KeyError, TypeError):
        return  # No record there, or one that is of no use: it is replaced.
    if model != record.model:
        raise RecordError(
            f"{path} holds a run of the model {model}, this one is of {record.model}: "
            "give one of the two another method name, or delete the file."
        )


def _read_file(path: Path) -> RunRecord:
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(
            f"{path} is no JSON ({error}): restore it with git, or delete it and "
            f"{AGAIN}."
        ) from error
    if not isinstance(payload, dict) or "schema_version" not in payload:
        raise RecordError(
            f"{path} is no record (it has no schema_version): move it elsewhere."
        )
    version = payload["schema_version"]
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path} has schema version {version}, and this chapterlib reads "
            f"{SCHEMA_VERSION}: install the chapterlib that wrote it, or delete the "
            f"file and {AGAIN}."
        )
    digest = payload.get("digest")
    if digest != _digest(payload):
        raise RecordError(
            f"{path} was changed after it was written (its digest is not {digest}): "
            f"restore it with git, or delete it and {AGAIN}."
        )
    del payload["digest"]
    try:
        record = RunRecord.model_validate(payload)
    except ValidationError as error:
        listed = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}"
            for e in error.errors()
        )
        raise RecordError(
            f"{path} is no valid record ({listed}): delete it and {AGAIN}."
        ) from error
    if path.name != record.file_name:
        raise RecordError(
            f"{path} holds the run {record.file_name}: give it that name, or "
            "delete the copy."
        )
    return record


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table of all records, one for each data they were measured on."""
    parser = argparse.ArgumentParser(
        prog="python -m chapterlib.records", description="Print the table of records."
    )
    parser.add_argument("folder", nargs="?", help="of the records (default: results/)")
    found = read(parser.parse_args(arguments).folder)
    if not found:
        print("No records yet: `make results` measures them.")
    for name in sorted({record.data.name for record in found}):
        print(f"{name}\n{shown(table(found, data=name)).to_string(index=False)}\n")


if __name__ == "__main__":
    main()
