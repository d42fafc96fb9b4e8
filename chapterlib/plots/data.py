"""Figures of the data: classes, lengths, leftovers, points."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import ArrayLike

from chapterlib.metrics.evaluation import Evaluation
from chapterlib.plots.styles import NAMES, class_style, ink, new_axes, note, styled


@styled
def class_balance(
    counts: Mapping[str, float] | pd.Series | pd.DataFrame,
    *,
    ax: Axes | None = None,
    title: str = "Rows of each class",
) -> Axes:
    """Draw how many rows each class has.

    A DataFrame has a class a row and a split a column, as `tasks.audit(ds).classes`.
    """
    return _bars(_as_frame(counts), "{:,.0f}".format, "rows", ax, title)


@styled
def audit_bars(
    shares: Any, *, ax: Axes | None = None, title: str = "Leftovers in the texts"
) -> Axes:
    """Draw what share of the rows carries each kind of leftover.

    From 0 to 1, one kind a row and one split a column, as `tasks.audit(ds).artifacts`;
    an `Audit` stands for these.
    """
    frame = _as_frame(getattr(shares, "artifacts", shares))
    ax = _bars(frame, "{:.1%}".format, "share of rows", ax, title)
    ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    return ax


@styled
def length_histogram(
    lengths: Mapping[str, ArrayLike],
    *,
    max_length: int | None = None,
    unit: str = "words",
    ax: Axes | None = None,
    title: str = "Lengths of the texts",
) -> Axes:
    """Draw how long the texts of each split are.

    Parameters
    ----------
    lengths : mapping of str to array-like of shape (rows,)
        Lengths by split; NaN is left out.
    max_length : int, optional
        Where texts will be cut: drawn, with the share of texts that are longer.
    unit : str
        What the lengths count: words, tokens, characters.
    """
    known = {name: np.asarray(some, float) for name, some in lengths.items()}
    known = {name: some[np.isfinite(some)] for name, some in known.items()}
    known = {name: some for name, some in known.items() if some.size}
    if not known:
        raise ValueError("No split has a length to draw.")
    ax = new_axes(ax, title)
    pooled = np.concatenate(list(known.values()))
    # A few extreme texts would press all others into a corner.
    end = max(np.quantile(pooled, 0.999), 1.12 * (max_length or 0)) + 1
    # Whole numbers of units a bin: else some bins hold one value more than others.
    width = max(1, round(end / 40))
    edges = np.arange(0, end + width, width)
    for i, (name, some) in enumerate(known.items()):
        style = class_style(i)
        weights = np.full(some.size, 1 / some.size)
        kind: dict[str, Any] = {"bins": edges, "weights": weights, "color": style.color}
        if i == 0:
            ax.hist(some, histtype="stepfilled", alpha=0.15, **kind)
        dash = "-" if i == 0 else "--"
        ax.hist(some, histtype="step", lw=2, ls=dash, label=name, **kind)
    if max_length is not None:
        longer = float((pooled > max_length).mean())
        ax.axvline(max_length, color="#222222", linestyle="--", linewidth=1.5)
        text = f"cut at {max_length:,}:\n{longer:.1%} are longer"
        how: Any = {"va": "top", "ha": "right", "fontsize": NAMES}
        at = ("data", "axes fraction")
        note(ax, text, (max_length, 0.97), (-6, 0), xycoords=at, **how)
    ax.set(xlabel=f"length ({unit})", xlim=(0, edges[-1]))
    step = f" in steps of {width}" if width > 1 else ""
    ax.set_ylabel(f"share of rows{step}")
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    ax.legend(loc="upper right" if max_length is None else "upper left")
    return ax


@styled
def projection(
    points: ArrayLike,
    labels: ArrayLike,
    label_names: Sequence[str],
    *,
    axis_names: tuple[str, str] = ("first component", "second component"),
    ax: Axes | None = None,
    title: str = "Texts on two axes",
) -> Axes:
    """Draw points [rows, 2] on a plane, each in the color and marker of its class.

    `labels` are class ids [rows]; a name is written at the median of its class. Rows
    with a value that is not finite are left out.
    """
    xy, ids = np.asarray(points, float), np.asarray(labels)
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) != len(ids):
        raise ValueError(
            f"points has shape {xy.shape} and labels {ids.shape}: two numbers and one "
            "class id a row are needed."
        )
    finite = np.isfinite(xy).all(axis=1)
    xy, ids = xy[finite], ids[finite]
    if not len(xy):
        raise ValueError("No point is finite: there is nothing to draw.")
    ax = new_axes(ax, title, size=(5.6, 5))
    # The fewer the points, the darker each may be.
    alpha = float(np.clip(16 / np.sqrt(len(xy)), 0.3, 0.9))
    # In random order no class lies on top of all others.
    order = np.random.default_rng(0).permutation(len(xy))
    for layer in np.array_split(order, min(8, len(xy))):
        for i in range(len(label_names)):
            style = class_style(i)
            some = xy[layer[ids[layer] == i]]
            how: Any = {"color": style.color, "marker": style.marker, "linewidths": 0}
            ax.scatter(some[:, 0], some[:, 1], s=22, alpha=alpha, **how)
    letters: Any = {"size": 13, "weight": "bold", "ha": "center", "va": "center"}
    halo = [patheffects.withStroke(linewidth=4, foreground="white")]
    for i, name in enumerate(label_names):
        if (ids == i).any():
            x, y = np.median(xy[ids == i], axis=0)
            color = ink(class_style(i).color)
            ax.text(x, y, name, color=color, path_effects=halo, **letters)
    # Distances count, positions do not.
    ax.set(xlabel=axis_names[0], ylabel=axis_names[1], xticks=[], yticks=[])
    return ax


def _percent(share: float, _: object = None) -> str:
    return f"{round(100 * share, 3):g}%"


def _as_frame(values: Any) -> pd.DataFrame:
    table = isinstance(values, pd.DataFrame)
    frame = values if table else pd.Series(values).to_frame("")
    if frame.empty:
        raise ValueError("There is nothing to draw: the table has no rows.")
    return frame.astype(float)


def _bars(
    frame: pd.DataFrame,
    form: Callable[[float], str],
    unit: str,
    ax: Axes | None,
    title: str,
) -> Axes:
    """Horizontal bars, one group a row, one bar a column, each with its number."""
    names, columns = [str(name) for name in frame.index], list(frame.columns)
    tall = 1.3 + len(names) * (0.22 + 0.28 * len(columns))
    ax = new_axes(ax, title, size=(5.6, tall))
    height = 0.8 / len(columns)
    for j, column in enumerate(columns):
        style = class_style(j)
        places = np.arange(len(names)) + (j - (len(columns) - 1) / 2) * height
        values = frame[column].fillna(0)
        bars = ax.barh(places, values, 0.9 * height, color=style.color, label=column)
        missing = frame[column].isna()
        texts = [
            "no value" if gone else f"{form(value)} {column}".rstrip()
            for value, gone in zip(values, missing, strict=True)
        ]
        ax.bar_label(bars, texts, padding=4, fontsize=NAMES, color=ink(style.color))
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(unit)
    ax.set_xlim(0, 1.22 * max(float(np.nanmax(frame.to_numpy(), initial=0)), 1e-9))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    ax.locator_params(axis="x", nbins=5)
    return ax


@styled
def confusion(
    counts: Evaluation | ArrayLike,
    label_names: Sequence[str] | None = None,
    *,
    ax: Axes | None = None,
    title: str = "True classes and predicted ones",
) -> Axes:
    """Draw a confusion matrix: counts, and shares of each true class.

    Parameters
    ----------
    counts : Evaluation or array-like of int, shape (classes, classes or classes + 1)
        Rows are true classes; a last column more counts rows without an answer, and
        is drawn only where there are such. Beyond twelve classes colors stand alone.
    label_names : sequence of str, optional
        An `Evaluation` brings its own.
    """
    if isinstance(counts, Evaluation):
        label_names = label_names or [str(name) for name in counts.per_class.index]
        counts = counts.confusion
    matrix = np.asarray(counts)
    k = len(matrix)
    if matrix.ndim != 2 or matrix.shape[1] not in (k, k + 1) or not k:
        raise ValueError(
            f"The matrix has shape {matrix.shape}: a row and a column a class are "
            "needed, and at most one column more for rows without an answer."
        )
    names = list(label_names) if label_names is not None else [str(i) for i in range(k)]
    if len(names) != k:
        raise ValueError(f"{len(names)} label_names for {k} classes.")
    columns = list(names)
    if matrix.shape[1] > k and matrix[:, k].any():
        columns.append("no answer")
    matrix = matrix[:, : len(columns)]
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    few = k <= 12
    ax = new_axes(ax, title, size=(5.6, 1.6 + 0.75 * k if few else 7))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares) if few else ():
        text = f"{matrix[i, j]:,}\n{share:.1%}" if totals[i, 0] else "–"
        color = "white" if share > 0.55 else "#222222"
        ax.text(j, i, text, ha="center", va="center", color=color, fontsize=NAMES)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(k), names)
    ax.tick_params(length=0, labelsize=NAMES if few else min(NAMES, 340 / k))
    ax.tick_params(axis="x", rotation=0 if k <= 6 else 90)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax
