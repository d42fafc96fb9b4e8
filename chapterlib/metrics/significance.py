"""Whether methods differ by more than luck, and the errors that they share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
import yaml
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from chapterlib.metrics.evaluation import NO_ANSWER, checked_ids
from chapterlib.settings import data_file


@dataclass(frozen=True)
class McNemar:
    """Two methods on the same rows, and the p-value of their difference.

    `both` … `neither` count the rows that these got right; `p` is the exact two-sided
    p-value of "both methods are right equally often".
    """

    both: int
    only_a: int
    only_b: int
    neither: int
    p: float

    @property
    def n(self) -> int:
        """Rows in all."""
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        """Accuracy of the first method less that of the second."""
        return (self.only_a - self.only_b) / self.n

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

    References
    ----------
    Q. McNemar (1947), "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12(2), 153–157; in its exact form, a
    binomial test with p = 1/2 over the rows where exactly one method is right.
    """
    # Slow to import, and of use here only.
    from scipy.stats import binomtest

    true, first, second = checked_ids(y_true, {"a": a, "b": b})
    # Place 2·a + b counts how often a and b were right (1) or not (0).
    counts = np.bincount(2 * (first == true) + (second == true), minlength=4)
    neither, only_b, only_a, both = counts.tolist()
    discordant = only_a + only_b
    p = float(binomtest(only_a, discordant).pvalue) if discordant else 1.0
    return McNemar(both, only_a, only_b, neither, p)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Correct p-values for their number, so that few are small by chance alone.

    Takes those of all tests that are looked at together, in any shape. Each is made
    larger: to call those then below 0.05 real differences errs anywhere among them with
    a probability of 0.05 at most.

    References
    ----------
    S. Holm (1979), "A simple sequentially rejective multiple test procedure",
    Scandinavian Journal of Statistics 6(2), 65–70.
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
        Of at least two methods, by name.

    Returns
    -------
    DataFrame
        One row a pair, in the order of the names: `a`, `b` (names), `accuracy_a`,
        `accuracy_b` (shares), `points` (their difference in percentage points),
        `only_a`, `only_b` (rows that one alone got right), `p` (exact McNemar) and
        `p_holm` (corrected over all pairs of the table).
    """
    _require_two(predictions)
    rows = []
    for (a, first), (b, second) in combinations(predictions.items(), 2):
        try:
            test = mcnemar(y_true, first, second)
        except ValueError as error:
            raise ValueError(f"a is {a!r}, b is {b!r}. {error}") from error
        rows.append(
            {
                "a": a,
                "b": b,
                "accuracy_a": (test.both + test.only_a) / test.n,
                "accuracy_b": (test.both + test.only_b) / test.n,
                "points": 100 * test.difference,
                "only_a": test.only_a,
                "only_b": test.only_b,
                "p": test.p,
            }
        )
    table = pd.DataFrame(rows)
    return table.assign(p_holm=holm(table["p"]))


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
        For two methods on the *same* rows: the share of rows that exactly one gets
        right. Without it each method has rows of its own, as many as are returned.

    References
    ----------
    By the normal approximation, for rows apart J. L. Fleiss (1981), "Statistical
    Methods for Rates and Proportions", chapter 3; for shared ones R. J. Connor (1987),
    "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43(1), 207–211. The exact test of `mcnemar` takes some 5% more.

    Examples
    --------
    >>> rows_needed(0.85, 0.875), rows_needed(0.85, 0.875, discordant=0.1)
    (2978, 1254)
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


def shared_errors(
    y_true: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> pd.DataFrame:
    """Find the rows that all methods get wrong, and all with the same answer.

    Takes what `pairwise_differences` takes. Gives for each row its number, from 0
    (`row`), its label (`true`) and the answer (`predicted`), which -1 is not.

    References
    ----------
    C. E. Brodley, M. A. Friedl (1999), "Identifying mislabeled training data", JAIR
    11, 131–167: the consensus filter, applied here to test rows.
    """
    _require_two(predictions)
    true, first, *others = checked_ids(y_true, predictions)
    wrong = (first != true) & (first != NO_ANSWER)
    rows = np.flatnonzero(wrong & np.all([ids == first for ids in others], axis=0))
    return pd.DataFrame({"row": rows, "true": true[rows], "predicted": first[rows]})


def verdicts(test_fingerprint: str) -> pd.Series:
    """Tell what a reader found wrong in some of the rows that methods get wrong.

    That is "label", "methods" (which of them is wrong) or "unclear", by number of the
    test rows that have this `tasks.fingerprint`; none for others.
    """
    read = yaml.safe_load(data_file("verdicts.yaml").read_text(encoding="utf-8"))
    rows = read["rows"] if read["test_fingerprint"] == test_fingerprint else {}
    return pd.Series(rows, dtype=object, name="verdict")


def _require_two(predictions: Mapping[str, ArrayLike]) -> None:
    if len(predictions) < 2:
        raise ValueError(
            f"predictions holds {len(predictions)} method(s): hand over at least two, "
            "by name."
        )
