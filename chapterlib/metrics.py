"""How good a classifier is, and how sure we can be of it.

Labels are integer class ids. A prediction of -1 means that the method gave no
answer: such a row counts as wrong in every figure of this module, and accuracy
over the answered rows is only ever shown beside accuracy over all rows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import ndtri

from chapterlib.calibration import (
    Reliability,
    abstention_curve,
    reliability,
    top_label,
)
from chapterlib.evaluation import (
    NO_ANSWER,
    Evaluation,
    Interval,
    class_ids,
    same_length,
)
from chapterlib.sampling import macro_f1_interval, rows_needed
from chapterlib.significance import (
    McNemar,
    holm,
    mcnemar,
    pairwise_differences,
)

if TYPE_CHECKING:
    from evaluate import EvaluationModule

__all__ = [
    "NO_ANSWER",
    "Evaluation",
    "Interval",
    "McNemar",
    "Reliability",
    "abstention_curve",
    "accuracy_path",
    "class_ids",
    "evaluate",
    "holm",
    "load_accuracy",
    "macro_f1_interval",
    "mcnemar",
    "pairwise_differences",
    "reliability",
    "rows_needed",
    "top_label",
    "wilson",
]


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
        from chapterlib.data import LABEL_NAMES

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
    return Path(__file__).parent / "data_files" / "accuracy"
