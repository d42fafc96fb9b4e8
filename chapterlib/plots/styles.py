"""What all figures share: colors and markers, axes with a title, names at points.

The style is applied while a figure is drawn, and nowhere else.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from itertools import pairwise
from typing import Any, NamedTuple, ParamSpec

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.patheffects import withStroke
from matplotlib.text import Annotation
from matplotlib.textpath import TextPath
from matplotlib.transforms import blended_transform_factory, offset_copy
from numpy.typing import NDArray

from chapterlib.settings import data_file

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

# Methods are more than eight: colors of P. Tol's schemes, https://sronpersonalpages.nl/
# ~pault/, and three dark ones. Where eyes can't tell two of them apart, markers do.
MORE_COLORS = {
    "indigo": "#332288",
    "wine": "#882255",
    "teal": "#44AA99",
    "olive": "#999933",
    "rose": "#CC6677",
    "earth": "#997700",
    "brown": "#663333",
    "slate": "#555555",
}


class Style(NamedTuple):
    """Color, marker, and name for readers; each tells two lines apart alone."""

    color: str
    marker: str
    label: str = ""


def _style(color: str, marker: str, label: str = "") -> Style:
    return Style({**OKABE_ITO, **MORE_COLORS}[color], marker, label)


# A method keeps its style in every figure of the book. A longer slug, such as
# "probe-llama", has that of the longest name here which it begins with.
METHOD_STYLES = {
    "majority": _style("slate", "X", "Majority class"),
    "tfidf": _style("black", "s", "TF-IDF"),
    "zero-shot": _style("sky", "v", "Zero-shot"),
    "zero-shot-words": _style("indigo", "v", "Zero-shot, two words"),
    "few-shot": _style("olive", "^", "Few-shot"),
    "few-shot-calibrated": _style("teal", "s", "Few-shot, calibrated"),
    "few-shot-nearest": _style("earth", "D", "Few-shot, nearest"),
    "few-shot-vote": _style("purple", "h", "Neighbors and scores"),
    "neighbors": _style("gray", "d", "Neighbors"),
    "prompt": _style("rose", "8", "Prompt"),
    "hosted": _style("brown", ">", "Hosted model"),
    "probe": _style("blue", "o", "Probe"),
    "lora": _style("green", "D", "LoRA"),
    "qlora": _style("orange", "P", "QLoRA"),
    "full": _style("vermilion", "*", "Full finetuning"),
    "lp-ft": _style("wine", "p", "LP-FT"),
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
    """Style of a method, by its slug; an unknown one is gray, under its own name."""
    known = [name for name in METHOD_STYLES if f"{method}-".startswith(f"{name}-")]
    if known:
        return METHOD_STYLES[max(known, key=len)]
    return Style(OKABE_ITO["gray"], "<", method)


def method_named(name: str) -> Style | None:
    """Style of the method that a name such as "LoRA, rank 8" tells of, if of any."""
    known = METHOD_STYLES | {style.label: style for style in METHOD_STYLES.values()}
    whole = r"(?<!\w){}(?!\w)"
    found = [k for k in known if re.search(whole.format(re.escape(k)), name, re.I)]
    return known[max(found, key=len)] if found else None


def class_style(i: int) -> Style:
    """Style of the class (or other series) number `i`; they repeat after eight."""
    return CLASS_STYLES[i % len(CLASS_STYLES)]


def ink(color: str) -> str:
    """Darken a color until text in it has a contrast of 4.5 to 1 on white.

    Relative luminance is computed as by WCAG 2.2, criterion 1.4.3.
    """
    rgb = np.array(to_rgb(color))
    while True:
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        if 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 4.5:
            return to_hex(tuple(rgb))
        rgb = 0.95 * rgb


# Size of what is written into a figure, in points: 9 pixels on a phone.
NAMES = 10.5

P = ParamSpec("P")
STYLE = mpl.rc_params_from_file(data_file("book.mplstyle"), use_default_template=False)


@contextmanager
def style() -> Iterator[None]:
    """Apply the book's style to what is drawn under `with`, and nothing after it."""
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
    """Apply the book's style to every figure of this process from now on.

    In a notebook figures become SVG, which is sharp at any size.
    """
    mpl.rcParams.update(STYLE)
    notebook = sys.modules.get("IPython")
    if notebook is not None and notebook.get_ipython() is not None:
        # It comes with every kernel.
        from matplotlib_inline.backend_inline import set_matplotlib_formats

        set_matplotlib_formats("svg")


