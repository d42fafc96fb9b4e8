"""Run records summed up: one row a method and label budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import yaml

from chapterlib.plots.style import require_columns
from chapterlib.reporting.records import (
    RecordError,
    RunRecord,
    read,
)
from chapterlib.settings import data_file


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


class _Line(NamedTuple):
    method: str
    title: str
    data: str
    computation: Callable[[pd.Series], str]
    adaptability: str
    when: str


def _trained(best: pd.Series) -> str:
    return f"{duration(best['fit_seconds'])} to train, {_answers(best)}"


def _read(best: pd.Series) -> str:
    return f"no training; the model reads each labeled row once; {_answers(best)}"


def _asked(best: pd.Series) -> str:
    return f"no training; {_answers(best)}"


def _answers(best: pd.Series) -> str:
    thousand = duration(1000 * best["predict_seconds"] / best["test_rows"])
    return f"{thousand} a thousand answers"


LINES = (
    _Line(
        "zero-shot",
        "Label scores",
        "none",
        _asked,
        "new classes by naming words for them",
        "you have no label yet, or need a first sorting to label from",
    ),
    _Line(
        "tfidf",
        "Counted words",
        "thousands of labels",
        _trained,
        "trained anew in seconds to minutes; knows no word that it has not met",
        "you have many labels, and answers must cost next to nothing",
    ),
    _Line(
        "few-shot-vote",
        "Vote of neighbors with scores",
        "dozens of labels",
        _read,
        "rows and classes come and go without training",
        "labels are few, or change from day to day",
    ),
    _Line(
        "probe",
        "Probe on hidden states",
        "dozens of labels, better hundreds",
        _trained,
        "many tasks share one frozen model; each has its own few weights",
        "you have hundreds of labels and no GPU",
    ),
    _Line(
        "lora",
        "LoRA",
        "hundreds of labels, better thousands",
        _trained,
        "one adapter a task beside a shared model",
        "each point counts, and you can wait for training or have a GPU",
    ),
    _Line(
        "qlora",
        "QLoRA",
        "as LoRA",
        _trained,
        "as LoRA, on weights of 4 bits",
        "LoRA would suit you, but the model does not fit into memory",
    ),
    _Line(
        "full",
        "Full finetuning",
        "thousands of labels",
        _trained,
        "a whole model a task",
        "the model is small, there is one task, and a GPU",
    ),
    _Line(
        "lp-ft",
        "Full finetuning from a probe (LP-FT)",
        "as full finetuning",
        _trained,
        "as full finetuning",
        "you would finetune the whole model anyway: its head then starts well",
    ),
)
HOSTED = {
    "method": "Prompt to a hosted large model",
    "data needs": "none, or some examples",
    "computation": "none of yours; each token is paid for",
    "performance": "not measured here; published figures above",
    "adaptability": "new classes by a new prompt; the model may be withdrawn",
    "take it when": "articles are few, or classes change often",
}


def decision_table(table: pd.DataFrame) -> pd.DataFrame:
    """Say when to use which method, one row a method that has a record.

    Parameters
    ----------
    table : DataFrame
        Of `records.table`.

    Returns
    -------
    DataFrame
        Of str: `method`, `data needs`, `computation`, `performance`, `adaptability`,
        `take it when`. Times are those of the method's most accurate run; the
        performance goes from its fewest labels to that run. The first row is a hosted
        model, which stands there whether or not one was measured.

    Raises
    ------
    ValueError
        If a column is missing or no row is complete.
    """
    rows = require_columns(
        table,
        "method",
        "labels",
        "accuracy",
        "fit_seconds",
        "predict_seconds",
        "test_rows",
    )
    lines = [dict(HOSTED)]
    hosted = _of(rows, "hosted")
    if not hosted.empty:
        best = hosted.sort_values("accuracy").iloc[-1]
        lines[0]["performance"] = _performance(hosted, best)
    for line in LINES:
        runs = _of(rows, line.method)
        if runs.empty:
            continue
        best = runs.sort_values("accuracy").iloc[-1]
        lines.append(
            {
                "method": line.title,
                "data needs": line.data,
                "computation": line.computation(best),
                "performance": _performance(runs, best),
                "adaptability": line.adaptability,
                "take it when": line.when,
            }
        )
    return pd.DataFrame(lines)


def duration(seconds: float) -> str:
    """Write a time as readers say it: 0.04 s, 74 s, 15 min, 2.0 h.

    Raises
    ------
    ValueError
        If it is negative or no number.

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

    Returns
    -------
    DataFrame
        `source`, `method`, `labels` (labeled train rows), `accuracy` and `sd` (shares;
        `sd` over draws of these rows, NaN where the source gives none), `url`.

    Notes
    -----
    The test rows, the models and the choice of parameters are others than those of
    the records, so no difference to these can be tested. Sources: the results
    archived with SetFit (L. Tunstall et al. 2022, https://arxiv.org/abs/2209.11055),
    and table 2 of X. Sun et al. (2023), https://arxiv.org/abs/2305.08377.

    Examples
    --------
    >>> found = published()
    >>> float(found.loc[found["labels"] == 0, "accuracy"].max())
    0.926
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
