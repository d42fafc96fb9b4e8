"""Names beside the points of a figure, where they cover neither points nor names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from chapterlib.looks import ink, method_style

__all__ = ["label_points", "short_names"]

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
