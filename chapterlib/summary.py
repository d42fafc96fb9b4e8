"""Run records summed up: one row a method and label budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from chapterlib.runrecord import RecordError, RunRecord

COLUMNS = [
    "method",
    "title",
    "model",
    "labels",
    "seeds",
    "accuracy",
    "accuracy_min",
    "accuracy_max",
    "low",
    "high",
    "macro_f1",
    "fit_seconds",
    "predict_seconds",
    "trainable_parameters",
    "size_bytes",
    "test_rows",
    "level",
    "data",
]


def summarize(records: Iterable[RunRecord]) -> pd.DataFrame:
    """Sum up runs as `records.table` describes.

    Parameters
    ----------
    records : iterable of RunRecord
        Of one data and one confidence level.

    Returns
    -------
    DataFrame
        Columns `COLUMNS`, the most accurate first; empty without records.

    Raises
    ------
    RecordError
        If the records are of different data or levels, or one run is there twice.
    """
    records = list(records)
    names = sorted({r.data.name for r in records})
    if len(names) > 1:
        raise RecordError(
            f"These records are of different data ({', '.join(names)}), which must "
            f"not share a table: choose one, as in table(data={names[0]!r})."
        )
    if len({r.metrics.level for r in records}) > 1:
        raise RecordError(
            "These records hold intervals of different confidence levels: choose "
            "those of one level."
        )
    groups: dict[tuple[Any, ...], list[RunRecord]] = {}
    for r in records:
        used = r.data
        key = (r.method, r.model, used.labels_used, used.n_train, used.test_fingerprint)
        groups.setdefault(key, []).append(r)
    frame = pd.DataFrame([_row(runs) for runs in groups.values()], columns=COLUMNS)
    # Whole numbers stay whole where some are missing.
    whole = {"trainable_parameters": "Int64", "size_bytes": "Int64"}
    return (
        frame.astype(whole)
        .sort_values(["accuracy", "labels", "method"], ascending=[False, True, True])
        .reset_index(drop=True)
    )


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Turn a table of `records.table` into the text that readers see.

    Parameters
    ----------
    table : DataFrame
        With the columns of `records.table`.

    Returns
    -------
    DataFrame
        Of str, one row for each of `table`; "–" where a value is missing.
    """
    several = table["seeds"] > 1
    spread = [
        f"{low:.3f}–{high:.3f}" if many else "–"
        for low, high, many in zip(
            table["accuracy_min"], table["accuracy_max"], several, strict=True
        )
    ]
    interval = [
        f"{low:.3f}–{high:.3f}"
        for low, high in zip(table["low"], table["high"], strict=True)
    ]
    columns = {
        "Method": list(table["title"]),
        "Labels": [f"{n:,}" for n in table["labels"]],
        "Accuracy": [f"{a:.3f}" for a in table["accuracy"]],
        "Interval": interval,
        "Seeds": [str(n) for n in table["seeds"]],
        "Range over seeds": spread,
        "Macro-F1": [f"{f:.3f}" for f in table["macro_f1"]],
        "Fit": [f"{s:,.1f}\N{NO-BREAK SPACE}s" for s in table["fit_seconds"]],
        "Trainable": [_scaled(n, "") for n in table["trainable_parameters"]],
        "Size": [_scaled(n, "B") for n in table["size_bytes"]],
        "Test rows": [f"{n:,}" for n in table["test_rows"]],
    }
    return pd.DataFrame(columns, dtype=object)


def _row(runs: Sequence[RunRecord]) -> dict[str, Any]:
    first = runs[0]
    if len({r.seed for r in runs}) < len(runs):
        raise RecordError(
            f"The run {first.file_name} is among the records more than once: pass "
            "each record once."
        )
    accuracies = [r.metrics.accuracy for r in runs]
    return {
        "method": first.method,
        "title": first.title,
        "model": first.model,
        "labels": first.data.labels_used,
        "seeds": len(runs),
        "accuracy": _mean(accuracies),
        "accuracy_min": min(accuracies),
        "accuracy_max": max(accuracies),
        "low": _mean([r.metrics.low for r in runs]),
        "high": _mean([r.metrics.high for r in runs]),
        "macro_f1": _mean([r.metrics.macro_f1 for r in runs]),
        # What else a machine does can only lengthen a time, as can a slower machine.
        "fit_seconds": min(r.fit_seconds for r in runs),
        "predict_seconds": min(r.predict_seconds for r in runs),
        "trainable_parameters": _whole_mean([r.trainable_parameters for r in runs]),
        "size_bytes": _whole_mean([r.size_bytes for r in runs]),
        "test_rows": first.data.n_test,
        "level": first.metrics.level,
        "data": first.data.name,
    }


def _mean(values: Sequence[float]) -> float:
    # Of equal values it must be that value: a sum of thirds would not be.
    return values[0] if len(set(values)) == 1 else sum(values) / len(values)


def _whole_mean(values: Sequence[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return round(_mean(known)) if known else None


def _scaled(value: Any, unit: str) -> str:
    """Three digits and a prefix: 134515008 becomes 135 M."""
    if pd.isna(value):
        return "–"
    number = float(value)
    for prefix in ("", "k", "M", "G"):
        if number < 999.5 or prefix == "G":
            break
        number /= 1000
    digits = f"{number:.3g}" if number < 999.5 else f"{number:.0f}"
    return f"{digits}\N{NO-BREAK SPACE}{prefix}{unit}".strip()
