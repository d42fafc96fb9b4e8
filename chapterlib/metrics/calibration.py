"""Whether a classifier knows how sure it may be, and what it gains by abstaining.

A row without an answer (-1) has no confidence: the bins leave it out and count it
apart, and an abstention curve never covers it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from chapterlib.metrics.evaluation import NO_ANSWER, checked_ids, same_length


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy, in bins of confidence.

    Attributes
    ----------
    error : float
        Expected calibration error: the mean distance between confidence and accuracy
        of a bin, weighted by its rows. NaN where nothing was answered.
    bins : DataFrame
        One row a bin: `low`, `high` (its bounds; the upper one belongs to it), `rows`,
        `right`, `confidence`, `accuracy` (means) and `gap` (accuracy less confidence).
    n, answered : int
        Rows in all, and rows with an answer, which alone are in the bins.
    """

    error: float
    bins: pd.DataFrame
    n: int
    answered: int


def top_label(
    probabilities: ArrayLike,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Take the likeliest class [n] and its probability [n] from those of all [n, k].

    A row of NaN stands for no answer: its class is -1, its probability NaN.
    """
    array = np.asarray(probabilities, dtype=float)
    if array.ndim != 2 or not array.size:
        raise ValueError(
            f"probabilities has shape {array.shape}: a row a text and a column a class "
            "are needed, as predict_proba gives them."
        )
    empty = np.isnan(array).all(axis=1)
    sums = array.sum(axis=1)
    bad = ~empty & ~((array >= 0).all(axis=1) & np.isclose(sums, 1, atol=1e-4))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Row {row} of probabilities is {array[row].tolist()}: its values must be "
            "at least 0 and sum to 1. Apply a softmax to scores first."
        )
    filled = np.where(empty[:, None], 0.0, array)
    predictions = np.where(empty, NO_ANSWER, filled.argmax(axis=1))
    # Probabilities in single precision may pass 1 by a rounding.
    return predictions, np.minimum(array.max(axis=1), 1.0)


def reliability(
    y_true: ArrayLike, y_pred: ArrayLike, confidence: ArrayLike, *, bins: int = 10
) -> Reliability:
    """Compare how sure a classifier was with how often it was right.

    Parameters
    ----------
    y_true, y_pred : array-like of int, shape (n,)
        True class ids, and predicted ones; -1 where the method has no answer.
    confidence : array-like of float, shape (n,)
        Probability that the method gives its prediction; of no matter without one.
    bins : int
        Number of bins, of the same width.

    References
    ----------
    M. P. Naeini, G. F. Cooper, M. Hauskrecht (2015), "Obtaining well calibrated
    probabilities using Bayesian binning", AAAI 29; in the form of C. Guo et al. (2017),
    https://arxiv.org/abs/1706.04599, section 2.

    Examples
    --------
    >>> found = reliability([0, 0, 1, 1], [0, 1, 1, 1], [0.6, 0.6, 0.9, 0.9])
    >>> round(found.error, 3)
    0.1
    """
    if bins < 1 or bins != int(bins):
        raise ValueError(f"bins={bins}: give a whole number of at least 1, say 10.")
    right, sure, answered = _checked(y_true, y_pred, confidence)
    right, sure = right[answered], sure[answered]
    edges = np.linspace(0, 1, bins + 1)
    number = np.searchsorted(edges[1:-1], sure)
    rows = np.bincount(number, minlength=bins)
    hits = np.bincount(number, weights=right, minlength=bins).astype(np.int64)
    total = np.bincount(number, weights=sure, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean, accuracy = total / rows, hits / rows
    table = pd.DataFrame({"low": edges[:-1], "high": edges[1:]}).assign(
        rows=rows, right=hits, confidence=mean, accuracy=accuracy, gap=accuracy - mean
    )
    distance = np.abs(hits - total).sum()
    error = float(distance / len(sure)) if len(sure) else float("nan")
    return Reliability(error, table, n=len(answered), answered=len(sure))


def abstention_curve(
    y_true: ArrayLike, y_pred: ArrayLike, confidence: ArrayLike
) -> pd.DataFrame:
    """Tell how accurate the answers are if only the surest ones are given.

    Takes what `reliability` takes. Gives one row for each confidence that occurs, from
    the highest down: `threshold` (answers of at least this confidence are given),
    `rows` (how many these are), `right`, `coverage` (share of all rows; below 1 at last
    where a row has no answer) and `accuracy` (share of the answers).

    References
    ----------
    Y. Geifman, R. El-Yaniv (2017), "Selective classification for deep neural
    networks", NeurIPS 30, https://arxiv.org/abs/1705.08500.

    Examples
    --------
    >>> curve = abstention_curve([0, 0, 1, 1], [0, 1, 1, 1], [0.6, 0.6, 0.9, 0.8])
    >>> curve["accuracy"].tolist()
    [1.0, 1.0, 0.75]
    """
    right, sure, answered = _checked(y_true, y_pred, confidence)
    threshold, rank = np.unique(-sure[answered], return_inverse=True)
    rows = np.cumsum(np.bincount(rank, minlength=len(threshold)))
    hits = np.bincount(rank, weights=right[answered], minlength=len(threshold))
    hits = np.cumsum(hits).astype(np.int64)
    table = pd.DataFrame({"threshold": -threshold, "rows": rows, "right": hits})
    return table.assign(coverage=rows / len(answered), accuracy=hits / rows)


def _checked(
    y_true: ArrayLike, y_pred: ArrayLike, confidence: ArrayLike
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.bool_]]:
    """Tell which rows are right, how sure each was, and which have an answer."""
    true, pred = checked_ids(y_true, {"y_pred": y_pred})
    sure = np.asarray(confidence, dtype=float)
    if sure.ndim != 1:
        raise ValueError(
            f"confidence has shape {sure.shape}: one number a row is needed. For the "
            "probabilities of all classes, see top_label."
        )
    same_length(true, sure, "confidence")
    answered = pred != NO_ANSWER
    bad = answered & ~((sure >= 0) & (sure <= 1))
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Row {row} of confidence holds {sure[row]}: each answer needs a "
            "probability within 0 … 1; set y_pred to -1 where there is none."
        )
    return pred == true, sure, answered
