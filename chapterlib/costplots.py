"""Figures of costs: where the memory goes, and what a saving does to the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from chapterlib.looks import OKABE_ITO, class_style
from chapterlib.style import begin, styled

__all__ = ["loss_bars", "memory_bars"]


@styled
def memory_bars(
    sizes: pd.DataFrame,
    *,
    unit: str = "GB",
    ax: Axes | None = None,
    title: str = "Where the memory goes",
) -> Axes:
    """Draw stacked bars of memory, with the sum at the end of each.

    Parameters
    ----------
    sizes : DataFrame
        A bar a row, a part a column, in `unit`; from top to bottom.
    unit : str
        For the axis and the sums.
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
        If there is no bar, or a size is negative or missing.
    """
    values = sizes.to_numpy(float)
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("sizes must hold at least one bar, and no value below 0")
    ax = begin(ax, title, size=(6.2, 1.5 + 0.45 * len(sizes)))
    left = np.zeros(len(sizes))
    for i, part in enumerate(sizes.columns):
        ax.barh(
            range(len(sizes)),
            values[:, i],
            left=left,
            height=0.62,
            color=class_style(i).color,
            label=str(part),
        )
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
    unit: str = "nats a token",
    ax: Axes | None = None,
    title: str = "What each variant costs",
) -> Axes:
    """Draw the loss of some variants of a model, the first of them as the measure.

    Parameters
    ----------
    losses : mapping of str to float
        From top to bottom; the first one is drawn in gray, with a line down from it.
    unit : str
        For the axis.
    ax, title
        As in `memory_bars`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no variant, or a loss is negative or no number.
    """
    names, values = list(losses), np.array(list(losses.values()), float)
    if values.size == 0 or not (values >= 0).all():
        raise ValueError("losses must hold at least one variant, and no value below 0")
    ax = begin(ax, title, size=(6.2, 1.1 + 0.42 * len(names)))
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
        ax.annotate(
            f"{value:,.{digits}f}",
            (value, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
