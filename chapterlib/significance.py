"""Whether the difference between two methods is more than luck."""

from __future__ import annotations

from dataclasses import dataclass

from numpy.typing import ArrayLike

from chapterlib.evaluation import class_ids, same_length


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
