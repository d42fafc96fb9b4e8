"""Figures of costs: where the memory goes."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from chapterlib.style import begin, class_style, styled

__all__ = ["memory_bars"]


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
    for row, total in enumerate(left):
        digits = 0 if total >= 100 else 1 if total >= 10 else 2
        ax.annotate(
            f"{total:,.{digits}f}",
            (total, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=10,
        )
    ax.set_yticks(range(len(sizes)), [str(name) for name in sizes.index])
    ax.invert_yaxis()
    ax.tick_params(axis="y", length=0)
    ax.set(xlabel=f"memory ({unit})", xlim=(0, 1.14 * left.max()))
    ax.legend(
        loc="upper center",
        bbox_to_anchor=(0.45, -0.75 / (0.4 + 0.45 * len(sizes))),
        ncols=min(4, sizes.shape[1]),
    )
    return ax