def styled(draw: Callable[P, Axes]) -> Callable[P, Axes]:
    """Give a function that draws a figure the book's style, whoever calls it."""

    @wraps(draw)
    def inner(*args: P.args, **kwargs: P.kwargs) -> Axes:
        with style():
            ax = draw(*args, **kwargs)
            alone = kwargs.get("ax") is None
            for panel in ax.figure.axes if alone else [ax]:
                _place_title(panel, alone=alone)
            return ax

    return inner


def new_axes(
    ax: Axes | None, title: str, *, size: tuple[float, float] | None = None
) -> Axes:
    """Axes to draw in, with their title: the caller's, or those of a new figure."""
    alone = ax is None
    if ax is None:
        _, ax = plt.subplots(figsize=size, layout="constrained")
    # The title proper rather than `loc="left"`, so that `get_title` finds it.
    ax.set_title(title)
    # Whoever places names needs to know how many lines it has.
    _place_title(ax, alone=alone)
    return ax


def _place_title(ax: Axes, *, alone: bool) -> None:
    """Break the title into lines; in a figure of its own, begin at the very left."""
    figure = ax.figure
    inches = (figure.bbox if alone else ax.get_window_extent()).width / figure.dpi
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
    ax.set_title("\n".join(lines), x=0.015 if alone else 0, ha="left")
    if alone:
        at = blended_transform_factory(figure.transFigure, ax.transAxes)
        pad = mpl.rcParams["axes.titlepad"] / 72
        ax.title.set_transform(offset_copy(at, figure, y=pad))  # type: ignore[arg-type]


