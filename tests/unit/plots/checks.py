"""What holds for every figure, and how to read one."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

TITLE = "A finding that is long enough to be broken into two lines of the figure"


def assert_follows_the_rules(
    draw: Callable[..., Axes], *data: Any, names_on_y: bool = False, **options: Any
) -> Axes:
    """Titled, labeled and within its page; drawn into given axes; no setting changed.

    `names_on_y`: the names of classes or methods tell what the axis is.
    """
    before = dict(mpl.rcParams)
    foreign = plt.figure()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = draw(*data, title=TITLE, **options)
        ax.figure.draw_without_rendering()
    assert isinstance(ax, Axes)
    assert ax.get_title().replace("\n", " ") == TITLE
    assert ax.get_xlabel()
    assert ax.get_yticklabels() if names_on_y else ax.get_ylabel()
    page = ax.figure.bbox
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts):
        box = text.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1 + 1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    # On a phone the figure is shown 360 pixels wide: letters of at least 9 pixels.
    inches = ax.figure.get_figwidth()  # type: ignore[union-attr]
    ticks = [*ax.get_xticklabels(), *ax.get_yticklabels()]
    ticks = ticks if len(ticks) < 80 else []  # so many classes can't be read there
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts, *ticks):
        assert text.get_fontsize() * 360 / (72 * inches) >= 9, text
    figure, given = plt.subplots()
    assert draw(*data, ax=given, **options) is given
    assert given.get_title()
    assert plt.get_fignums() == [foreign.number, ax.figure.number, figure.number]
    assert dict(mpl.rcParams) == before
    return ax


def assert_nothing_overlaps(ax: Axes) -> None:
    """Keep title, labels, names and the numbers of the x-axis clear of each other."""
    ax.figure.draw_without_rendering()  # type: ignore[union-attr]
    low, high = ax.get_xlim()
    ticks = [t for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
    texts = [ax.title, ax.xaxis.label, *ax.texts, *ticks]
    # Boxes of slanted texts overlap where the texts don't.
    level = [text for text in texts if text.get_text() and not text.get_rotation()]
    for a, b in combinations(level, 2):
        assert not a.get_window_extent().overlaps(b.get_window_extent()), (a, b)


def written(ax: Axes) -> list[str]:
    """Return the texts within the axes, as they are read."""
    return [text.get_text() for text in ax.texts if text.get_text()]
