"""Figures of confidence: whether it is deserved, and what it is worth to abstain."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from chapterlib.calibration import Reliability
from chapterlib.labelplaces import short_names
from chapterlib.looks import method_style
from chapterlib.metrics import wilson
from chapterlib.style import begin, label_ends, need, styled

__all__ = ["abstention_lines", "reliability_diagram"]


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
    level : float
        Confidence level of the Wilson intervals of the bins.
    least_rows : int
        A bin with fewer rows is not drawn: its accuracy says little. The error in
        the label counts every bin.
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
        If no bin has `least_rows` rows.
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
    ax = begin(ax, title, size=(6.2, 4.4))
    start = min(
        min(bins["confidence"].min(), bins["accuracy"].min())
        for bins in filled.values()
    )
    start = max(np.floor(10 * start - 0.5) / 10, 0.0)
    ax.plot([start, 1], [start, 1], color="#767676", linestyle="--", lw=1.2, zorder=0)
    short = short_names(filled)
    ends = []
    for slug, bins in filled.items():
        look = method_style(slug)
        color = look.color if slug else method_style("probe").color
        for x, right, n in bins[["confidence", "right", "rows"]].to_numpy():
            ax.vlines(
                x, *wilson(int(right), int(n), level), color=color, alpha=0.3, lw=3
            )
        ax.plot(bins["confidence"], bins["accuracy"], color=color, lw=1.5)
        ax.scatter(
            bins["confidence"],
            bins["accuracy"],
            s=18 + 120 * bins["rows"] / bins["rows"].sum(),
            color=color,
            marker=look.marker if slug else "o",
            zorder=3,
        )
        error = f"{results[slug].error:.3f}"
        name = f"{short[slug]} ({error})" if slug else f"error {error}"
        # At the very top, a pile of names would run into the title.
        top = 1 - 0.03 * len(filled) * (1 - start)
        ends.append((min(float(bins["accuracy"].iloc[-1]), top), name, color))
    ax.set(xlim=(start, 1.01), ylim=(start, 1.01))
    ax.grid(axis="y")
    note = f"dashed: as sure as right; bar: {100 * level:g}% interval"
    if "" not in filled:
        note += ";\nin brackets: expected calibration error"
    ax.set_xlabel(f"confidence (mean over the rows of a bin)\n({note})")
    ax.set_ylabel("accuracy (share of the bin's rows)")
    label_ends(ax, ends)
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

    Parameters
    ----------
    curves : mapping of str to DataFrame
        Of `metrics.abstention_curve`, with slugs of methods as names.
    least_rows : int
        A line begins where it rests on so many rows: before, it says little.
    ax, title
        As in `reliability_diagram`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If a column is missing, or no curve reaches `least_rows`.
    """
    kept = {}
    for slug, curve in curves.items():
        rows = need(curve, "rows", "coverage", "accuracy")
        rows = rows[rows["rows"] >= least_rows]
        if not rows.empty:
            kept[slug] = rows
    if not kept:
        raise ValueError(
            f"No curve rests on least_rows={least_rows} rows: lower it, or answer more."
        )
    ax = begin(ax, title)
    short = short_names(kept)
    ends = []
    for slug, rows in kept.items():
        look = method_style(slug)
        # Markers at equal distances, however the thresholds lie.
        near = np.searchsorted(rows["coverage"], np.linspace(0.1, 0.9, 5)).tolist()
        marked = sorted({i for i in near if i < len(rows)} | {len(rows) - 1})
        ax.plot(
            rows["coverage"],
            rows["accuracy"],
            color=look.color,
            marker=look.marker,
            markevery=marked,
        )
        ends.append((float(rows["accuracy"].iloc[-1]), short[slug], look.color))
    ax.set_xlim(0, 1.01)
    ax.set_ylim(top=min(ax.get_ylim()[1], 1.003))
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y")
    ax.set_xlabel("coverage (share of test rows answered, surest first)")
    ax.set_ylabel("accuracy (share of the answers)")
    label_ends(ax, ends)
    return ax
