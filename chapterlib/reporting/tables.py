"""Tables of the book: records summed up, which method when, published figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd
import yaml

from chapterlib.plots.styles import require_columns
from chapterlib.reporting.records import RecordError, RunRecord, read
from chapterlib.settings import data_file

COLUMNS = [
    *("method", "title", "model", "labels", "seeds"),
    *("accuracy", "accuracy_min", "accuracy_max", "low", "high", "macro_f1"),
    *("fit_seconds", "predict_seconds", "trainable_parameters", "size_bytes"),
    *("test_rows", "level", "data"),
]
DECISION = [
    *("method", "data needs", "computation"),
    *("performance", "adaptability", "take it when"),
]


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
        Columns `COLUMNS`: among them `labels` (seen in training), `seeds` (how many),
        `level` (of the interval) and `data` (its name). `shown` makes it readable.

    Raises
    ------
    RecordError
        If the records are of different data or confidence levels, which no table may
        mix, or one run is there twice.

    Notes
    -----
    Two kinds of luck stand side by side and are not added up. `low` to `high` is
    the luck of the test rows: the Wilson interval of one run, and over several
    seeds the mean of the runs' bounds, since all seeds share the same test rows.
    `accuracy_min` to `accuracy_max` is the luck of the draw of train rows: the range
    over the seeds. Times are the shortest over the seeds, since other work on a machine
    only ever adds to them; other columns are means.
    """
    found = read() if records is None else records
    records = [r for r in found if data in (None, r.data.name)]
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

    One row for each of `table`, all str; "–" where a value is missing.
    """
    ranges = zip(table["accuracy_min"], table["accuracy_max"], strict=True)
    bounds = zip(table["low"], table["high"], strict=True)
    spread = [f"{low:.3f}–{high:.3f}" for low, high in ranges]
    alone = table["seeds"] == 1
    columns = {
        "Method": list(table["title"]),
        "Labels": [f"{n:,}" for n in table["labels"]],
        "Accuracy": [f"{a:.3f}" for a in table["accuracy"]],
        "Interval": [f"{low:.3f}–{high:.3f}" for low, high in bounds],
        "Seeds": [str(n) for n in table["seeds"]],
        "Range over seeds": pd.Series(spread, dtype=object).mask(alone, "–").tolist(),
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


def decision_table(table: pd.DataFrame) -> pd.DataFrame:
    """Say when to use which method, one row a method that has a record.

    Made of `records.table`, with the columns `DECISION`, all str. Times are those of
    the method's most accurate run; the performance goes from its fewest labels to that
    run. The first row is a hosted model, whether or not one was measured.
    """
    measured = ("labels", "accuracy", "fit_seconds", "predict_seconds", "test_rows")
    rows = require_columns(table, "method", *measured)
    lines = []
    for line in yaml.safe_load(data_file("decision.yaml").read_text(encoding="utf-8")):
        runs = _of(rows, line["runs"])
        if not runs.empty:
            best = runs.sort_values("accuracy").iloc[-1]
            thousand = duration(1000 * best["predict_seconds"] / best["test_rows"])
            line["computation"] = line["computation"].format(
                training=duration(best["fit_seconds"]),
                answers=f"{thousand} a thousand answers",
            )
            line["performance"] = _performance(runs, best)
        if "performance" in line:
            lines.append(line)
    return pd.DataFrame(lines, columns=DECISION)


def duration(seconds: float) -> str:
    """Write a time as readers say it; ValueError if it is negative or no number.

    Examples
    --------
    >>> duration(0.043), duration(7.5), duration(906), duration(7256)
    ('0.04 s', '7.5 s', '15 min', '2.0 h')
    """
    if not seconds >= 0:
        raise ValueError(f"seconds={seconds}: a time is at least 0.")
    # Each bound lies where the shorter unit would round up to the next one.
    for bound, text in (
        (0.01, "under 0.01 s"),
        (0.995, f"{seconds:.2f} s"),
        (9.95, f"{seconds:.1f} s"),
        (119.5, f"{seconds:.0f} s"),
        (119.5 * 60, f"{seconds / 60:.0f} min"),
    ):
        if seconds < bound:
            return text
    return f"{seconds / 3600:.1f} h"


def _of(rows: pd.DataFrame, method: str) -> pd.DataFrame:
    """Select the runs of a method and of its variants, as "zero-shot-words"."""
    slugs = rows["method"].astype(str)
    return rows[(slugs == method) | slugs.str.startswith(f"{method}-")]


def _performance(runs: pd.DataFrame, best: pd.Series) -> str:
    few = runs.sort_values("labels").iloc[0]
    if best["labels"] == 0:
        return f"{best['accuracy']:.1%}"
    last = f"{best['accuracy']:.1%} with {best['labels']:,}"
    if few["labels"] == best["labels"]:
        return f"{last} labels"
    return f"{few['accuracy']:.1%} with {few['labels']:,} labels, {last}"


def published() -> pd.DataFrame:
    """List published accuracies on the 7,600 test rows of AG News, one a row.

    Columns: `source`, `method`, `labels` (labeled train rows), `accuracy` and `sd`
    (shares; over draws of these rows, NaN where the source gives none), `url`. Test
    rows, models and parameters are others than those of the records, so no difference
    to these can be tested.

    References
    ----------
    The results archived with SetFit (L. Tunstall et al. 2022,
    https://arxiv.org/abs/2209.11055), and table 2 of X. Sun et al. (2023),
    https://arxiv.org/abs/2305.08377.
    """
    path = data_file("published.yaml")
    rows = [
        {
            "source": source["source"],
            "method": series["method"],
            "labels": point["labels"],
            "accuracy": round(point["accuracy"] / 100, 4),
            "sd": round(point.get("sd", float("nan")) / 100, 4),
            "url": source["url"],
        }
        for source in yaml.safe_load(path.read_text(encoding="utf-8"))
        for series in source["series"]
        for point in series["points"]
    ]
    return pd.DataFrame(rows)