def require_columns(frame: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return those rows that have a value in each column; ValueError without any."""
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


def note(
    ax: Axes, text: str, at: tuple[float, float], move: tuple[float, float], **how: Any
) -> Annotation:
    """Write a text beside a point of the data, `move` points right of and above it."""
    return ax.annotate(text, at, xytext=move, textcoords="offset points", **how)


def label_ends(
    ax: Axes, ends: Iterable[tuple[float, str, str]], *, x: Iterable[float] = ()
) -> None:
    """Write names at the right edge of the axes, beside the ends of their lines.

    `ends` holds the height of each in data units, its name and its color; the axes
    must have their final limits. A thin line leads to ends that lie at an `x` inside.
    """
    figure = ax.figure
    # Only the layout tells how large the axes are.
    figure.draw_without_rendering()  # type: ignore[union-attr]
    box, ends, points = ax.get_window_extent(), list(ends), figure.dpi / 72
    places = list(x) or [ax.get_xlim()[1]] * len(ends)
    order = sorted(range(len(ends)), key=lambda i: ends[i])
    at = ax.transData.transform([(places[i], ends[i][0]) for i in order])
    inside = ax.transAxes.inverted().transform(at)
    gap = 1.25 * NAMES * points / box.height
    # None above the axes, where the title stands.
    most = 1 - gap * np.arange(len(ends))[::-1]
    tops = spread(list(np.minimum(inside[:, 1], most)), gap)
    for i, top, (right, height) in zip(order, tops, inside, strict=True):
        _, text, color = ends[i]
        letters: Any = {"color": ink(color), "fontsize": NAMES, "va": "center"}
        letters |= {"annotation_clip": False, "xycoords": "axes fraction"}
        note(ax, text, (1, top), (6, 0), **letters)
        if right < 0.9 or abs(height - top) * box.height > NAMES * points:
            how: Any = {"transform": ax.transAxes, "clip_on": False}
            ax.plot([right, 1.01], [height, top], ":", color=color, lw=0.8, **how)


def spread(heights: Sequence[float], gap: float) -> list[float]:
    """Move heights as little as needed to lie at least `gap` apart, in their order."""
    if len(heights) < 2:
        return list(heights)
    # Slow to import.
    from sklearn.isotonic import isotonic_regression

    # Least squares under the gaps is isotonic regression once they are taken off.
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(np.asarray(heights, float) - steps)
    return [float(h) for h in moved + steps]


# Where a name may stand, as seen from its point; the first that is free is taken.
DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1)]
DIRECTIONS += [(2, 1), (2, -1), (-2, 1), (-2, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)]
DISTANCES = (8, 17, 28, 41, 56, 73)
# Of shape (distances, directions, 2), in points.
STEPS = np.multiply.outer(
    DISTANCES, DIRECTIONS / np.linalg.norm(DIRECTIONS, axis=1)[:, None]
)
# From here on a line leads from the name to its point.
FAR = 16


def short_names(
    methods: Iterable[str], titles: Iterable[str] | None = None
) -> dict[str, str]:
    """Names for readers by slug: the short one where no other method shares it.

    Those that share one go by their title, as long as `methods`; by default the slug.
    """
    slugs = [str(slug) for slug in methods]
    long = dict(zip(slugs, slugs if titles is None else titles, strict=True))
    short = {slug: method_style(slug).label for slug in long}
    taken = Counter(short.values())
    return {slug: s if taken[s] == 1 else long[slug] for slug, s in short.items()}


def label_points(
    ax: Axes,
    points: Sequence[tuple[float, float]],
    names: Sequence[str],
    colors: Sequence[str],
    *,
    lines: Sequence[tuple[float, float]] = (),
) -> None:
    """Write a name beside each point, clear of the others as far as there is room.

    Points, and the corners of a line that names should not cross, are in data units;
    the axes must have their final limits and scales.
    """
    figure = ax.figure
    # Only the layout tells how large the axes are.
    figure.draw_without_rendering()  # type: ignore[union-attr]
    scale = figure.dpi / 72
    room = np.asarray(ax.get_window_extent().extents)
    at = ax.transData.transform(np.asarray(points, dtype=float).reshape(-1, 2))
    marks = np.hstack([at - 6 * scale, at + 6 * scale])
    taken = np.vstack([marks, _along(ax, lines, scale)])
    halo = [withStroke(linewidth=2.5, foreground="white")]
    # The most crowded first: they have the least choice.
    distance = np.linalg.norm(at[:, None] - at[None], axis=2)
    order = np.argsort(np.sort(distance, axis=1)[:, 1 : 1 + min(2, len(at))].sum(1))
    for i in order:
        letters: Any = {
            "color": ink(colors[i]),
            "fontsize": NAMES,
            "path_effects": halo,
        }
        letters |= {"ha": "center", "va": "center"}
        text = note(ax, names[i], points[i], (0, 0), **letters)
        box = text.get_window_extent()
        half = np.array([box.width, box.height]) / 2
        others = np.delete(taken, i, axis=0)
        # The nearer edge of the name, not its middle, keeps the distance.
        moves = (scale * STEPS + np.sign(STEPS) * half).reshape(-1, 2)
        # A little more than its own size: a title of two lines moves it.
        low, high = at[i] + moves - half - scale, at[i] + moves + half + scale
        places = np.hstack([low, high])
        outside = (high - low).prod(axis=1) - _overlap(places, room[None])[:, 0]
        covered = _overlap(places, others).sum(axis=1)
        far = 0.5 * scale * np.repeat(DISTANCES, len(DIRECTIONS))
        best = moves[np.argmin(3 * covered + 9 * outside + far)]
        text.xyann = tuple(best / scale)
        place = np.hstack([at[i] + best - half, at[i] + best + half])
        taken = np.vstack([taken, place])
        gap = np.maximum(np.abs(best) - half, 0)
        if np.linalg.norm(gap) >= FAR * scale:
            edge = (best - np.sign(best) * np.minimum(half, abs(best))) / scale
            arrow = {"arrowstyle": "-", "color": colors[i], "lw": 0.8}
            note(ax, "", points[i], tuple(edge), arrowprops=arrow)


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


def _overlap(
    boxes: NDArray[np.float64], others: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Area that each of n boxes shares with each of m others, of shape (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return np.maximum(high - low, 0).prod(axis=2)
