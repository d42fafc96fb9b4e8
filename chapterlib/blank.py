"""A figure in place of one that can't be drawn from the rows at hand."""

from __future__ import annotations

import textwrap

from matplotlib.axes import Axes

from chapterlib.style import begin, styled

__all__ = ["blank"]


@styled
def blank(reason: str, *, ax: Axes | None = None, title: str = "Left out here") -> Axes:
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
    ax = begin(ax, title, size=(6.2, 1.4))
    ax.set_axis_off()
    text = textwrap.fill(reason, 70)
    ax.text(0, 0.9, text, transform=ax.transAxes, va="top", color="#222222")
    return ax
