"""Figures that compare methods: the ladder, differences, and what accuracy costs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import ArrayLike, NDArray

from chapterlib.plots.styles import (
    NAMES,
    OKABE_ITO,
    ink,
    label_ends,
    label_points,
    method_style,
    new_axes,
    note,
    require_columns,
    short_names,
    styled,
)

# From a method's marks to the next one's, where 1 is from one budget to the next.
STEP = 0.18


@styled
def difference_matrix(
    table: pd.DataFrame, *, ax: Axes | None = None, title: str = "Which methods differ"
) -> Axes:
    """Draw by how many points each method beats each one that is less accurate.

    `table` is that of `metrics.pairwise_differences`. A difference whose corrected
    p-value is 0.05 or more stays without color.
    """
    rows = require_columns(
        table, "a", "b", "accuracy_a", "accuracy_b", "points", "p_holm"
    )
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
    ax = new_axes(ax, title, size=(5.6, 2.0 + 0.42 * k))
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
        digits = f"{value:.1f}" if value < 9.95 else f"{value:.0f}"
        text = f"{digits}\n{star}" if star else digits
        how: Any = {"color": "#222222" if star else "#767676", "linespacing": 0.9}
        ax.text(j + 0.5, i + 0.5, text, size=NAMES, ha="center", va="center", **how)
    short = short_names(order)
    names = [f"{short[name]}\n{accuracy[name]:.3f}" for name in order]
    middles = np.arange(k) + 0.5
    ax.set_yticks(middles, names[1:])
    ax.set_xticks(middles, [name.replace("\n", " ") for name in names[:-1]])
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

    `leads` has one row a draw: `method`, `labels` (seen in training) and `points`
    (percentage points ahead of the rival that learned from the very same rows).
    """
    rows = require_columns(leads, "method", "labels", "points")
    budgets = sorted(rows["labels"].unique())
    slugs = [str(slug) for slug in dict.fromkeys(rows["method"])]
    ax = new_axes(ax, title)
    ax.axhline(0, color="#666666", lw=1.2, zorder=0)
    for place, budget in enumerate(budgets):
        at = rows[rows["labels"] == budget]
        here = [slug for slug in slugs if slug in set(at["method"])]
        for i, slug in enumerate(here):
            style = method_style(slug)
            points = at.loc[at["method"] == slug, "points"].to_numpy(float)
            x = place + STEP * (i - (len(here) - 1) / 2)
            bar = x - 0.35 * STEP, x + 0.35 * STEP
            ax.hlines(points.mean(), *bar, color=style.color, lw=3)
            marks = np.full(len(points), x)
            ax.plot(marks, points, style.marker, color=style.color, alpha=0.65)
    for style in map(method_style, slugs):
        ax.plot([], [], style.marker, color=style.color, label=style.label)
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


