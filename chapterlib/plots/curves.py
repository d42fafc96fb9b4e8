"""Figures with lines: accuracy by labels, layer and confidence; losses; intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.axes import Axes

from chapterlib.metrics.calibration import Reliability
from chapterlib.metrics.evaluation import wilson
from chapterlib.plots.styles import (
    NAMES,
    Style,
    class_style,
    label_ends,
    method_named,
    method_style,
    new_axes,
    require_columns,
    short_names,
    styled,
)


@styled
def learning_curve(
    curves: pd.DataFrame,
    *,
    x_label: str = "labeled training rows (log scale)",
    zoom: Sequence[str] = (),
    ax: Axes | None = None,
    title: str = "Accuracy against labels",
) -> Axes:
    """Draw accuracy against the number of labels, a line with a band a method.

    Parameters
    ----------
    curves : DataFrame
        `method`, `labels`, `accuracy`; `low` and `high` for the band, `title` to tell
        variants of one method apart, as in `records.table()`. Rows with NaN in one of
        the first three are left out. A method seen with 0 labels only is a dashed line
        across, since 0 has no place on a log scale.
    x_label : str
        What `labels` counts.
    zoom : sequence of str
        Methods that a second panel below shows enlarged, in a figure of two.
    """
    rows = require_columns(curves, "method", "labels", "accuracy").sort_values("labels")
    if zoom:
        if ax is not None or not set(zoom) & set(rows["method"]):
            raise ValueError(
                f"zoom={list(zoom)}: give methods of the table, and no ax, since two "
                "panels need a figure of their own."
            )
        _, (above, below) = plt.subplots(2, figsize=(5.6, 7.4), layout="constrained")
        learning_curve(curves, x_label=x_label, ax=above, title=title)
        near = curves[curves["method"].isin(list(zoom))]
        learning_curve(near, x_label=x_label, ax=below, title="Enlarged")
        return above
    ax = new_axes(ax, title)
    counts = sorted(set(rows["labels"]) - {0})
    ends, right = [], []
    names = short_names(rows["method"], rows.get("title"))
    seen: list[str] = []
    for method, all_rows in rows.groupby("method", sort=False):
        style, some = method_style(str(method)), all_rows[all_rows["labels"] > 0]
        dashes = _dashes(style.color, seen)
        name = names[str(method)]
        if some.empty:
            last = all_rows.iloc[-1]
            ax.axhline(last["accuracy"], color=style.color, linestyle="--", lw=1.5)
            if {"low", "high"} <= set(all_rows):
                band = last["low"], last["high"]
                ax.axhspan(*band, color=style.color, alpha=0.12, linewidth=0)
            ends.append((float(last["accuracy"]), f"{name} (no labels)", style.color))
            right.append(np.inf)
            continue
        _line(ax, some, "labels", style, linestyle=dashes)
        ends.append((float(some["accuracy"].iloc[-1]), name, style.color))
        right.append(float(some["labels"].iloc[-1]))
    ax.set_xscale("log", base=2)
    _count_ticks(ax, counts)
    if len(counts) < 2:
        middle = counts[0] if counts else 1
        ax.set_xlim(middle / 2, middle * 2)
    _accuracy_axis(ax)
    ax.set_xlabel(x_label)
    label_ends(ax, ends, x=np.minimum(right, ax.get_xlim()[1]))
    return ax


@styled
def layer_curve(
    scores: pd.DataFrame, *, ax: Axes | None = None, title: str = "Accuracy by layer"
) -> Axes:
    """Draw how well each layer's states serve, a line a pooling.

    `scores` holds `layer`, `pooling`, `accuracy`; `low` and `high` for a band.
    """
    rows = require_columns(scores, "layer", "pooling", "accuracy").sort_values("layer")
    ax = new_axes(ax, title)
    ends = []
    for i, (pooling, some) in enumerate(rows.groupby("pooling", sort=True)):
        style = class_style(i)
        _line(ax, some, "layer", style, markersize=4)
        best = int(some["accuracy"].argmax())
        x, y = some["layer"].iloc[best], some["accuracy"].iloc[best]
        ax.plot([x], [y], "o", ms=13, mfc="none", mec=style.color)
        ends.append((float(some["accuracy"].iloc[-1]), str(pooling), style.color))
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    _accuracy_axis(ax, "cross-validated accuracy")
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
    rows, shares : sequence of int, sequence of float
        Numbers of test rows, with a tick where there is room; accuracies, a line each.
    level : float
        Confidence level.
    """
    if not len(rows) or min(rows) < 1 or not all(0 <= p <= 1 for p in shares):
        raise ValueError(f"rows={rows}, shares={shares}: give counts and shares.")
    ax = new_axes(ax, title)
    ends = []
    for i, share in enumerate(shares):
        style = class_style(i)
        bounds = [wilson(round(share * n), n, level) for n in rows]
        widths = [100 * (high - low) for low, high in bounds]
        ax.plot(rows, widths, color=style.color, marker=style.marker)
        ends.append((widths[-1], f"{share:.0%} right", style.color))
    # On two log scales the lines are straight: four times the rows, half the width.
    ax.set(xscale="log", yscale="log")
    _count_ticks(ax, sorted(rows))
    ax.yaxis.set_minor_locator(ticker.NullLocator())
    ax.yaxis.set_major_locator(ticker.FixedLocator([1, 2, 5, 10, 20, 50]))
    ax.yaxis.set_major_formatter("{x:,.0f}")
    ax.grid(axis="y")
    ax.set_xlabel("test rows (log scale)")
    ax.set_ylabel(
        f"width of the {100 * level:g}% interval\n(percentage points, log scale)"
    )
    label_ends(ax, ends)
    return ax


