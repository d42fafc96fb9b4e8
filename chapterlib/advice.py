"""When to use which method: the words are ours, the numbers those of the records."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd

from chapterlib.style import need

__all__ = ["decision_table", "duration"]


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
    rows = need(
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
