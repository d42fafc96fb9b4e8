"""How a method, a class or a number looks in every figure: color, marker, name."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec, cast

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.textpath import TextPath
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

# Apart for every common kind of color vision: M. Okabe, K. Ito (2008), "Color
# Universal Design", https://jfly.uni-koeln.de/color/. The gray is darker than theirs,
# and the yellow is left out: on white it can't be read.
OKABE_ITO = {
    "black": "#000000",
    "orange": "#E69F00",
    "sky": "#56B4E9",
    "green": "#009E73",
    "blue": "#0072B2",
    "vermilion": "#D55E00",
    "purple": "#CC79A7",
    "gray": "#767676",
}


class Style(NamedTuple):
    """Color, marker, and name for readers; each tells two lines apart alone."""

    color: str
    marker: str
    label: str = ""


def _style(color: str, marker: str, label: str = "") -> Style:
    return Style(OKABE_ITO[color], marker, label)


# A method keeps its look in every figure of the book. A longer slug, such as
# "probe-llama", has that of the longest name here which it begins with.
METHOD_STYLES = {
    "majority": _style("gray", "X", "Majority class"),
    "tfidf": _style("black", "s", "TF-IDF"),
    "zero-shot": _style("sky", "v", "Zero-shot"),
    "zero-shot-words": _style("sky", "<", "Zero-shot, two words"),
    "few-shot": _style("sky", "^", "Few-shot"),
    "few-shot-calibrated": _style("sky", "s", "Few-shot, calibrated"),
    "few-shot-nearest": _style("sky", "D", "Few-shot, nearest"),
    "few-shot-vote": _style("sky", "h", "Neighbors and scores"),
    "neighbors": _style("gray", "d", "Neighbors"),
    "prompt": _style("purple", "<", "Prompt"),
    "hosted": _style("purple", ">", "Hosted model"),
    "probe": _style("blue", "o", "Probe"),
    "lora": _style("green", "D", "LoRA"),
    "qlora": _style("orange", "P", "QLoRA"),
    "full": _style("vermilion", "*", "Full finetuning"),
    "lp-ft": _style("vermilion", "p", "LP-FT"),
}

CLASS_STYLES = (
    _style("blue", "o"),
    _style("vermilion", "s"),
    _style("green", "^"),
    _style("purple", "D"),
    _style("black", "v"),
    _style("orange", "P"),
    _style("sky", "X"),
    _style("gray", "*"),
)


def method_style(method: str) -> Style:
    """Look of a method; one that is not known is gray, under its own name.

    Parameters
    ----------
    method : str
        Slug, as in `RunRecord.method`.
    """
    known = [
        name
        for name in METHOD_STYLES
        if method == name or method.startswith(f"{name}-")
    ]
    if known:
        return METHOD_STYLES[max(known, key=len)]
    return Style(OKABE_ITO["gray"], "d", method)


def class_style(i: int) -> Style:
    """Look of the class (or other series) number `i`; they repeat after eight."""
    return CLASS_STYLES[i % len(CLASS_STYLES)]


def ink(color: str) -> str:
    """Darken a color until text in it can be read on white.

    Notes
    -----
    Until their contrast is 4.5 to 1, the least that WCAG 2.2 (criterion 1.4.3) asks
    for; its formula of relative luminance is used.
    """
    rgb = np.array(to_rgb(color))
    while True:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        if 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5:
            return to_hex(tuple(rgb))
        rgb = 0.95 * rgb


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


def new_axes(
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


def require_columns(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
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


# Where a name may stand, as seen from its point; the first that is free is taken.
DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
DIRECTIONS += [(2, 1), (2, -1), (-2, 1), (-2, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)]
DISTANCES = (8, 17, 28, 41, 56, 73)
# From here on a line leads from the name to its point.
FAR = 17


def short_names(
    methods: Iterable[str], titles: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Names for readers by slug: the short one where no other method shares it.

    Parameters
    ----------
    methods : iterable of str
        Distinct slugs.
    titles : mapping of str to str, optional
        Names for those that share a short one, by slug; by default the slugs.
    """
    slugs = list(methods)
    short = [method_style(slug).label for slug in slugs]
    return {
        slug: name if short.count(name) == 1 else (titles or {}).get(slug, slug)
        for slug, name in zip(slugs, short, strict=True)
    }