def _line(ax: Axes, rows: pd.DataFrame, x: str, style: Style, **how: Any) -> None:
    color = style.color
    ax.plot(rows[x], rows["accuracy"], color=color, marker=style.marker, **how)
    if {"low", "high"} <= set(rows):
        low, high = (rows[name].astype(float) for name in ("low", "high"))
        if len(rows) > 1:
            ax.fill_between(rows[x], low, high, color=color, alpha=0.15, linewidth=0)
        else:
            ax.vlines(rows[x], low, high, color=color, alpha=0.35, lw=5)


def _accuracy_axis(ax: Axes, label: str = "accuracy (share of test rows)") -> None:
    ax.grid(axis="y")
    ax.set_ylabel(label)
    # An accuracy above 1 is not there to be drawn.
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.0))


def _dashes(color: str, seen: list[str]) -> Any:
    """Dashes of a line: whole, unless its color has been `seen`, as a variant's is."""
    seen.append(color)
    return ("-", (0, (4, 1.5)), (0, (1, 1)))[min(seen.count(color), 3) - 1]


def _count_ticks(ax: Axes, counts: Sequence[float]) -> None:
    """Give each count a tick on the x-axis, with its number where there is room."""
    ax.xaxis.set_major_locator(ticker.FixedLocator(counts))
    ax.xaxis.set_minor_locator(ticker.NullLocator())
    ax.xaxis.set_major_formatter(_Apart("{x:,.0f}"))


class _Apart(ticker.StrMethodFormatter):
    """Numbers of ticks, from the right, but none that would touch another.

    It is asked when the figure is drawn: only then is known how wide the axes are.
    """

    def format_ticks(self, values: Any) -> list[str]:
        ax: Any = self.axis.axes  # type: ignore[union-attr]
        digit = 0.64 * NAMES * ax.figure.dpi / 72
        texts, edge = [], np.inf
        for value in reversed(values):
            text, place = self(value), ax.transData.transform((value, 1))[0]
            half = digit * (len(text) + 1) / 2
            texts.append(text if place + half <= edge else "")
            edge = place - half if texts[-1] else edge
        return texts[::-1]