def pareto_front(cost: ArrayLike, value: ArrayLike) -> NDArray[np.bool_]:
    """Tell which of n choices [n] no other one beats; of two alike, none does."""
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
        `method`, `accuracy` and the column; `low` and `high` for an interval; `label`
        for the names beside the points, which are else the methods' short names, or
        `title` where two share one. Rows with NaN in the first three are left out.
    column : str
        Money, memory or time, above 0; on a log scale.
    x_label : str
        What the column is, with its unit.
    """
    rows = require_columns(runs, "method", "accuracy", column).sort_values(column)
    x, y = rows[column].to_numpy(float), rows["accuracy"].to_numpy(float)
    if not (x > 0).all():
        raise ValueError(
            f"{column} is {x.min():g} for {rows['method'].iloc[0]}: a log scale takes "
            "values above 0 only. Leave out what costs nothing, or count what it does."
        )
    ax = new_axes(ax, title, size=(5.6, 4.4))
    slugs = [str(slug) for slug in rows["method"]]
    styles = [method_style(slug) for slug in slugs]
    if {"low", "high"} <= set(rows):
        bounds = rows[["low", "high"]].to_numpy(float)
        for place, bound, style in zip(x, bounds, styles, strict=True):
            ax.vlines(place, *bound, color=style.color, alpha=0.35, lw=4)
    for place, height, style in zip(x, y, styles, strict=True):
        ax.plot(place, height, style.marker, color=style.color, markersize=8)
    ax.set_xscale("log")
    # How far the axis goes on beyond its outermost points.
    more = max(float(x.max() / x.min()) ** 0.12, 1.5)
    ax.set_xlim(x.min() / more, x.max() * more)
    front = pareto_front(x, y)
    corners = _steps(x[front], y[front], ax.get_xlim()[1])
    ax.plot(*np.transpose(corners), color="#999999", lw=1.2, zorder=0)
    ax.grid(axis="y")
    ax.set_ylabel("accuracy (share of test rows)")
    ax.set_xlabel(f"{x_label}, log scale\n(line: nothing is both cheaper and better)")
    ax.margins(y=0.12)
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.0))
    _plain_numbers(ax, "x")
    short = short_names(slugs, rows.get("title"))
    names = [str(name) for name in rows.get("label", [short[slug] for slug in slugs])]
    points, colors = list(zip(x, y, strict=True)), [style.color for style in styles]
    label_points(ax, points, names, colors, lines=corners)
    return ax


@styled
def break_even_lines(
    counts: ArrayLike,
    own: ArrayLike,
    hosted: ArrayLike,
    *,
    crossing: float | None = None,
    unit: str = "articles",
    names: tuple[str, str] = ("own small model", "hosted large model"),
    ax: Axes | None = None,
    title: str = "Where a small model becomes the cheaper one",
) -> Axes:
    """Draw the monthly costs of two models against the articles a month.

    Parameters
    ----------
    counts, own, hosted : array-like of float, shape (n,)
        Articles a month, in rising order, and what the small model of one's own and
        the hosted one cost in US dollars a month, all above 0, for log scales.
    crossing : float, optional
        From how many articles on the small model is cheaper: marked and named.
    unit, names
        What is counted, and the names of the small and of the hosted model.
    """
    x, small, large = (np.asarray(values, float) for values in (counts, own, hosted))
    if not x.ndim == 1 == small.ndim or not x.shape == small.shape == large.shape:
        raise ValueError(
            f"counts, own and hosted have the shapes {x.shape}, {small.shape} and "
            f"{large.shape}: give both costs of each count."
        )
    if not len(x) or not (small > 0).all() or not (large > 0).all():
        raise ValueError(
            "One of the models costs nothing at all: there are no two lines to compare."
        )
    ax = new_axes(ax, title)
    ends = []
    lines = ((names[0], small, "green"), (names[1], large, "purple"))
    for name, costs, color in lines:
        ax.plot(x, costs, color=OKABE_ITO[color])
        ends.append((float(costs[-1]), name, OKABE_ITO[color]))
    ax.set(xscale="log", yscale="log", xlim=(x[0], x[-1]))
    if crossing is not None:
        cost = float(np.interp(crossing, x, large))
        ax.axvline(crossing, color="#767676", linestyle=":", lw=1.5)
        ax.plot(crossing, cost, "o", color="#222222")
        text = f"{crossing:,} {unit}\nfor ${cost:,.2f} per month"
        note(ax, text, (crossing, cost), (8, -8), va="top")
    _plain_numbers(ax, "x")
    _plain_numbers(ax, "y")
    ax.grid(axis="y")
    ax.set_xlabel(f"{unit} per month (log scale)")
    ax.set_ylabel("US dollars per month (log scale)")
    label_ends(ax, ends)
    return ax


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
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,), numticks=5))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))


@styled
def ladder(
    runs: pd.DataFrame,
    *,
    start: float = 0.0,
    ax: Axes | None = None,
    title: str = "The ladder: how far each method climbs",
) -> Axes:
    """Draw the best run of each method: accuracy, interval, and labels it took.

    Parameters
    ----------
    runs : DataFrame
        `records.table()`, of one data set. Rows without an accuracy are left out; of
        each method and model the most accurate budget is drawn.
    start : float
        Left end of the axis at the least: a method below it is an arrow at the edge.
    """
    needed = "method", "title", "accuracy", "labels", "test_rows", "level", "data"
    rows = require_columns(runs, *needed)
    names = rows["data"].unique()
    if len(names) > 1:
        raise ValueError(
            f"These runs are of different data ({', '.join(names)}): draw those of one."
        )
    # Without an interval, the bar shrinks to the point.
    rows = rows.assign(
        low=rows["low"].fillna(rows["accuracy"]),
        high=rows["high"].fillna(rows["accuracy"]),
    )
    rows = rows.sort_values(["accuracy", "labels"], ascending=[False, True])
    rows = rows.drop_duplicates(["method", "model"])
    rungs: list[dict[Any, Any]] = rows.to_dict("records")
    ax = new_axes(ax, title, size=(5.6, 1.5 + 0.47 * len(rungs)))
    start = start if rungs[0]["accuracy"] > start else 0.0
    above = rows[rows["accuracy"] > start]
    pad = max(0.04 * (above["high"].max() - above["low"].min()), 0.005)
    # On the right, room for the number beside the bar.
    ax.set_xlim(max(start, above["low"].min() - 2 * pad), above["high"].max() + 5 * pad)
    for y, rung in enumerate(rungs):
        style, place = method_style(rung["method"]), rung["high"]
        if rung["accuracy"] > start:
            bounds = [rung["low"], rung["high"]]
            ax.plot(bounds, [y, y], color=style.color, linewidth=5, alpha=0.35)
            ax.plot(rung["accuracy"], y, style.marker, color=style.color, markersize=7)
        else:
            place = ax.get_xlim()[0]
            far: Any = {"arrowprops": {"arrowstyle": "->", "color": style.color}}
            note(ax, "", (place, y), (30, 0), **far)
        how: Any = {"color": ink(style.color), "fontweight": "bold", "va": "center"}
        move = 10 if rung["accuracy"] > start else 34
        note(ax, f"{rung['accuracy']:.3f}", (place, y), (move, 0), **how)
    ax.set_yticks(range(len(rungs)), [_rung(rung) for rung in rungs])
    ax.set_ylim(len(rungs) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x")
    tested = " or ".join(f"{n:,}" for n in sorted(set(rows["test_rows"])))
    ax.set_xlabel(
        f"accuracy on {tested} test rows of {names[0]}\n"
        f"(bar: {100 * rungs[0]['level']:g}% interval)",
        loc="right",  # in the middle it would leave the page: long names stand left
    )
    return ax


def _rung(rung: dict[Any, Any]) -> str:
    count = rung["labels"]
    labels = f"{count:,.0f} labels" if count else "no labels"
    seeds = f", mean of {rung['seeds']} seeds" if rung.get("seeds", 1) > 1 else ""
    return f"{rung['title']}\n{labels}{seeds}"
