"""Figures of differences between methods, and the stars that they earn."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from chapterlib.labelplaces import short_names
from chapterlib.looks import method_style
from chapterlib.style import begin, need, styled

__all__ = ["difference_matrix", "leads_by_draw", "stars"]

# From a method's marks to the next one's, where 1 is from one budget to the next.
STEP = 0.18


@styled
def difference_matrix(
    table: pd.DataFrame,
    *,
    ax: Axes | None = None,
    title: str = "Which methods differ",
) -> Axes:
    """Draw by how many points each method beats each one that is less accurate.

    Parameters
    ----------
    table : DataFrame
        Of `metrics.pairwise_differences`, with slugs of methods as names. A difference
        whose corrected p-value is 0.05 or more stays without color.
    ax : Axes, optional
        Drawn into; a new figure by default.
    title : str
        The finding.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing or there is no pair.
    """
    rows = need(table, "a", "b", "accuracy_a", "accuracy_b", "points", "p_holm")
    accuracy = dict(zip(rows["a"], rows["accuracy_a"], strict=True))
    accuracy |= dict(zip(rows["b"], rows["accuracy_b"], strict=True))
    order = sorted(accuracy, key=lambda name: -accuracy[name])
    place = {name: i for i, name in enumerate(order)}
    k = len(order) - 1
    points, p_values = np.full((k, k), np.nan), np.full((k, k), np.nan)
    # Below the diagonal each cell lies beside the name of its row, above its column's.
    better, worse = np.sort([rows["a"].map(place), rows["b"].map(place)], axis=0)
    points[worse - 1, better] = rows["points"].abs()
    p_values[worse - 1, better] = rows["p_holm"]
    ax = begin(ax, title, size=(6.2, 2.0 + 0.42 * k))
    most = max(float(np.nanmax(points)), 1e-9)
    # The square root keeps small differences apart beside a very large one.
    shade = np.sqrt(np.where(p_values < 0.05, points, np.nan) / most)
    # Only the lighter half of the colors: dark letters can be read on each of it.
    ax.pcolormesh(
        shade, cmap="Blues", vmin=-0.15, vmax=1.9, edgecolors="white", linewidth=1.5
    )
    for (i, j), value in np.ndenumerate(points):
        if np.isnan(value):
            continue
        star = stars(float(p_values[i, j]))
        ax.text(
            j + 0.5,
            i + 0.5,
            f"{value:.1f}\n{star}" if star else f"{value:.1f}",
            ha="center",
            va="center",
            color="#222222" if star else "#767676",
            fontsize=9.5 if k <= 8 else 8,
            linespacing=0.9,
        )
    short = short_names(order)
    names = [f"{short[name]} {accuracy[name]:.3f}" for name in order]
    middles = np.arange(k) + 0.5
    ax.set_yticks(middles, names[1:])
    ax.set_xticks(middles, names[:-1])
    for label in ax.get_xticklabels():
        label.set(ha="right", rotation=35, rotation_mode="anchor")
    ax.set(xlim=(0, k), ylim=(k, 0))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(
        "percentage points by which the column beats the row\n"
        "(Holm-corrected p: * < 0.05, ** < 0.01, *** < 0.001)",
        loc="right",
    )
    return ax


@styled
def leads_by_draw(
    leads: pd.DataFrame,
    *,
    rival: str,
    ax: Axes | None = None,
    title: str = "Does the draw of the labels decide?",
) -> Axes:
    """Draw by how many points methods lead a rival, one mark a draw of the labels.

    Parameters
    ----------
    leads : DataFrame
        `method` (slug), `labels` (seen in training) and `points` (percentage points
        ahead of the rival that learned from the very same rows), one row a draw.
    rival : str
        Its name for readers.
    ax : Axes, optional
        Drawn into; a new figure by default.
    title : str
        The finding.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing or no row is complete.

    Notes
    -----
    The bar behind the marks is the mean of the draws.
    """
    rows = need(leads, "method", "labels", "points")
    budgets = sorted(rows["labels"].unique())
    slugs = [str(slug) for slug in dict.fromkeys(rows["method"])]
    ax = begin(ax, title)
    ax.axhline(0, color="#666666", lw=1.2, zorder=0)
    for place, budget in enumerate(budgets):
        at = rows[rows["labels"] == budget]
        here = [slug for slug in slugs if slug in set(at["method"])]
        for i, slug in enumerate(here):
            look = method_style(slug)
            points = at.loc[at["method"] == slug, "points"].to_numpy(float)
            x = place + STEP * (i - (len(here) - 1) / 2)
            bar = x - 0.35 * STEP, x + 0.35 * STEP
            ax.hlines(points.mean(), *bar, color=look.color, lw=3)
            marks = np.full(len(points), x)
            ax.plot(marks, points, look.marker, color=look.color, alpha=0.65)
    for look in map(method_style, slugs):
        ax.plot([], [], look.marker, color=look.color, label=look.label)
    ax.set_xticks(range(len(budgets)), [f"{n:,}" for n in budgets])
    ax.set_xlim(-0.5, len(budgets) - 0.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="y")
    ax.set_xlabel("labels in training (marks: draws of them; bar: their mean)")
    ax.set_ylabel(f"percentage points ahead of the\n{rival} on the same labels")
    ax.legend(loc="best")
    return ax


def stars(p: float) -> str:
    """Stars for a p-value: three below 0.001, two below 0.01, one below 0.05."""
    return "*" * sum(p < bound for bound in (0.05, 0.01, 0.001))
