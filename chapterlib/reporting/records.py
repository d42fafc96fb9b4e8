"""Records of measured runs: their schema, and the JSON files that hold them.

A record says what was run, on which rows, what came out and what it cost. One that was
edited by hand, or that contradicts itself, is refused.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import string
from contextlib import suppress
from datetime import date, datetime, timezone
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from datasets import Dataset
from numpy.typing import ArrayLike, NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from chapterlib.metrics import evaluation
from chapterlib.metrics.evaluation import NO_ANSWER, Evaluation, evaluate
from chapterlib.reporting.machine import code_digest, hardware
from chapterlib.settings import (
    results_folder as results_folder,
    shipped_folder,
    versions,
)
from chapterlib.tasks.sampling import DataInfo, fingerprint

SCHEMA_VERSION: Literal[1] = 1
# A class id's digit is its place here. Only what JSON would have to escape is left out.
DIGITS = string.digits + string.ascii_lowercase + string.ascii_uppercase
DIGITS += "".join(c for c in string.punctuation if c not in '."\\')
LABELS = "labels.json"  # true labels by the fingerprint of the rows, as digits
AGAIN = "measure it again with `make results`"

Slug = Annotated[str, Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
Hex16 = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class RecordError(ValueError):
    """A record, or a file of one, that can't be trusted or mixed with others."""


def encode_predictions(y_pred: ArrayLike) -> str:
    """Write n class ids as n digits of `DIGITS`, and "." for -1, no answer.

    ValueError for a class id beyond the digits, of which there are 91.
    """
    ids = evaluation.class_ids(y_pred, "y_pred", len(DIGITS), allow_no_answer=True)
    return "".join("." if i == NO_ANSWER else DIGITS[i] for i in ids.tolist())


def decode_predictions(text: str) -> NDArray[np.int64]:
    """Read back the predictions of a record: n digits of `DIGITS` as class ids [n].

    "." is -1, no answer. ValueError names a character that stands for no prediction.
    """
    values = {".": NO_ANSWER, **{digit: i for i, digit in enumerate(DIGITS)}}
    for place, digit in enumerate(text):
        if digit not in values:
            raise ValueError(
                f"Character {place} of the predictions is {digit!r}: only 0-9, a-z, "
                "A-Z, some signs and . (no answer) stand for a prediction."
            )
    return np.array([values[digit] for digit in text], dtype=np.int64)


class _Frozen(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=()
    )


class DataUsed(_Frozen):
    """The rows of a run: where they are from, which, and how many.

    `labels_used` counts the train rows whose label the method saw, 0 for a method
    that sees none; `per_class` is the budget a class where rows were drawn so.
    """

    name: str
    origin: Literal["folder", "hub", "sample", "unknown"]
    train_fingerprint: Hex16 | None
    test_fingerprint: Hex16
    n_train: NonNegativeInt
    n_test: PositiveInt
    labels_used: NonNegativeInt
    per_class: PositiveInt | None = None
    label_names: tuple[str, ...]

    @classmethod
    def of(
        cls, info: DataInfo, train: Dataset, test: Dataset, per_class: int | None = None
    ) -> DataUsed:
        """Describe the rows that were fitted, none or some, and predicted, of a set."""
        return cls(
            name=info.name,
            origin=info.origin,
            train_fingerprint=fingerprint(train) if len(train) else None,
            test_fingerprint=fingerprint(test),
            n_train=len(train),
            n_test=len(test),
            labels_used=len(train),
            per_class=per_class,
            label_names=tuple(test.features["label"].names),
        )


class Scores(_Frozen):
    """The figures of `metrics.evaluate` that a record keeps."""

    accuracy: Share
    low: Share
    high: Share
    level: Annotated[float, Field(gt=0, lt=1)]
    macro_f1: Share
    answered: NonNegativeInt
    accuracy_answered: Share | None

    @classmethod
    def of(cls, found: Evaluation) -> Scores:
        """Keep what a record needs of an evaluation."""
        return cls(
            accuracy=found.accuracy,
            low=found.interval.low,
            high=found.interval.high,
            level=found.level,
            macro_f1=found.macro_f1,
            answered=found.answered,
            accuracy_answered=found.accuracy_answered if found.answered else None,
        )


