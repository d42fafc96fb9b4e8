"""One look for all figures: letters, sizes, and how axes begin and end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from typing import Any, ParamSpec, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

from chapterlib.looks import ink

__all__ = [
    "begin",
    "label_ends",
    "need",
    "spread",
    "style",
    "styled",
    "use_style",
]

P = ParamSpec("P")

# 6.2 inches with letters of 11 points: about 8 pixels high on a phone, and no more
# than twice that where the page is wide.
WIDTH = 6.2
STYLE: Any = {
    "figure.figsize": (WIDTH, 3.9),
    "figure.dpi": 160,
    "figure.constrained_layout.h_pad": 0.08,
    "figure.constrained_layout.w_pad": 0.08,
    # White also in a dark page: the colors are chosen for it.
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "axes.facecolor": "white",
    "text.color": "#222222",
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#666666",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.titlepad": 10,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": False,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.8,
    "lines.linewidth": 2,
    "lines.markersize": 6.5,
    # The same file from the same data.
    "svg.hashsalt": "chapterlib",
    "svg.fonttype": "path",
}


@contextmanager
def style() -> Iterator[None]:
    """Apply the book's look to what is drawn under `with`, and nothing after it."""
    # Not rc_context: where the first figure of a notebook is drawn inside, it would
    # also take back the interactive mode that the notebook's backend has just set,
    # and no figure would be shown from then on.
    before = {name: mpl.rcParams[name] for name in STYLE}
    mpl.rcParams.update(STYLE)
    try:
        yield
    finally:
        mpl.rcParams.update(before)


def use_style() -> None:
    """Apply the book's look to every figure of this process from now on."""
    mpl.rcParams.update(STYLE)


def styled(draw: Callable[P, Axes]) -> Callable[P, Axes]:
    """Give a function that draws a figure the book's look, whoever calls it."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Axes:
        with style():
            ax = draw(*args, **kwargs)
            _place_title(ax, alone=kwargs.get("ax") is None)
            return ax

    return inner


def begin(
    ax: Axes | None, title: str, *, size: tuple[float, float] | None = None
) -> Axes:
    """Axes to draw in, with their title: the caller's, or those of a new figure."""
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    # The title proper rather than `loc="left"`, so that `get_title` finds it.
    ax.set_title(title, x=0, ha="left")
    return ax


def _place_title(ax: Axes, *, alone: bool) -> None:
    """Break the title into lines; in a figure of its own, begin at the very left."""
    figure, engine = ax.figure, None
    if alone and isinstance(figure, Figure):
        engine = figure.get_layout_engine()
    if engine is not None:
        # Only the layout tells how much room the labels left of the axes take.
        engine.execute(cast(Figure, figure))
        box = ax.get_position()
        ax.title.set_x(-(box.x0 - 0.015) / box.width)
    inches = (figure.bbox if engine else ax.get_window_extent()).width / figure.dpi
    room = 0.97 * 72 * inches
    lines = [""]
    for word in ax.get_title().split():
        longer = f"{lines[-1]} {word}".strip()
        # Measured letter by letter: matplotlib's own wrapping is lost in a notebook,
        # which crops its figures.
        size = TextPath((0, 0), longer, prop=ax.title.get_fontproperties())
        if lines[-1] and size.get_extents().width > room:
            lines.append(word)
        else:
            lines[-1] = longer
    ax.set_title("\n".join(lines), x=ax.title.get_position()[0], ha="left")


def need(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return those rows that have a value in each column; ValueError where none has."""
    missing = [name for name in columns if name not in frame]
    if missing:
        raise ValueError(
            f"The table has no column {', '.join(missing)} (it has "
            f"{', '.join(map(str, frame.columns))}): rename or add it."
        )
    rows = frame.dropna(subset=list(columns))
    if rows.empty:
        raise ValueError(
            f"No row of the table has a value in each of {', '.join(columns)}: there "
            "is nothing to draw."
        )
    return rows


def label_ends(
    ax: Axes, ends: Iterable[tuple[float, str, str]], *, size: float = 10
) -> None:
    """Write names at the right edge of the axes, beside the ends of their lines.

    Parameters
    ----------
    ax : Axes
        With its final limits.
    ends : iterable of (y, text, color)
        Height of each line's end in data units.
    size : float
        Of the letters, in points.
    """
    box = ax.get_window_extent()
    ends = sorted(ends)
    tops = [
        (ax.transData.transform((ax.get_xlim()[1], y))[1] - box.y0) / box.height
        for y, _, _ in ends
    ]
    gap = 1.25 * size * ax.figure.dpi / 72 / box.height
    for (_, text, color), top in zip(ends, spread(tops, gap), strict=True):
        ax.annotate(
            text,
            (1, top),
            xycoords="axes fraction",
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            color=ink(color),
            fontsize=size,
            annotation_clip=False,
        )


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights as little as needed to lie at least `gap` apart, in their order."""
    # Least squares under the gaps is isotonic regression once they are taken off.
    from sklearn.isotonic import isotonic_regression

    if len(heights) < 2:
        return list(heights)
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights, float) - steps)
    return [float(h) for h in moved + steps]
