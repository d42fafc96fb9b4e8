"""How many rows are right, how sure that is, and which classes are taken for which."""

from __future__ import annotations

import html
import math
import warnings
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from chapterlib.settings import data_file

if TYPE_CHECKING:
    from evaluate import EvaluationModule

# What `predict` gives where a method has no answer; it counts as wrong.
NO_ANSWER = -1
# The package's module of accuracy, for `evaluate.load`; on the Hub it is "accuracy".
ACCURACY = str(data_file("accuracy"))
SHOWN: Any = {"float_format": "{:.3f}".format, "na_rep": "–", "index_names": False}


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
        Rows in all, and rows with an answer.
    accuracy, accuracy_answered : float
        Right rows divided by `n` and by `answered`.
    interval : Interval
        Wilson interval of `accuracy` at confidence `level`.
    macro_f1 : float
        Mean F1 of the classes that occur among labels or predictions.
    per_class : DataFrame
        One row a class: `precision`, `recall`, `f1` (NaN where undefined), `rows`
        (true), `predicted`, `no_answer`.
    confusion : int array of shape (classes, classes + 1)
        Rows are true classes, columns predicted ones; the last counts no answers.
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
        if self.answered == self.n:
            return self.per_class.drop(columns="no_answer")
        return self.per_class.rename(columns={"no_answer": "no answer"})

    def __str__(self) -> str:
        """Give the figures as text, then the table of classes."""
        head = "\n".join(f"{name:<13} {value}" for name, value in self._lines())
        return f"{head}\n{self._shown().to_string(**SHOWN)}"

    def _repr_html_(self) -> str:
        head = " · ".join(
            f"{name} <strong>{html.escape(value)}</strong>"
            for name, value in self._lines()
        )
        return f"<div><p>{head}</p>{self._shown().to_html(border=0, **SHOWN)}</div>"


def class_ids(
    values: ArrayLike,
    name: str,
    classes: int | None = None,
    *,
    allow_no_answer: bool = False,
) -> NDArray[np.int64]:
    """Return values of shape (n,) as class ids, from 0 to classes - 1.

    Floats may hold whole numbers, and -1 is let through where a method may have no
    answer. The ValueError calls the values `name` and names the first row that is none.
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
    most = np.iinfo(np.int64).max if classes is None else classes - 1
    if array.dtype.kind in "iuf":
        # NaN fails both comparisons, infinity the second.
        good = (array >= least) & (array <= most) & (array == np.floor(array))
    else:
        good = np.array(
            [
                isinstance(v, int | np.integer)
                and not isinstance(v, bool)
                and least <= v <= most
                for v in array.tolist()
            ]
        )
    if not good.all():
        row = int(np.argmin(good))
        allowed = "a class id" + ("" if classes is None else f" from 0 to {most}")
        allowed += " or -1 (no answer)" if allow_no_answer else ""
        raise ValueError(
            f"Row {row} of {name} holds {array.tolist()[row]!r}; allowed is {allowed}. "
            "Map label names to ids and a missing answer to -1; label_names, where "
            "given, must name every class."
        )
    return array.astype(np.int64)


def same_length(y_true: Sized, other: Sized, name: str) -> None:
    """Raise ValueError, with both lengths, unless `other` has a value a row."""
    if len(y_true) != len(other):
        raise ValueError(
            f"The lengths differ: y_true has {len(y_true)}, {name} has {len(other)}. "
            "Give one value a row, in the same order, and -1 where a method has no "
            "answer."
        )


def checked_ids(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike], classes: int | None = None
) -> list[NDArray[np.int64]]:
    """Return the labels, then each method's predictions, as class ids of shape (n,)."""
    checked = [class_ids(y_true, "y_true", classes)]
    for name, given in predictions.items():
        checked.append(class_ids(given, name, classes, allow_no_answer=True))
        same_length(checked[0], checked[-1], name)
    return checked


def wilson(successes: int, n: int, level: float = 0.95) -> Interval:
    """Score interval of a proportion, reliable at small n and near 0 and 1.

    Parameters
    ----------
    successes, n : int
        Right rows, and all rows.
    level : float
        Confidence level, between 0 and 1.

    References
    ----------
    E. B. Wilson (1927), "Probable inference, the law of succession, and statistical
    inference", JASA 22(158), 209–212.

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
    # Slow to import: other callers of this module need not wait for it.
    from scipy.stats import binomtest

    share = successes / n
    found = binomtest(int(successes), int(n)).proportion_ci(level, method="wilson")
    # Rounding must not let the share fall outside.
    return Interval(min(float(found.low), share), max(float(found.high), share))


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
    y_true, y_pred : array-like of int, shape (n,)
        True and predicted class ids, -1 where the method has no answer.
    label_names : sequence of str, optional
        Name of each class, in the order of the ids; by default the ids themselves.
    level : float
        Confidence level of the accuracy's Wilson interval.

    Notes
    -----
    F1 of a class is 2 TP / (2 TP + FP + FN). A row without an answer is a false
    negative of its class and a false positive of none. Macro-F1 averages over the
    classes that occur among labels or predictions.

    References
    ----------
    M. Sokolova, G. Lapalme (2009), "A systematic analysis of performance measures for
    classification tasks", Information Processing & Management 45(4), 427–437.

    Examples
    --------
    >>> result = evaluate([0, 1, 2, 3], [0, 1, 2, -1])
    >>> result.accuracy, result.accuracy_answered
    (0.75, 1.0)
    """
    # Slow to import, as in `wilson`.
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    names = list(label_names) if label_names is not None else None
    if names is not None and len(set(names)) < max(len(names), 1):
        raise ValueError(f"label_names={names}: one distinct name a class is needed.")
    classes = len(names) if names is not None else None
    true, pred = checked_ids(y_true, {"y_pred": y_pred}, classes)
    if names is None:
        names = [str(i) for i in range(max(true.max(), pred.max()) + 1)]
    ids = np.arange(len(names))
    with warnings.catch_warnings():
        # That so many classes of so few rows look like a regression.
        warnings.filterwarnings("ignore", "The number of unique classes")
        table = confusion_matrix(true, pred, labels=[*ids, NO_ANSWER])
        precision, recall, f1, _ = precision_recall_fscore_support(
            true, pred, labels=ids, zero_division=math.nan
        )
    confusion = table[:-1]
    confusion.setflags(write=False)
    scores = {"precision": precision, "recall": recall, "f1": f1}
    per_class = pd.DataFrame(scores, index=pd.Index(names, name="class")).assign(
        rows=confusion.sum(axis=1),
        predicted=confusion[:, :-1].sum(axis=0),
        no_answer=confusion[:, -1],
    )
    n, answered, correct = len(true), int((pred >= 0).sum()), int((true == pred).sum())
    return Evaluation(
        n=n,
        answered=answered,
        accuracy=correct / n,
        interval=wilson(correct, n, level),
        accuracy_answered=correct / answered if answered else math.nan,
        # pandas leaves out what is undefined: the classes that do not occur.
        macro_f1=float(per_class["f1"].mean()),
        per_class=per_class,
        confusion=confusion,
        level=level,
    )


def load_accuracy() -> EvaluationModule:
    """Load the package's accuracy as an `evaluate` module, without the Hub."""
    # Pulls in datasets and more: seconds that other callers need not wait.
    import evaluate as hf_evaluate

    try:
        return hf_evaluate.load(ACCURACY, keep_in_memory=True)
    except OSError as error:
        raise OSError(
            f"`evaluate` can't keep its module ({error}): name a folder that can be "
            "written with HF_HOME"
        ) from error