@styled
def loss_curve(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    smooth: int = 8,
    ax: Axes | None = None,
    title: str = "The loss falls with every epoch",
) -> Axes:
    """Draw the training loss of one or more runs, and their held-out loss as dots.

    A run whose name tells of a method, such as "LoRA, rank 8", has its color.

    Parameters
    ----------
    histories : mapping of str to list of dict
        Name of each run, and its ``history_`` (`training.FinetunedClassifier`).
    smooth : int
        Logged losses that a point of the line averages, itself and those before it;
        the losses themselves stand behind it, faint.
    """
    if not histories:
        raise ValueError("histories is empty: give the history_ of at least one run")
    ax = new_axes(ax, title)
    ends, right, judged = [], [], False
    seen: list[str] = []
    for number, (name, history) in enumerate(histories.items()):
        rows = pd.DataFrame([dict(row) for row in history])
        if "loss" not in rows or rows["loss"].isna().all():
            raise ValueError(f"the history of {name!r} holds no loss: fit it first")
        style = method_named(name) or class_style(number)
        dashes = _dashes(style.color, seen)
        logged = rows.dropna(subset=["loss"])
        # No mean of fewer, which would scatter; but of a short run more than its end.
        whole = min(smooth, max(len(logged) // 2, 1))
        mean = logged["loss"].rolling(whole).mean()
        faint: Any = {"color": style.color, "alpha": 0.25, "lw": 1}
        ax.plot(logged["epoch"], logged["loss"], ".-", **faint)
        ax.plot(logged["epoch"], mean, color=style.color, ls=dashes)
        if "eval_loss" in rows:
            judged = True
            held = rows.dropna(subset=["eval_loss"])
            dots: Any = {"color": style.color, "marker": style.marker, "ls": "--"}
            dots["mfc"] = style.color if dashes == "-" else "white"
            ax.plot(held["epoch"], held["eval_loss"], markersize=8, **dots)
        ends.append((float(mean.iloc[-1]), name, style.color))
        right.append(float(logged["epoch"].iloc[-1]))
    ax.set_xlabel("epoch (dots: held-out rows)" if judged else "epoch")
    ax.set_ylabel("cross-entropy (nats per row)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    label_ends(ax, ends, x=right)
    return ax


@styled
def reliability_diagram(
    results: Reliability | Mapping[str, Reliability],
    *,
    level: float = 0.95,
    least_rows: int = 10,
    ax: Axes | None = None,
    title: str = "How often a method is right when it is this sure",
) -> Axes:
    """Draw accuracy against confidence, and the diagonal where they agree.

    Parameters
    ----------
    results : Reliability, or mapping of str to Reliability
        Of `metrics.reliability`; a mapping has slugs of methods as names. A larger
        marker stands for more rows.
    level, least_rows
        Of the bins' Wilson intervals; and what a bin needs to be drawn. The error in
        the label counts every bin.
    """
    if isinstance(results, Reliability):
        results = {"": results}
    filled = {
        slug: found.bins[found.bins["rows"] >= max(least_rows, 1)]
        for slug, found in results.items()
    }
    filled = {slug: bins for slug, bins in filled.items() if not bins.empty}
    if not filled:
        raise ValueError(
            f"No bin holds least_rows={least_rows} rows: lower it, or answer more."
        )
    ax = new_axes(ax, title, size=(5.6, 4.4))
    start = pd.concat(filled)[["confidence", "accuracy"]].to_numpy().min()
    start = max(np.floor(10 * start - 0.5) / 10, 0.0)
    ax.plot([start, 1], [start, 1], color="#767676", linestyle="--", lw=1.2, zorder=0)
    short = short_names(filled)
    ends, right = [], []
    for slug, bins in filled.items():
        style = method_style(slug)
        color = style.color if slug else method_style("probe").color
        x, y, n = bins["confidence"], bins["accuracy"], bins["rows"]
        for place, hits, count in zip(x, bins["right"], n, strict=True):
            bounds = wilson(hits, count, level)
            ax.vlines(place, *bounds, color=color, alpha=0.3, lw=3)
        ax.plot(x, y, color=color, lw=1.5)
        marker, sizes = style.marker if slug else "o", 18 + 120 * n / n.sum()
        ax.scatter(x, y, s=sizes, color=color, marker=marker, zorder=3)
        error = f"{results[slug].error:.3f}"
        name = f"{short[slug]} ({error})" if slug else f"error {error}"
        ends.append((float(y.iloc[-1]), name, color))
        right.append(float(x.iloc[-1]))
    ax.set(xlim=(start, 1.01), ylim=(start, 1.03))
    ax.grid(axis="y")
    note = f"dashed: as sure as right; bar: {100 * level:g}% interval"
    if "" not in filled:
        note += ";\nin brackets: expected calibration error"
    ax.set_xlabel(f"confidence (mean over the rows of a bin)\n({note})")
    ax.set_ylabel("accuracy (share of the bin's rows)")
    label_ends(ax, ends, x=right)
    return ax


@styled
def abstention_lines(
    curves: Mapping[str, pd.DataFrame],
    *,
    least_rows: int = 30,
    ax: Axes | None = None,
    title: str = "What it is worth to leave out unsure answers",
) -> Axes:
    """Draw how accurate the surest answers are, against how many these are.

    `curves` maps slugs of methods to `metrics.abstention_curve`. A line begins where it
    rests on `least_rows`: before, it says little.
    """
    kept = {}
    for slug, curve in curves.items():
        rows = require_columns(curve, "rows", "coverage", "accuracy")
        rows = rows[rows["rows"] >= least_rows]
        if not rows.empty:
            kept[slug] = rows
    if not kept:
        raise ValueError(
            f"No curve rests on least_rows={least_rows} rows: lower it, or answer more."
        )
    ax = new_axes(ax, title)
    short = short_names(kept)
    ends = []
    for slug, rows in kept.items():
        style = method_style(slug)
        # Markers at equal distances, however the thresholds lie.
        near = np.searchsorted(rows["coverage"], np.linspace(0.1, 0.9, 5)).tolist()
        marked = sorted({i for i in near if i < len(rows)} | {len(rows) - 1})
        how: Any = {"color": style.color, "marker": style.marker, "markevery": marked}
        ax.plot(rows["coverage"], rows["accuracy"], clip_on=False, **how)
        ends.append((float(rows["accuracy"].iloc[-1]), short[slug], style.color))
    ax.set_xlim(0, 1.01)
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.003))
    ax.xaxis.set_major_formatter(ticker.PercentFormatter(1))
    ax.grid(axis="y")
    ax.set_xlabel("coverage (share of test rows answered, surest first)")
    ax.set_ylabel("accuracy (share of the answers)")
    label_ends(ax, ends)
    return ax
