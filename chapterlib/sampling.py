"""What the choice of test rows leaves open, and how many rows a comparison needs."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import ndtri

from chapterlib.evaluation import Evaluation, Interval

__all__ = ["macro_f1_interval", "rows_needed"]


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