def label_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colors: Sequence[str],
    *,
    lines: Sequence[tuple[float, float]] = (),
    size: float = 9.5,
) -> None:
    """Write a name beside each point, clear of the others as far as there is room.

    Parameters
    ----------
    ax : Axes
        With its final limits and scales.
    points : sequence of (x, y)
        In data units.
    names, colors : sequence of str
        One a point.
    lines : sequence of (x, y)
        Corners of a line, in data units, that names should not cross either.
    size : float
        Of the letters, in points.
    """
    figure = ax.figure
    # Only the layout tells how large the axes are.
    figure.draw_without_rendering()  # type: ignore[union-attr]
    scale = figure.dpi / 72
    room = _corners(ax.get_window_extent())
    at = ax.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    marks = np.hstack([at - 6 * scale, at + 6 * scale])
    taken = np.vstack([marks, _along(ax, lines, scale)])
    # The most crowded first: they have the least choice.
    distance = np.linalg.norm(at[:, None] - at[None], axis=2)
    order = np.argsort(np.sort(distance, axis=1)[:, 1 : 1 + min(2, len(at))].sum(1))
    for i in order:
        text = ax.annotate(
            names[i],
            points[i],
            xytext=(0, 0),
            textcoords="offset points",
            color=ink(colors[i]),
            fontsize=size,
            ha="center",
            va="center",
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )
        box = text.get_window_extent()
        half = np.array([box.width, box.height]) / 2
        others = np.delete(taken, i, axis=0)
        best, least = np.zeros(2), np.inf
        for far in DISTANCES:
            for direction in DIRECTIONS:
                step = np.array(direction, dtype=float)
                step /= np.linalg.norm(step)
                # The nearer edge of the name, not its middle, keeps the distance.
                move = step * far * scale + np.sign(direction) * half
                place = np.hstack([at[i] + move - half, at[i] + move + half])
                # A little more than its own size: a title of two lines moves it.
                place += scale * np.array([-1, -1, 1, 1])
                cost = 3 * _overlap(place, others).sum() + 9 * _outside(place, room)
                cost += 0.5 * far * scale
                if cost < least:
                    best, least = move, cost
        text.xyann = tuple(best / scale)
        place = np.hstack([at[i] + best - half, at[i] + best + half])
        taken = np.vstack([taken, place])
        gap = np.maximum(np.abs(best) - half, 0)
        if np.linalg.norm(gap) >= FAR * scale:
            ax.annotate(
                "",
                points[i],
                xytext=tuple(
                    (best - np.sign(best) * np.minimum(half, abs(best))) / scale
                ),
                textcoords="offset points",
                arrowprops={"arrowstyle": "-", "color": "#999999", "lw": 0.8},
            )


def _along(
    ax: Axes, lines: Sequence[tuple[float, float]], scale: float
) -> NDArray[np.float64]:
    """Small boxes along a line, as what a name should not cover."""
    if len(lines) < 2:
        return np.empty((0, 4))
    corners = ax.transData.transform(np.asarray(lines, dtype=float))
    steps = np.linspace(0, 1, 25)[:, None]
    dots = np.vstack([a + steps * (b - a) for a, b in pairwise(corners)])
    return np.hstack([dots - 1.5 * scale, dots + 1.5 * scale])


def _corners(box: Bbox) -> NDArray[np.float64]:
    return np.array([box.x0, box.y0, box.x1, box.y1])


def _overlap(
    box: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area that a box shares with each of some others."""
    low = np.maximum(box[:2], others[:, :2])
    high = np.minimum(box[2:], others[:, 2:])
    return np.maximum(high - low, 0).prod(axis=1)


def _outside(box: NDArray[np.float64], room: NDArray[np.float64]) -> float:
    """Area of a box that lies outside the axes."""
    return float((box[2:] - box[:2]).prod() - _overlap(box, room[None])[0])


@styled
def placeholder(
    reason: str, *, ax: Axes | None = None, title: str = "Left out here"
) -> Axes:
    """Say in a figure why there is none, so that its place in the page is not lost.

    Parameters
    ----------
    reason : str
        Why, and what to do about it.
    ax : Axes, optional
        Drawn into; a new figure by default.
    title : str
        That something is missing.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no reason.
    """
    if not reason.strip():
        raise ValueError("reason is empty: say why there is nothing to draw.")
    ax = new_axes(ax, title, size=(6.2, 1.4))
    ax.set_axis_off()
    text = textwrap.fill(reason, 70)
    ax.text(0, 0.9, text, transform=ax.transAxes, va="top", color="#222222")
    return ax
