"""Whether the difference between two methods is more than luck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from chapterlib.evaluation import class_ids, same_length

__all__ = ["McNemar", "holm", "mcnemar", "pairwise_differences"]


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same rows, and the p-value of their difference.

    Attributes
    ----------
    both, only_a, only_b, neither : int
        Rows that both, only the first, only the second, no method got right.
    p : float
        Exact two-sided p-value of "both methods are right equally often".
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float

    @property
    def difference(self) -> float:
        """Accuracy of the first method less that of the second."""
        n = self.both + self.only_a + self.only_b + self.neither
        return (self.only_a - self.only_b) / n

    def __str__(self) -> str:
        """Give the difference, the rows it rests on, and the p-value."""
        p = f"{self.p:.3f}" if self.p >= 0.001 else f"{self.p:.1e}"
        return (
            f"a − b = {self.difference:+.3f}: only a right on {self.only_a:,} rows, "
            f"only b on {self.only_b:,} (exact McNemar p = {p})"
        )


def mcnemar(y_true: ArrayLike, a: ArrayLike, b: ArrayLike) -> McNemar:
    """Test whether two methods differ, on the rows where only one is right.

    Parameters
    ----------
    y_true, a, b : array-like of int, shape (n,)
        True class ids, and the predictions of two methods on the same rows.
        -1 (no answer) counts as wrong.

    Returns
    -------
    McNemar
        p is 1 where the methods are right on the very same rows.

    Raises
    ------
    ValueError
        If the lengths differ, there are no rows, or a value is no class id.

    References
    ----------
    Q. McNemar (1947), "Note on the sampling error of the difference between
    correlated proportions or percentages", Psychometrika 12(2), 153–157; in its
    exact form, a binomial test with p = 1/2 over the discordant pairs.
    """
    # Slow to import, and of use here only.
    from scipy.stats import binomtest

    true = class_ids(y_true, "y_true")
    first = class_ids(a, "a", allow_no_answer=True)
    second = class_ids(b, "b", allow_no_answer=True)
    same_length(y_true=true, a=first, b=second)
    right_a, right_b = first == true, second == true
    only_a = int((right_a & ~right_b).sum())
    only_b = int((right_b & ~right_a).sum())
    discordant = only_a + only_b
    return McNemar(
        both=int((right_a & right_b).sum()),
        only_a=only_a,
        only_b=only_b,
        neither=int((~right_a & ~right_b).sum()),
        p=float(binomtest(only_a, discordant).pvalue) if discordant else 1.0,
    )


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for their number, so that few are small by chance alone.

    Parameters
    ----------
    p_values : array-like of float
        Of all tests that are looked at together, in any shape.

    Returns
    -------
    array of float, of the same shape
        Each p-value made larger, at most 1. To call those below 0.05 real
        differences errs anywhere among them with a probability of 0.05 at most.

    Raises
    ------
    ValueError
        If a value is missing or not within 0 … 1.

    References
    ----------
    S. Holm (1979), "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6(2), 65–70.

    Examples
    --------
    >>> holm([0.01, 0.04, 0.03]).tolist()
    [0.03, 0.06, 0.06]
    """
    values = np.asarray(p_values, dtype=float)
    flat = values.ravel()
    bad = ~((flat >= 0) & (flat <= 1))  # also true of NaN
    if bad.any():
        raise ValueError(
            f"p-value number {int(np.argmax(bad))} is {flat[bad][0]}: each must lie "
            "within 0 … 1. Leave out a test that could not be made; it must not count."
        )
    order = np.argsort(flat, kind="stable")
    scaled = flat[order] * np.arange(flat.size, 0, -1)
    adjusted = np.empty_like(flat)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted.reshape(values.shape)


def pairwise_differences(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Test every pair of methods on the same rows, and correct for their number.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        True class ids.
    predictions : mapping of str to array-like of int, shape (n,)
        Predictions of at least two methods by name; -1 (no answer) counts as wrong.

    Returns
    -------
    DataFrame
        One row a pair, in the order of the names: `a`, `b` (names), `accuracy_a`,
        `accuracy_b` (shares), `points` (accuracy of `a` less that of `b`, in
        percentage points), `only_a`, `only_b` (rows that one alone got right), `p`
        (exact McNemar) and `p_holm` (corrected over all pairs of the table).

    Raises
    ------
    ValueError
        If there are fewer than two methods, or as in `mcnemar`.

    References
    ----------
    As in `mcnemar` and `holm`.

    Examples
    --------
    >>> table = pairwise_differences([0, 1, 2], {"x": [0, 1, 2], "y": [0, 1, -1]})
    >>> float(table["points"].iloc[0].round(1))
    33.3
    """
    if len(predictions) < 2:
        raise ValueError(
            f"predictions holds {len(predictions)} of the two methods that a "
            "difference needs: hand over at least two, by name."
        )
    rows = []
    for (a, first), (b, second) in combinations(predictions.items(), 2):
        try:
            test = mcnemar(y_true, first, second)
        except ValueError as error:
            raise ValueError(f"a is {a!r}, b is {b!r}. {error}") from error
        n = test.both + test.only_a + test.only_b + test.neither
        rows.append(
            {
                "a": a,
                "b": b,
                "accuracy_a": (test.both + test.only_a) / n,
                "accuracy_b": (test.both + test.only_b) / n,
                "points": 100 * test.difference,
                "only_a": test.only_a,
                "only_b": test.only_b,
                "p": test.p,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))
