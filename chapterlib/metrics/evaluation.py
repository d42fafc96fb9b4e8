"""Class ids that were checked, and what an evaluation of them found."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from chapterlib.settings import data_file

if TYPE_CHECKING:
    from evaluate import EvaluationModule


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


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion, reliable at small n and near 0 and 1.

    Parameters
    ----------
    successes, n : int
        Right rows, and all rows.
    level : float
        Confidence level, between 0 and 1.

    Returns
    -------
    Interval
        Bounds between 0 and 1; exactly 0 at 0 of n, exactly 1 at n of n.

    Raises
    ------
    ValueError
        If n is 0, successes are not within 0 … n, or level not within (0, 1).

    References
    ----------
    E. B. Wilson (1927), "Probable inference, the law of succession, and
    statistical inference", JASA 22(158), 209–212.

    Examples
    --------
    >>> low, high = wilson(870, 1000)
    >>> round(low, 3), round(high, 3)
    (0.848, 0.889)
    """
    if n <= 0:
        raise ValueError(f"An interval needs at least one row, got n={n}.")
    if not 0 <= successes <= n or successes != int(successes) or n != int(n):
        raise ValueError(
            f"successes={successes} of n={n}: give the number of right rows "
            "(not their share) as a whole number from 0 to n."
        )
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, say 0.95.")
    z = -float(ndtri((1 - level) / 2))
    p, z2n = successes / n, z * z / n
    center = (p + z2n / 2) / (1 + z2n)
    half = z / (1 + z2n) * math.sqrt(p * (1 - p) / n + z2n / (4 * n))
    # Rounding must neither leave [0, 1] nor let p fall outside at the edges.
    low = 0.0 if successes == 0 else min(max(center - half, 0.0), p)
    high = 1.0 if successes == n else max(min(center + half, 1.0), p)
    return Interval(low, high)


def evaluate(
    y_true: ArrayLike,
    y_pred: ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    level: float = 0.95,
) -> Evaluation:
    """Measure predictions against labels; -1 (no answer) counts as wrong.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        True class ids.
    y_pred : array-like of int, shape (n,)
        Predicted class ids, -1 where the method has no answer.
    label_names : sequence of str, optional
        Name of each class, in the order of the ids; AG News' four by default.
    level : float
        Confidence level of the accuracy's Wilson interval.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If the lengths differ, there are no rows, or a value is no class id.

    Notes
    -----
    F1 of a class is 2 TP / (2 TP + FP + FN) [1]_. A row without an answer is a
    false negative of its class and a false positive of none. Macro-F1 averages
    over the classes that occur among labels or predictions.

    References
    ----------
    .. [1] M. Sokolova, G. Lapalme (2009), "A systematic analysis of performance
       measures for classification tasks", Information Processing & Management
       45(4), 427–437.

    Examples
    --------
    >>> result = evaluate([0, 1, 2, 3], [0, 1, 2, -1])
    >>> result.accuracy, result.accuracy_answered
    (0.75, 1.0)
    """
    names = _names(label_names)
    k = len(names)
    true = class_ids(y_true, "y_true", k)
    pred = class_ids(y_pred, "y_pred", k, allow_no_answer=True)
    same_length(y_true=true, y_pred=pred)
    # -1 is moved to column k, which keeps it apart from every class.
    cells = true * (k + 1) + np.where(pred == NO_ANSWER, k, pred)
    confusion = np.bincount(cells, minlength=k * (k + 1)).reshape(k, k + 1)
    confusion.setflags(write=False)

    right = np.diag(confusion)
    rows, predicted = confusion.sum(axis=1), confusion[:, :k].sum(axis=0)
    with np.errstate(invalid="ignore"):
        per_class = pd.DataFrame(
            {
                "precision": right / predicted,
                "recall": right / rows,
                "f1": 2 * right / (rows + predicted),
                "rows": rows,
                "predicted": predicted,
                "no_answer": confusion[:, k],
            },
            index=pd.Index(names, name="class"),
        )
    n, answered, correct = len(true), int(predicted.sum()), int(right.sum())
    return Evaluation(
        n=n,
        answered=answered,
        accuracy=correct / n,
        interval=wilson(correct, n, level),
        accuracy_answered=correct / answered if answered else math.nan,
        macro_f1=float(per_class["f1"].mean()),
        per_class=per_class,
        confusion=confusion,
        level=level,
    )


def _names(label_names: Sequence[str] | None) -> list[str]:
    if label_names is None:
        from chapterlib.tasks.task import LABEL_NAMES

        return list(LABEL_NAMES)
    names = list(label_names)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"label_names={names}: one distinct name a class is needed.")
    return names


def load_accuracy() -> EvaluationModule:
    """Load the package's accuracy as an `evaluate` module, without the Hub.

    Returns
    -------
    evaluate.EvaluationModule
        With `compute`, `add_batch` and so on; -1 counts as wrong.
    """
    # Pulls in datasets and more: seconds that other callers need not wait.
    import evaluate as hf_evaluate

    return hf_evaluate.load(str(accuracy_path()), keep_in_memory=True)


def accuracy_path() -> Path:
    """Folder of the local accuracy module, for `evaluate.load(path)`."""
    return data_file("accuracy")
