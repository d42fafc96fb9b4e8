"""Whether the difference between two methods is more than luck."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from chapterlib.metrics.evaluation import (
    NO_ANSWER,
    Evaluation,
    Interval,
    class_ids,
    same_length,
)
from chapterlib.settings import data_file


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


def macro_f1_interval(
    result: Evaluation,
    *,
    level: float | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the macro-F1: how far other test rows might move it.

    Parameters
    ----------
    result : Evaluation
        Of `metrics.evaluate`; -1 (no answer) counted as wrong there, and does here.
    level : float, optional
        Confidence level between 0 and 1, by default that of `result`.
    resamples : int
        How often as many rows as there are get drawn again, with replacement.
    seed : int
        The same seed, the same interval.

    Returns
    -------
    Interval
        The percentiles that leave (1 - level) / 2 of the resamples on either side.

    Raises
    ------
    ValueError
        If level is not within (0, 1), or there is no resample.

    Notes
    -----
    The percentile bootstrap [1]_. The macro-F1 needs no more of the rows than the
    confusion counts, and those of rows drawn with replacement are multinomial: so the
    counts are drawn, which takes milliseconds whatever the number of rows. A class
    that a resample holds neither among labels nor predictions is left out of its mean,
    as in `metrics.evaluate`.

    References
    ----------
    .. [1] B. Efron, R. J. Tibshirani (1993), "An Introduction to the Bootstrap",
       chapter 13.
    """
    level = result.level if level is None else level
    if not 0 < level < 1:
        raise ValueError(f"level={level}: give a share between 0 and 1, say 0.95.")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: draw at least one, better 2,000.")
    cells = result.confusion.ravel()
    n = int(cells.sum())
    drawn = np.random.default_rng(seed).multinomial(n, cells / n, size=resamples)
    counts = drawn.reshape(resamples, *result.confusion.shape)
    k = result.confusion.shape[0]
    right = counts[:, range(k), range(k)]
    both = counts.sum(axis=2) + counts[:, :, :k].sum(axis=1)
    with np.errstate(invalid="ignore"):
        scores = np.nanmean(2 * right / both, axis=1)
    low, high = np.quantile(scores, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(low), float(high))


def rows_needed(
    p1: float,
    p2: float,
    power: float = 0.8,
    level: float = 0.05,
    *,
    discordant: float | None = None,
) -> int:
    """Count the test rows that it takes to tell two accuracies apart.

    Parameters
    ----------
    p1, p2 : float
        The two accuracies, as shares.
    power : float
        Probability with which the difference is to be found.
    level : float
        Significance level of the two-sided test; not a confidence level.
    discordant : float, optional
        For two methods on the *same* rows: the share of rows that exactly one of them
        gets right. Without it, each method has rows of its own.

    Returns
    -------
    int
        Rows for each of two independent samples, or of the one sample that both share.

    Raises
    ------
    ValueError
        If the accuracies are equal or no shares, if level < power < 1 does not hold,
        or two methods with these accuracies can't differ on so many rows.

    Notes
    -----
    Both formulas rest on the normal approximation: of two proportions [1]_, without
    correction for continuity, and of McNemar's test [2]_. The exact test of `mcnemar`
    is more careful: with the rows of the second example it finds the difference with
    a probability of 0.78, and takes 5% more rows to reach 0.8.

    References
    ----------
    .. [1] J. L. Fleiss (1981), "Statistical Methods for Rates and Proportions", 2nd
       edition, chapter 3.
    .. [2] R. J. Connor (1987), "Sample size for testing differences in proportions for
       the paired-sample design", Biometrics 43(1), 207–211.

    Examples
    --------
    >>> rows_needed(0.85, 0.875)
    2978
    >>> rows_needed(0.85, 0.875, discordant=0.1)
    1254
    """
    if not (0 <= p1 <= 1 and 0 <= p2 <= 1) or p1 == p2:
        raise ValueError(
            f"p1={p1}, p2={p2}: give two different accuracies as shares from 0 to 1. "
            "No number of rows tells equal ones apart."
        )
    if not 0 < level <= 0.5:
        raise ValueError(
            f"level={level}: this is the significance level, say 0.05; a confidence "
            "level of 0.95 is written as 0.05 here."
        )
    if not level < power < 1:
        raise ValueError(
            f"power={power}: give a share between level={level} and 1, say 0.8."
        )
    difference = abs(p1 - p2)
    if discordant is None:
        middle = (p1 + p2) / 2
        under_null = 2 * middle * (1 - middle)
        under_alternative = p1 * (1 - p1) + p2 * (1 - p2)
    else:
        most = min(p1 + p2, 2 - p1 - p2)
        # Rounding must not forbid the bounds themselves.
        if not difference - 1e-12 <= discordant <= most + 1e-12:
            raise ValueError(
                f"discordant={discordant}: methods that are right on {p1:g} and "
                f"{p2:g} of the same rows differ on {difference:g} to {most:g} of them."
            )
        under_null = discordant
        under_alternative = discordant - difference**2
    wanted = -ndtri(level / 2) * math.sqrt(under_null)
    wanted += ndtri(power) * math.sqrt(max(under_alternative, 0.0))
    return math.ceil((wanted / difference) ** 2)


# What a reader can find in such a row; see data_files/verdicts.yaml.
VERDICTS = ("label", "unclear", "methods")


def shared_errors(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Find the rows that all methods get wrong, and all with the same answer.

    Parameters
    ----------
    y_true : array-like of int, shape (n,)
        Class ids that the rows are labeled with.
    predictions : mapping of str to array-like of int, shape (n,)
        Predictions of at least two methods by name; -1 (no answer) is no answer that
        they share.

    Returns
    -------
    DataFrame
        `row` (its number, from 0), `true` (its label) and `predicted` (the answer).

    Raises
    ------
    ValueError
        If there are fewer than two methods, the lengths differ or a value is no
        class id.

    References
    ----------
    C. E. Brodley, M. A. Friedl (1999), "Identifying mislabeled training data", JAIR
    11, 131–167: the consensus filter, applied here to test rows.

    Examples
    --------
    >>> shared_errors([0, 1, 2], {"x": [1, 1, 0], "y": [1, 0, 1]})["row"].tolist()
    [0]
    """
    if len(predictions) < 2:
        raise ValueError(
            f"predictions holds {len(predictions)} of the two methods that can share "
            "an error: hand over at least two, by name."
        )
    true = class_ids(y_true, "y_true")
    answers = []
    for name, given in predictions.items():
        ids = class_ids(given, name, allow_no_answer=True)
        same_length(**{"y_true": true, name: ids})
        answers.append(ids)
    first = answers[0]
    wrong = (first != true) & (first != NO_ANSWER)
    rows = np.flatnonzero(wrong & np.all([ids == first for ids in answers], axis=0))
    return pd.DataFrame({"row": rows, "true": true[rows], "predicted": first[rows]})


def verdicts(test_fingerprint: str) -> pd.Series:
    """Tell what a reader found in some of the rows, one of `VERDICTS` each.

    Parameters
    ----------
    test_fingerprint : str
        `data.fingerprint` of the test rows whose numbers are meant.

    Returns
    -------
    Series of str
        By row number, in the order of a random draw, so that the first few of them
        are a random draw, too. Empty for test rows that nobody judged.
    """
    path = data_file("verdicts.yaml")
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    rows = read["rows"] if read["test_fingerprint"] == test_fingerprint else {}
    return pd.Series(rows, dtype=object, name="verdict")
