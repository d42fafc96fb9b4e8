"""From how many articles a month a small model of one's own is the cheaper one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["BreakEven", "break_even"]


@dataclass(frozen=True)
class BreakEven:
    """The monthly costs of a small model of one's own and of a large hosted one.

    Attributes
    ----------
    articles : int or None
        From how many articles a month on the small model is cheaper; None: never.
    fixed : float
        Dollars a month for the small model, however many articles there are.
    article : float
        Dollars for each article on top.
    hosted : float
        Dollars for an article at the hosted model.
    """

    articles: int | None
    fixed: float
    article: float
    hosted: float

    def small_costs(self, articles: ArrayLike) -> NDArray[np.float64]:
        """Dollars a month of the small model, at some numbers of articles a month."""
        return self.fixed + self.article * np.asarray(articles, dtype=float)

    def hosted_costs(self, articles: ArrayLike) -> NDArray[np.float64]:
        """Dollars a month of the hosted model, at the same numbers."""
        return self.hosted * np.asarray(articles, dtype=float)

    def __str__(self) -> str:
        """Say from where on the small model is cheaper."""
        if self.articles is None:
            return "the small model is never cheaper"
        return f"the small model is cheaper from {self.articles:,} articles a month"


def break_even(
    hosted: float,
    article: float = 0.0,
    *,
    machine: float = 0.0,
    training: float = 0.0,
    months: float = 12,
) -> BreakEven:
    """Find from how many articles a month a finetuned small model is cheaper.

    Parameters
    ----------
    hosted : float
        Dollars for an article at the large hosted model.
    article : float
        Dollars for an article at the small one, beyond what is paid anyway: energy,
        or time on a machine that is paid by the second.
    machine : float
        Dollars a month for a machine that is always on, as `MachinePrice.month`.
    training : float
        Dollars for labels and training, paid once.
    months : float
        Over which `training` is spread: until the model has to be trained anew.

    Returns
    -------
    BreakEven

    Raises
    ------
    ValueError
        If a cost is negative or not finite, or there is no month.

    Notes
    -----
    n articles cost machine + training / months + n article on the one side, n hosted
    on the other, so the small model is cheaper where n > fixed / (hosted - article),
    and never unless hosted > article. One machine has to keep up with n: at s seconds
    an article, it manages 2,628,000 / s a month.

    Examples
    --------
    >>> print(break_even(hosted=0.001, machine=365, training=120))
    the small model is cheaper from 375,001 articles a month
    """
    check_amounts(hosted=hosted, article=article, machine=machine, training=training)
    if not 0 < months < math.inf:
        raise ValueError(f"months={months}: training is spread over more than none.")
    # In the decimals that were typed: at equal costs the small model is not cheaper.
    n, a, m, t, every = (
        Fraction(str(float(x))) for x in (hosted, article, machine, training, months)
    )
    fixed = m + t / every
    articles = math.floor(fixed / (n - a)) + 1 if n > a else None
    return BreakEven(articles, float(fixed), float(article), float(hosted))


def check_amounts(**numbers: float | None) -> None:
    """Raise ValueError, with its name, for a number that no amount can be."""
    for name, value in numbers.items():
        if value is not None and not 0 <= value < math.inf:
            raise ValueError(f"{name}={value}: give a number of at least 0.")