class RunRecord(_Frozen):
    """One measured run, complete enough to be recomputed and repeated.

    `method` is a short name for files, `title` one for readers. `model` is a Hub id
    or a folder's name (None: no model), `model_sha256` that of the files it was
    loaded from, or the commit on the Hub. `predictions` holds a digit for each test
    row (`decode_predictions`). `code` is `code_digest()` when it ran. Sizes are bytes,
    durations seconds.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    method: Slug
    title: str
    model: str | None = None
    model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{40,64}$")] | None = None
    data: DataUsed
    seed: NonNegativeInt
    params: dict[str, JsonValue] = Field(default_factory=dict)
    metrics: Scores
    predictions: str
    fit_seconds: NonNegativeFloat
    predict_seconds: NonNegativeFloat
    peak_memory_bytes: NonNegativeInt
    peak_gpu_bytes: NonNegativeInt | None = None
    trainable_parameters: NonNegativeInt | None = None
    size_bytes: NonNegativeInt | None = None
    versions: dict[str, str] = Field(default_factory=versions)
    hardware: dict[str, JsonValue] = Field(default_factory=hardware)
    created: date = Field(default_factory=lambda: datetime.now(timezone.utc).date())
    code: Hex16 = Field(default_factory=code_digest)

    @classmethod
    def from_predictions(
        cls, y_true: ArrayLike, y_pred: ArrayLike, *, level: float = 0.95, **fields: Any
    ) -> RunRecord:
        """Make a record whose metrics are computed here, from the predictions.

        `y_true` and `y_pred` are class ids of shape [n_test]; -1 in y_pred is "no
        answer". `fields` are the others of the record: ValueError names a wrong one.
        """
        data = DataUsed.model_validate(fields["data"])
        found = evaluate(y_true, y_pred, data.label_names, level=level)
        text = encode_predictions(y_pred)
        return cls(metrics=Scores.of(found), predictions=text, **fields)

    def recompute(self, y_true: ArrayLike | None = None) -> Evaluation:
        """Evaluate the stored predictions anew on the test rows' labels [n_test].

        By default `true_labels`. RecordError if they give other metrics than stored.
        """
        ids = decode_predictions(self.predictions)
        y_true = true_labels(self) if y_true is None else y_true
        found = evaluate(y_true, ids, self.data.label_names, level=self.metrics.level)
        stored = self.metrics.model_dump()
        differ = [
            f"{name} (stored {stored[name]}, recomputed {value})"
            for name, value in Scores.of(found).model_dump().items()
            if not _same(stored[name], value)
        ]
        if differ:
            raise RecordError(
                f"{self.file_name}: the stored metrics are not those of the stored "
                f"predictions on these labels: {', '.join(differ)}. Pass the test "
                f"rows whose fingerprint is {self.data.test_fingerprint}, or measure "
                "the run again."
            )
        return found

    @property
    def file_name(self) -> str:
        """Name of the record's file: data, method, train rows, seed."""
        data = re.sub(r"[^a-z0-9]+", "-", self.data.name.lower()).strip("-")
        return f"{data}-{self.method}-{self.data.n_train}-s{self.seed}.json"

    @field_validator("model")
    @classmethod
    def _no_machine_path(cls, model: str | None) -> str | None:
        # Records are published: where a reader keeps a model is nobody's business.
        if model and Path(model).expanduser().is_absolute():
            return Path(model).name
        return model

    @field_validator("params", mode="before")
    @classmethod
    def _plain_json(cls, params: Any) -> Any:
        # NumPy's numbers and tuples become what will be read back.
        return json.loads(json.dumps(params, default=_plain, allow_nan=False))

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> RunRecord:
        n, scores, ids = self.data.n_test, self.metrics, self.predictions
        if len(ids) != n:
            raise ValueError(f"{len(ids)} predictions for {n} test rows")
        if decode_predictions(ids).max() >= len(self.data.label_names):
            raise ValueError("a prediction is no class of label_names")
        correct = round(scores.accuracy * n)
        answered = n - ids.count(".")
        low, high = evaluation.wilson(correct, n, scores.level)
        expected = {
            "accuracy": correct / n,
            "low": low,
            "high": high,
            "answered": answered,
            "accuracy_answered": correct / answered if answered else None,
        }
        for name, value in expected.items():
            if not _same(getattr(scores, name), value):
                raise ValueError(
                    f"metrics.{name} is {getattr(scores, name)}, but accuracy and "
                    f"predictions make it {value}"
                )
        return self


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=0, abs_tol=1e-9)


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{value!r} can't be stored in JSON: give a number, text or list")


