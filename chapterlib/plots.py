"""The book's figures: each function draws data into axes and returns these.

`python -m chapterlib.plots` draws the README's figure from the records.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.markers import CARETLEFT
from numpy.typing import ArrayLike

from chapterlib.curves import interval_widths, layer_curve, learning_curve
from chapterlib.dataplots import (
    audit_bars,
    class_balance,
    length_histogram,
    projection,
)
from chapterlib.looks import METHOD_STYLES, ink, method_style
from chapterlib.metrics import Evaluation
from chapterlib.records import RecordError, RunRecord, read, table
from chapterlib.style import begin, need, style, styled, use_style

__all__ = [
    "METHOD_STYLES",
    "audit_bars",
    "class_balance",
    "confusion",
    "interval_widths",
    "ladder",
    "layer_curve",
    "learning_curve",
    "length_histogram",
    "method_style",
    "projection",
    "style",
    "use_style",
]


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
        is drawn only where there are such.
    label_names : sequence of str, optional
        An `Evaluation` brings its own.
    ax, title
        As in `class_balance`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If the shape does not fit, or names are missing.
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
    ax = begin(ax, title, size=(6.2, 1.6 + 0.75 * k))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), share in np.ndenumerate(shares):
        text = f"{matrix[i, j]:,}\n{share:.1%}" if totals[i, 0] else "–"
        color = "white" if share > 0.55 else "#222222"
        ax.text(j, i, text, ha="center", va="center", color=color, fontsize=10)
    ax.set_xticks(range(len(columns)), columns)
    ax.set_yticks(range(k), names)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set(xlabel="predicted class", ylabel="true class")
    return ax


@styled
def ladder(
    runs: pd.DataFrame | Iterable[RunRecord],
    *,
    start: float = 0.0,
    ax: Axes | None = None,
    title: str = "The ladder: how far each method climbs",
) -> Axes:
    """Draw the best run of each method: accuracy, interval, and labels it took.

    Parameters
    ----------
    runs : DataFrame or iterable of RunRecord
        `records.table()` or the records themselves. Rows without an accuracy are
        left out; of each method and model the most accurate budget is drawn.
    start : float
        Left end of the axis at the least: a method below it is drawn as an arrow at
        the edge, with its number, so that one far behind does not press the others
        together.
    ax, title
        As in `class_balance`.

    Returns
    -------
    Axes

    Raises
    ------
    RecordError
        If the runs are of different data.
    ValueError
        If a column is missing, or no row has an accuracy.
    """
    frame = runs if isinstance(runs, pd.DataFrame) else table(runs)
    rows = need(
        frame, "method", "title", "accuracy", "labels", "test_rows", "level", "data"
    )
    names = rows["data"].unique()
    if len(names) > 1:
        raise RecordError(
            f"These runs are of different data ({', '.join(names)}): draw those of one."
        )
    # Without an interval, the bar shrinks to the point.
    rows = rows.assign(
        low=rows["low"].fillna(rows["accuracy"]),
        high=rows["high"].fillna(rows["accuracy"]),
    )
    rows = rows.sort_values(["accuracy", "labels"], ascending=[False, True])
    rows = rows.drop_duplicates(["method", "model"])
    rungs: list[dict[Any, Any]] = rows.to_dict("records")
    ax = begin(ax, title, size=(6.2, 1.5 + 0.47 * len(rungs)))
    start = start if rungs[0]["accuracy"] > start else 0.0
    above = rows[rows["accuracy"] > start]
    pad = max(0.04 * (above["high"].max() - above["low"].min()), 0.005)
    # On the right, room for the number beside the bar.
    ax.set_xlim(max(start, above["low"].min() - 2 * pad), above["high"].max() + 5 * pad)
    for y, rung in enumerate(rungs):
        look, place = method_style(rung["method"]), rung["high"]
        if rung["accuracy"] > start:
            bounds = [rung["low"], rung["high"]]
            ax.plot(bounds, [y, y], color=look.color, linewidth=5, alpha=0.35)
            ax.plot(rung["accuracy"], y, look.marker, color=look.color, markersize=7)
        else:
            place = ax.get_xlim()[0]
            ax.plot(place, y, marker=CARETLEFT, color=look.color, markersize=9)
        ax.annotate(
            f"{rung['accuracy']:.3f}",
            (place, y),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=ink(look.color),
            fontweight="bold",
        )
    ax.set_yticks(range(len(rungs)), [_rung(rung) for rung in rungs])
    ax.set_ylim(len(rungs) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.locator_params(axis="x", nbins=5)
    ax.grid(axis="x")
    tested = " or ".join(f"{n:,}" for n in sorted(set(rows["test_rows"])))
    ax.set_xlabel(
        f"accuracy on {tested} test rows of {names[0]}\n"
        f"(bar: {100 * rungs[0]['level']:g}% interval)"
    )
    return ax


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the README's figure, byte for byte the same from the same records."""
    parser = argparse.ArgumentParser(
        prog="python -m chapterlib.plots",
        description="Draw the ladder figure from the records of AG News.",
    )
    parser.add_argument("--results", help="folder of the records (default: results/)")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path(__file__).parents[1] / "book" / "images" / "ladder.svg",
        help="file to write, .svg or .png (default: %(default)s)",
    )
    parser.add_argument(
        "--start", type=float, default=0.5, help="left end of the axis (%(default)s)"
    )
    chosen = parser.parse_args(arguments)
    # The sample's figures are no one's but the sample's: never in the README.
    found = read(chosen.results, data="AG News")
    if not found:
        parser.exit(1, "No records of AG News yet: `make results` measures them.\n")
    if not chosen.output.parent.is_dir():
        parser.exit(1, f"{chosen.output.parent} is no folder: pass --output.\n")
    figure = cast(Figure, ladder(found, start=chosen.start).figure)
    # A date in the file would make every run a change in git.
    dateless = {"Date": None} if chosen.output.suffix == ".svg" else {}
    with style():
        figure.savefig(chosen.output, metadata=dateless)
    plt.close(figure)
    print(chosen.output)


def _rung(rung: dict[Any, Any]) -> str:
    count = rung["labels"]
    labels = f"{count:,.0f} labels" if count else "no labels"
    seeds = f", mean of {rung['seeds']} seeds" if rung.get("seeds", 1) > 1 else ""
    return f"{rung['title']}\n{labels}{seeds}"


if __name__ == "__main__":
    main()
