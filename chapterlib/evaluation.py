"""Class ids that were checked, and what an evaluation of them found."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

NO_ANSWER = -1


class Interval(NamedTuple):
    """A confidence interval: its lower and its upper bound."""

    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found: figures over all rows, unless named otherwise.

    Attributes
    ----------
    n, answered : int
        Rows in all, and rows whose prediction is not -1.
    accuracy : float
        Right rows divided by `n`.
    interval : Interval
        Wilson interval of `accuracy` at confidence `level`.
    accuracy_answered : float
        Right rows divided by `answered`; NaN where nothing was answered.
    macro_f1 : float
        Mean F1 of the classes that occur among labels or predictions.
    per_class : DataFrame
        One row a class: `precision`, `recall`, `f1` (NaN where undefined),
        `rows` (true), `predicted`, `no_answer`.
    confusion : int array of shape (classes, classes + 1)
        Rows are true classes, columns predicted ones; the last column counts
        rows without an answer.
    level : float
        Confidence level of `interval`.
    """

    n: int
    answered: int
    accuracy: float
    interval: Interval
    accuracy_answered: float
    macro_f1: float
    per_class: pd.DataFrame
    confusion: NDArray[np.int64]
    level: float = 0.95

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values; what is undefined becomes None."""
        table = self.per_class.astype(object).where(self.per_class.notna(), None)
        return {
            "n": self.n,
            "answered": self.answered,
            "accuracy": self.accuracy,
            "low": self.interval.low,
            "high": self.interval.high,
            "level": self.level,
            "accuracy_answered": self.accuracy_answered if self.answered else None,
            "macro_f1": self.macro_f1,
            "per_class": table.to_dict(orient="index"),
            "confusion": self.confusion.tolist(),
        }

    def _lines(self) -> list[tuple[str, str]]:
        answered = f"{self.answered:,} of {self.n:,}"
        if 0 < self.answered < self.n:
            answered += f" (accuracy over these: {self.accuracy_answered:.3f})"
        low, high = self.interval
        return [
            ("accuracy", f"{self.accuracy:.3f}"),
            (f"{100 * self.level:g}% interval", f"{low:.3f} to {high:.3f}"),
            ("macro-F1", f"{self.macro_f1:.3f}"),
            ("answered", answered),
        ]

    def _shown(self) -> pd.DataFrame:
        table = self.per_class
        return table if self.answered < self.n else table.drop(columns="no_answer")

    def __str__(self) -> str:
        """Give the figures as text, then the table of classes."""
        head = "\n".join(f"{name:<13} {value}" for name, value in self._lines())
        table = self._shown().rename(columns={"no_answer": "no answer"})
        text = table.to_string(
            float_format="{:.3f}".format, na_rep="–", index_names=False
        )
        return f"{head}\n{text}"

    def _repr_html_(self) -> str:
        head = " · ".join(
            f"{name} <strong>{html.escape(value)}</strong>"
            for name, value in self._lines()
        )
        table = self._shown().rename(columns={"no_answer": "no answer"})
        body = table.to_html(
            float_format="{:.3f}".format, na_rep="–", border=0, index_names=False
        )
        return f"<div><p>{head}</p>{body}</div>"


def class_ids(
    values: ArrayLike,
    name: str,
    classes: int | None = None,
    *,
    allow_no_answer: bool = False,
) -> NDArray[np.int64]:
    """Check that values are class ids and return them as an integer array.

    Parameters
    ----------
    values : array-like of shape (n,)
        Integers, or floats that hold whole numbers.
    name : str
        What the values are called in an error.
    classes : int, optional
        Ids run from 0 to classes - 1; without it, from 0 on.
    allow_no_answer : bool
        Whether -1 may stand for "no answer".

    Raises
    ------
    ValueError
        If there are no rows, not one dimension, or a value is no class id; the
        message names the first such row.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        hint = "; take the argmax of each row first" if array.ndim == 2 else ""
        raise ValueError(
            f"{name} has shape {array.shape}: one class id a row is needed{hint}."
        )
    if array.size == 0:
        raise ValueError(f"{name} is empty: at least one row is needed.")
    least = NO_ANSWER if allow_no_answer else 0
    most = np.inf if classes is None else classes - 1
    if array.dtype.kind in "iuf":
        # NaN fails both comparisons.
        good = (array >= least) & (array <= most) & (array == np.floor(array))
    else:
        good = np.array([_is_id(v) and least <= v <= most for v in array.tolist()])
    if not good.all():
        row = int(np.argmin(good))
        allowed = "a class id" + ("" if classes is None else f" from 0 to {most}")
        allowed += " or -1 (no answer)" if allow_no_answer else ""
        raise ValueError(
            f"Row {row} of {name} holds {array.tolist()[row]!r}; allowed is {allowed}. "
            "Map label names to ids, a missing answer to -1, and pass label_names "
            "where the classes are not the four of AG News."
        )
    return array.astype(np.int64)


def _is_id(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def same_length(**columns: NDArray[np.int64]) -> None:
    """Raise ValueError, with each column's length, unless all are as long."""
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{name} has {n}" for name, n in lengths.items())
        raise ValueError(
            f"The lengths differ: {listed}. Give one value a row, in the same order, "
            "and -1 where a method has no answer."
        )