def write(record: RunRecord, folder: str | Path | None = None) -> Path:
    """Write a record to the file `record.file_name`, whole or not at all.

    It replaces an earlier one of the same data, method, train rows and seed. The
    `folder` is made where it is missing; by default it is `results_folder()`, and
    RecordError if that is an installed package's, no place to write to.
    """
    target = Path(folder) if folder is not None else results_folder()
    if folder is None and target == shipped_folder():
        raise RecordError(
            "chapterlib is installed without a checkout, so there is no folder for "
            "new records: pass one, or set CHAPTERLIB_RESULTS."
        )
    path = target / record.file_name
    payload = record.model_dump(mode="json")
    payload["digest"] = _digest(payload)
    text = json.dumps(
        payload, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False
    )
    # Of its own name only when it is whole: a reader never meets half a record.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        target.mkdir(parents=True, exist_ok=True)
        draft.write_text(f"{text}\n", encoding="utf-8", newline="\n")
        draft.replace(path)
    except OSError as error:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise RecordError(
            f"{path} can't be written ({error}): make room on its disk, or name "
            "another folder with CHAPTERLIB_RESULTS."
        ) from error
    return path


def read(
    folder: str | Path | None = None, *, data: str | None = None
) -> list[RunRecord]:
    """Read every record of a folder, by default `results_folder()`, by file name.

    `data` keeps those that were measured on it, say "AG News".

    Raises
    ------
    RecordError
        If the folder is missing, or any file is malformed, of another schema version,
        edited by hand or misnamed: each is named, with the remedy.
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


def true_labels(record: RunRecord) -> NDArray[np.int64]:
    """Class ids [n_test] of a record's test rows; digits that lie with the records.

    RecordError if those of its rows are not there.
    """
    for folder in (results_folder(), shipped_folder()):
        with suppress(OSError, KeyError):
            known = json.loads((folder / "rows" / LABELS).read_text(encoding="utf-8"))
            return decode_predictions(known[record.data.test_fingerprint])
    raise RecordError(
        f"{record.file_name}: the labels of its test rows are not in rows/{LABELS}: "
        "hand them over, or write the file with `python -m chapterlib rows`."
    )


def _digest(payload: dict[str, Any]) -> str:
    """Of everything in the file but the digest itself: an edit shows."""
    rest = {name: value for name, value in payload.items() if name != "digest"}
    text = json.dumps(rest, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read_file(path: Path) -> RunRecord:
    mend = f"restore it with git, or delete it and {AGAIN}."
    try:
        payload = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RecordError(f"{path} is no JSON ({error}): {mend}") from error
    if not isinstance(payload, dict) or "schema_version" not in payload:
        raise RecordError(
            f"{path} is no record (it has no schema_version): move it elsewhere."
        )
    version, digest = payload["schema_version"], payload.get("digest")
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path} has schema version {version}, and this chapterlib reads "
            f"{SCHEMA_VERSION}: install the chapterlib that wrote it, or delete the "
            f"file and {AGAIN}."
        )
    if digest != _digest(payload):
        raise RecordError(
            f"{path} was changed after it was written (its digest is not {digest}): "
            f"{mend}"
        )
    del payload["digest"]
    try:
        record = RunRecord.model_validate(payload)
    except ValidationError as error:
        listed = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}"
            for e in error.errors()
        )
        raise RecordError(f"{path} is no valid record ({listed}): {mend}") from error
    if path.name != record.file_name:
        raise RecordError(
            f"{path} holds the run {record.file_name}: give it that name, or delete it."
        )
    return record
