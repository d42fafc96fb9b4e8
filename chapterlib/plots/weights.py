"""Figures of weights: how numbers are stored, how well, and what a matrix holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import ArrayLike, NDArray

from chapterlib.plots.styles import (
    NAMES,
    OKABE_ITO,
    class_style,
    ink,
    new_axes,
    note,
    require_columns,
    styled,
)

# IEEE 754 for the first and third; the second is the upper half of the first. NF4
# holds nothing but the number of a level.
FORMATS = {
    "float32": {"sign": 1, "exponent": 8, "fraction": 23},
    "bfloat16": {"sign": 1, "exponent": 8, "fraction": 7},
    "float16": {"sign": 1, "exponent": 5, "fraction": 10},
    "NF4": {"level": 4},
}
BIT_COLORS = {
    "sign": OKABE_ITO["vermilion"],
    "exponent": OKABE_ITO["sky"],
    "fraction": OKABE_ITO["orange"],
    "level": OKABE_ITO["green"],
}


@styled
def bit_layout(
    *, ax: Axes | None = None, title: str = "What the bits of a number are for"
) -> Axes:
    """Draw what each bit of the number formats of `FORMATS` is for."""
    ax = new_axes(ax, title, size=(5.6, 0.9 + 0.5 * len(FORMATS)))
    named: set[str] = set()
    for row, layout in enumerate(FORMATS.values()):
        left = 0
        for kind, bits in layout.items():
            for bit in range(left, left + bits):
                box = Rectangle((bit + 0.06, row - 0.34), 0.88, 0.68)
                box.set(facecolor=BIT_COLORS[kind], label="" if kind in named else kind)
                ax.add_patch(box)
                named.add(kind)
            left += bits
        ax.text(left + 0.4, row, f"{left} bits", va="center", fontsize=NAMES)
    widest = max(sum(layout.values()) for layout in FORMATS.values())
    ax.set(xlim=(0, widest + 5), ylim=(len(FORMATS) - 0.5, -0.5))
    ax.set_yticks(range(len(FORMATS)), list(FORMATS))
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[["left", "bottom"]].set_visible(False)
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.02),
        ncols=len(named),
        fontsize=NAMES,
    )
    return ax


@styled
def weight_levels(
    weights: ArrayLike,
    levels: ArrayLike,
    *,
    ax: Axes | None = None,
    title: str = "Weights and the levels that stand for them",
) -> Axes:
    """Draw how weights are spread, a normal curve, and the levels they are rounded to.

    The weights, of any shape, are scaled as the levels [k] are, so from -1 to 1.
    """
    # Slow to import, and of use here only.
    from scipy.stats import norm

    values, marks = np.ravel(np.asarray(weights, float)), np.asarray(levels, float)
    if values.size == 0 or values.std() == 0:
        raise ValueError("the weights are none or all alike: there is nothing to see")
    ax = new_axes(ax, title)
    ax.hist(values, bins=161, density=True, color=OKABE_ITO["sky"], label="weights")
    x = np.linspace(-1, 1, 401)
    normal = norm.pdf(x, values.mean(), values.std())
    ax.plot(x, normal, color=OKABE_ITO["black"], linewidth=1.5, label="normal curve")
    top = ax.get_ylim()[1]
    how: Any = {"color": OKABE_ITO["vermilion"], "label": f"{len(marks)} levels"}
    ax.vlines(marks, -0.1 * top, -0.01 * top, linewidth=2, **how)
    ax.set(ylim=(-0.12 * top, top), xlim=(-1.04, 1.04), yticks=[])
    ax.set(xlabel="weight / largest weight of its block", ylabel="frequency")
    ax.spines["left"].set_visible(False)
    ax.legend(loc="upper left")
    return ax


@styled
def error_curve(
    frame: pd.DataFrame,
    *,
    ax: Axes | None = None,
    title: str = "Finer blocks cost bits and save error",
) -> Axes:
    """Draw the error of quantized weights against the bits that they take.

    `frame` has the columns "bits" (a weight), "error" (relative, from 0 to 1), "series"
    (one line each) and "block" (weights that share a scale: written at the points).
    """
    rows = require_columns(frame, "bits", "error", "series", "block")
    ax = new_axes(ax, title)
    for i, (name, line) in enumerate(rows.groupby("series", sort=False)):
        style = class_style(i)
        line = line.sort_values("bits")
        how: Any = {"marker": style.marker, "color": style.color, "label": str(name)}
        ax.plot(line["bits"], line["error"], **how)
        # Every other line has its numbers on the left, so that they don't meet.
        move, ha = ((-8, -4), "right") if i % 2 else ((0, -16), "center")
        letters: Any = {"fontsize": NAMES, "color": ink(style.color), "ha": ha}
        for bits, error, block in line[["bits", "error", "block"]].to_numpy():
            note(ax, f"{block:,.0f}", (bits, error), move, **letters)
    ax.margins(x=0.1, y=0.15)
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=1))
    ax.grid(axis="y")
    ax.set(xlabel="bits per weight, scales included", ylabel="relative error")
    ax.legend()
    return ax


@styled
def spectrum(
    values: Mapping[str, Sequence[float] | ArrayLike],
    *,
    mark: int | None = None,
    ax: Axes | None = None,
    title: str = "How many directions hold most of a matrix",
) -> Axes:
    """Draw what share of a matrix its strongest directions hold.

    `values` are the singular values of each matrix, the largest first, `mark` is a rank
    to point out. The share is that of the squared Frobenius norm; no other matrix of
    that rank comes closer (Eckart and Young 1936, https://doi.org/10.1007/BF02288367).
    """
    spectra = {name: np.asarray(v, float) ** 2 for name, v in values.items()}
    if not spectra or not all(s.sum() > 0 for s in spectra.values()):
        raise ValueError("values must name at least one matrix, and none may be zero")
    ax = new_axes(ax, title)
    ends = []
    for i, (name, squares) in enumerate(spectra.items()):
        shares = np.cumsum(squares) / squares.sum()
        style = class_style(i)
        ax.plot(np.arange(1, len(shares) + 1), shares, color=style.color)
        ends.append((shares, name, style.color))
    if mark is not None:
        ax.axvline(mark, color=OKABE_ITO["gray"], linestyle=":", linewidth=1.5)
    ax.set_xscale("log", base=2)
    longest = max(len(shares) for shares, _, _ in ends)
    ticks = 2 ** np.arange(0, int(np.log2(longest)) + 1)
    ax.set_xticks(ticks, [f"{t}" for t in ticks])
    ax.minorticks_off()
    ax.set(xlim=(1, longest), ylim=(0, 1.02))
    ax.yaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y")
    ax.set(xlabel="rank (strongest directions kept)", ylabel="share of the matrix")
    # Named at a low rank: at their ends all lines meet.
    for shares, name, color in ends:
        at = min(4, len(shares))
        letters: Any = {"ha": "right", "color": ink(color), "fontsize": NAMES}
        note(ax, name, (at, float(shares[at - 1])), (-6, 6), **letters)
    return ax


@styled
def memory_bars(
    sizes: pd.DataFrame,
    *,
    unit: str = "GB",
    ax: Axes | None = None,
    title: str = "Where the memory goes",
) -> Axes:
    """Draw stacked bars of memory, with the sum at the end of each.

    `sizes` has a bar a row, a part a column, in `unit`; from top to bottom.
    """
    values = sizes.to_numpy(float)
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("sizes must hold at least one bar, and no value below 0")
    ax = new_axes(ax, title, size=(5.6, 1.5 + 0.45 * len(sizes)))
    left = np.zeros(len(sizes))
    for i, part in enumerate(sizes.columns):
        how: Any = {"height": 0.62, "color": class_style(i).color, "label": str(part)}
        ax.barh(range(len(sizes)), values[:, i], left=left, **how)
        left += values[:, i]
    _name_bars(ax, [str(name) for name in sizes.index], left)
    ax.set(xlabel=f"memory ({unit})", xlim=(0, 1.14 * left.max()))
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.75 / (0.4 + 0.45 * len(sizes))),
        ncols=min(4, sizes.shape[1]),
    )
    return ax


@styled
def loss_bars(
    losses: Mapping[str, float],
    *,
    unit: str = "nats per token",
    ax: Axes | None = None,
    title: str = "What each variant costs",
) -> Axes:
    """Draw the loss of some variants of a model, the first of them as the measure."""
    names, values = list(losses), np.array(list(losses.values()), float)
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("losses must hold at least one variant, and no value below 0")
    ax = new_axes(ax, title, size=(5.6, 1.1 + 0.42 * len(names)))
    colors = [OKABE_ITO["gray"]] + [OKABE_ITO["blue"]] * (len(names) - 1)
    ax.barh(range(len(names)), values, height=0.62, color=colors)
    ax.axvline(values[0], color=OKABE_ITO["gray"], linestyle=":", linewidth=1.5)
    _name_bars(ax, names, values)
    ax.set(xlabel=f"loss ({unit})", xlim=(0, 1.12 * max(values.max(), 1e-9)))
    return ax


def _name_bars(ax: Axes, names: Sequence[str], lengths: NDArray[np.float64]) -> None:
    """Write each bar's name before it and its length behind it, the first on top."""
    for row, value in enumerate(lengths):
        digits = 0 if value >= 100 else 1 if value >= 10 else 2
        text = f"{value:,.{digits}f}"
        note(ax, text, (value, row), (5, 0), va="center", fontsize=NAMES)
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
