"""Figures with lines: accuracy by labels and by layer, intervals by test rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from chapterlib.looks import Look, class_style, method_style
from chapterlib.metrics import wilson
from chapterlib.style import begin, label_ends, need, styled


@styled
def learning_curve(
    curves: pd.DataFrame,
    *,
    x_label: str = "labeled training rows (log scale)",
    ax: Axes | None = None,
    title: str = "Accuracy against labels",
) -> Axes:
    """Draw accuracy against the number of labels, a line with a band a method.

    Parameters
    ----------
    curves : DataFrame
        `method` (slug), `labels`, `accuracy`; `low` and `high` for the band, `title`
        to tell variants of one method apart, as in `records.table()`. Rows with NaN in
        one of the first three are left out. A method seen with 0 labels only is a
        dashed line across, since 0 has no place on a log scale.
    x_label : str
        What `labels` counts.
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
    """
    rows = need(curves, "method", "labels", "accuracy").sort_values("labels")
    ax = begin(ax, title)
    counts = sorted(set(rows["labels"]) - {0})
    ends = []
    names = _short_names(rows)
    seen: list[Look] = []
    for method, all_rows in rows.groupby("method", sort=False):
        look, some = method_style(str(method)), all_rows[all_rows["labels"] > 0]
        # Two variants of one method share its color and marker, not the dashes.
        dashes = ("-", (0, (4, 1.5)), (0, (1, 1)))[min(seen.count(look), 2)]
        seen.append(look)
        name = names[str(method)]
        if some.empty:
            last = all_rows.iloc[-1]
            ax.axhline(last["accuracy"], color=look.color, linestyle="--", lw=1.5)
            if {"low", "high"} <= set(all_rows):
                band = last["low"], last["high"]
                ax.axhspan(*band, color=look.color, alpha=0.12, linewidth=0)
            ends.append((float(last["accuracy"]), f"{name} (no labels)", look.color))
            continue
        _line(ax, some, "labels", look, linestyle=dashes)
        ends.append((float(some["accuracy"].iloc[-1]), name, look.color))
    ax.set_xscale("log", base=2)
    ax.xaxis.set_major_locator(FixedLocator(_apart(counts or [1])))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    if len(counts) < 2:
        middle = counts[0] if counts else 1
        ax.set_xlim(middle / 2, middle * 2)
    _accuracy_axis(ax)
    ax.set_xlabel(x_label)
    label_ends(ax, ends)
    return ax


@styled
def layer_curve(
    scores: pd.DataFrame,
    *,
    ax: Axes | None = None,
    title: str = "Accuracy by layer",
) -> Axes:
    """Draw how well each layer's states serve, a line a pooling.

    Parameters
    ----------
    scores : DataFrame
        `layer`, `pooling`, `accuracy`; `low` and `high` for a band.
    ax, title
        As in `learning_curve`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing or no row is complete.
    """
    rows = need(scores, "layer", "pooling", "accuracy").sort_values("layer")
    ax = begin(ax, title)
    ends = []
    for i, (pooling, some) in enumerate(rows.groupby("pooling", sort=True)):
        look = class_style(i)
        _line(ax, some, "layer", look, markersize=4)
        best = int(some["accuracy"].argmax())
        x, y = some["layer"].iloc[best], some["accuracy"].iloc[best]
        ax.plot([x], [y], "o", ms=13, mfc="none", mec=look.color)
        ends.append((float(some["accuracy"].iloc[-1]), str(pooling), look.color))
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _accuracy_axis(ax)
    ax.set_xlabel("layer (0: the embeddings; a ring marks each best)")
    label_ends(ax, ends)
    return ax


@styled
def interval_widths(
    rows: Sequence[int] = (30, 100, 300, 1000, 3800, 7600),
    *,
    shares: Sequence[float] = (0.5, 0.85, 0.95),
    level: float = 0.95,
    ax: Axes | None = None,
    title: str = "More test rows, narrower interval",
) -> Axes:
    """Draw how wide the Wilson interval of an accuracy is, by test rows.

    Parameters
    ----------
    rows : sequence of int
        Numbers of test rows; each has a tick.
    shares : sequence of float
        Accuracies, a line each.
    level : float
        Confidence level.
    ax, title
        As in `learning_curve`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a number of rows is below 1, or a share is not within 0 … 1.
    """
    if not len(rows) or min(rows) < 1 or not all(0 <= p <= 1 for p in shares):
        raise ValueError(f"rows={rows}, shares={shares}: give counts and shares.")
    ax = begin(ax, title)
    ends = []
    for i, share in enumerate(shares):
        look = class_style(i)
        bounds = [wilson(round(share * n), n, level) for n in rows]
        widths = [100 * (high - low) for low, high in bounds]
        ax.plot(rows, widths, color=look.color, marker=look.marker)
        ends.append((widths[-1], f"{share:.0%} right", look.color))
    # On two log scales the lines are straight: four times the rows, half the width.
    ax.set(xscale="log", yscale="log")
    for axis, ticks in ((ax.xaxis, list(rows)), (ax.yaxis, [1, 2, 5, 10, 20, 50])):
        axis.set_minor_locator(NullLocator())
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter(FuncFormatter(lambda n, _: f"{n:,.0f}"))
    ax.grid(axis="y")
    label_ends(ax, ends)
    ax.set_xlabel("test rows (log scale)")
    ax.set_ylabel(
        f"width of the {100 * level:g}% interval\n(percentage points, log scale)"
    )
    return ax


def _short_names(rows: pd.DataFrame) -> dict[str, str]:
    """Names for the ends of lines: the short one where no two methods share it."""
    methods = [str(method) for method in rows["method"].unique()]
    short = {method: method_style(method).label for method in methods}
    if "title" not in rows:
        titles = {method: method for method in methods}
    else:
        titles = dict(zip(rows["method"], rows["title"], strict=True))
    shared = {name for name in short.values() if list(short.values()).count(name) > 1}
    return {m: titles[m] if short[m] in shared else short[m] for m in methods}


def _line(ax: Axes, rows: pd.DataFrame, x: str, look: Look, **how: Any) -> None:
    color = look.color
    ax.plot(rows[x], rows["accuracy"], color=color, marker=look.marker, **how)
    if {"low", "high"} <= set(rows):
        low, high = (rows[name].astype(float) for name in ("low", "high"))
        if len(rows) > 1:
            ax.fill_between(rows[x], low, high, color=color, alpha=0.15, linewidth=0)
        else:
            ax.vlines(rows[x], low, high, color=color, alpha=0.35, lw=5)


def _accuracy_axis(ax: Axes) -> None:
    ax.grid(axis="y")
    ax.set_ylabel("accuracy (share of test rows)")
    # An accuracy above 1 is not there to be drawn.
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.0))


def _apart(counts: Sequence[float]) -> list[float]:
    """Ticks from the right, leaving out those whose numbers would run together."""
    room = max(np.log2(counts[-1] / counts[0]) / 9, 0.3)
    kept = [counts[-1]]
    for count in reversed(counts[:-1]):
        if np.log2(kept[-1] / count) >= room:
            kept.append(count)
    return kept[::-1]
