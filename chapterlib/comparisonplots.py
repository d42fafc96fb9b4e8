"""Figures that compare methods: what their accuracy costs, and which differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from chapterlib.breakeven import BreakEven
from chapterlib.calibrationplots import abstention_lines, reliability_diagram
from chapterlib.differenceplots import difference_matrix, leads_by_draw, stars
from chapterlib.labelplaces import label_points, short_names
from chapterlib.looks import OKABE_ITO, method_style
from chapterlib.style import begin, label_ends, need, styled

__all__ = [
    "abstention_lines",
    "accuracy_against",
    "break_even_lines",
    "difference_matrix",
    "leads_by_draw",
    "pareto_front",
    "reliability_diagram",
    "stars",
]


def pareto_front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Tell which choices no other one beats: none is as good for less, or better.

    Parameters
    ----------
    cost, value : array-like of float, shape (n,)
        Less of the one and more of the other is better.

    Returns
    -------
    array of bool, shape (n,)
        Of two that are alike in both, both are on the front.

    Raises
    ------
    ValueError
        If the lengths differ or a number is missing.

    Examples
    --------
    >>> pareto_front([1, 2, 3], [0.8, 0.7, 0.9]).tolist()
    [True, False, True]
    """
    costs, values = np.asarray(cost, dtype=float), np.asarray(value, dtype=float)
    if costs.shape != values.shape or costs.ndim != 1:
        raise ValueError(
            f"cost has shape {costs.shape}, value {values.shape}: give one of each a "
            "choice."
        )
    if np.isnan(costs).any() or np.isnan(values).any():
        raise ValueError("A cost or a value is missing: leave that choice out.")
    as_good = (costs <= costs[:, None]) & (values >= values[:, None])
    better = (costs < costs[:, None]) | (values > values[:, None])
    return ~np.asarray((as_good & better).any(axis=1))


@styled
def accuracy_against(
    runs: pd.DataFrame,
    column: str,
    *,
    x_label: str,
    ax: Axes | None = None,
    title: str = "What accuracy costs",
) -> Axes:
    """Draw accuracy against what it takes, with the front of the best bargains.

    Parameters
    ----------
    runs : DataFrame
        `method` (slug), `accuracy` and the column; `low` and `high` for an interval;
        `label` for the names beside the points, which are else the methods' short
        names, or `title` where two methods share one. Rows with NaN in one of the
        first three are left out.
    column : str
        Money, memory or time, above 0; on a log scale.
    x_label : str
        What the column is, with its unit.
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
        If a column is missing, no row is complete, or a value is not above 0.
    """
    rows = need(runs, "method", "accuracy", column).sort_values(column)
    x, y = rows[column].to_numpy(float), rows["accuracy"].to_numpy(float)
    if not (x > 0).all():
        raise ValueError(
            f"{column} is {x.min():g} for {rows['method'].iloc[0]}: a log scale takes "
            "values above 0 only. Leave out what costs nothing, or count what it does."
        )
    ax = begin(ax, title, size=(6.2, 4.4))
    slugs = [str(slug) for slug in rows["method"]]
    looks = [method_style(slug) for slug in slugs]
    if {"low", "high"} <= set(rows):
        bounds = rows[["low", "high"]].to_numpy(float)
        for place, bound, look in zip(x, bounds, looks, strict=True):
            ax.vlines(place, *bound, color=look.color, alpha=0.35, lw=4)
    for place, height, look in zip(x, y, looks, strict=True):
        ax.plot(place, height, look.marker, color=look.color, markersize=8)
    ax.set_xscale("log")
    ax.set_xlim(x.min() / (spread := _spread(x)), x.max() * spread)
    front = pareto_front(x, y)
    corners = _steps(x[front], y[front], ax.get_xlim()[1])
    ax.plot(*np.transpose(corners), color="#999999", lw=1.2, zorder=0)
    ax.grid(axis="y")
    ax.set_ylabel("accuracy (share of test rows)")
    ax.set_xlabel(f"{x_label}, log scale\n(line: nothing is both cheaper and better)")
    ax.margins(y=0.12)
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.0))
    _plain_numbers(ax, "x")
    titles = dict(zip(slugs, rows["title"], strict=True)) if "title" in rows else {}
    short = short_names(dict.fromkeys(slugs), titles)
    names = rows["label"] if "label" in rows else [short[slug] for slug in slugs]
    label_points(
        ax,
        list(zip(x, y, strict=True)),
        [str(name) for name in names],
        [look.color for look in looks],
        lines=corners,
    )
    return ax


@styled
def break_even_lines(
    result: BreakEven,
    *,
    names: tuple[str, str] = ("own small model", "hosted large model"),
    ax: Axes | None = None,
    title: str = "Where a small model becomes the cheaper one",
) -> Axes:
    """Draw the monthly costs of both models against the articles a month.

    Parameters
    ----------
    result : BreakEven
        Of `prices.break_even`.
    names : (str, str)
        Of the small model and of the hosted one, for the ends of their lines.
    ax, title
        As in `accuracy_against`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If one of the models costs nothing, which has no place on a log scale.
    """
    if not result.hosted or not result.fixed + result.article:
        raise ValueError(
            "One of the models costs nothing at all: there are no two lines to compare."
        )
    ax = begin(ax, title)
    middle = result.articles or max(result.fixed / result.hosted, 1_000)
    articles = np.geomspace(max(middle / 100, 1), 50 * middle, 200)
    ends = []
    lines: list[tuple[str, Any, str]] = [
        (names[0], result.small_costs(articles), "green"),
        (names[1], result.hosted_costs(articles), "purple"),
    ]
    for name, costs, color in lines:
        ax.plot(articles, costs, color=OKABE_ITO[color])
        ends.append((float(costs[-1]), name, OKABE_ITO[color]))
    ax.set(xscale="log", yscale="log", xlim=(articles[0], articles[-1]))
    if result.articles is not None:
        cost = float(result.hosted_costs(result.articles))
        ax.axvline(result.articles, color="#767676", linestyle=":", lw=1.5)
        ax.plot(result.articles, cost, "o", color="#222222")
        ax.annotate(
            f"{result.articles:,} articles\nfor ${cost:,.2f} a month",
            (result.articles, cost),
            xytext=(8, -8),
            textcoords="offset points",
            va="top",
        )
    _plain_numbers(ax, "x")
    _plain_numbers(ax, "y")
    ax.grid(axis="y")
    ax.set_xlabel("articles a month (log scale)")
    ax.set_ylabel("US dollars a month (log scale)")
    label_ends(ax, ends)
    return ax


def _spread(x: NDArray[np.float64]) -> float:
    """Factor by which the axis goes on beyond its outermost points."""
    return max(float(x.max() / x.min()) ** 0.12, 1.5)


def _steps(
    x: NDArray[np.float64], y: NDArray[np.float64], end: float
) -> list[tuple[float, float]]:
    """Corners of the front's stairs, from its first point to the edge of the axes."""
    corners = [(float(x[0]), float(y[0]))]
    for place, height in zip(x[1:], y[1:], strict=True):
        corners += [(float(place), corners[-1][1]), (float(place), float(height))]
    return [*corners, (end, corners[-1][1])]


def _plain_numbers(ax: Axes, name: str) -> None:
    """Write the powers of ten of a log axis as numbers, with no ticks between."""
    axis = ax.xaxis if name == "x" else ax.yaxis
    low, high = ax.get_xlim() if name == "x" else ax.get_ylim()
    few = high / low < 100
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=9))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
