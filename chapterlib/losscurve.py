"""The figure of a training run: how the loss fell, and how held-out rows fared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from chapterlib.looks import class_style
from chapterlib.style import begin, label_ends, styled


@styled
def loss_curve(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    *,
    smooth: int = 8,
    ax: Axes | None = None,
    title: str = "The loss falls with every epoch",
) -> Axes:
    """Draw the training loss of one or more runs, and their held-out loss as dots.

    Parameters
    ----------
    histories : mapping of str to list of dict
        Name of each run, and its ``history_`` (`training.FinetunedClassifier`).
    smooth : int
        Logged losses that a point of the line averages, itself and those before it;
        the losses themselves stand behind it, faint.
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
        If there is no run, or one without a logged loss.
    """
    if not histories:
        raise ValueError("histories is empty: give the history_ of at least one run")
    ax = begin(ax, title)
    ends, judged = [], False
    for number, (name, history) in enumerate(histories.items()):
        rows = pd.DataFrame([dict(row) for row in history])
        if "loss" not in rows or rows["loss"].isna().all():
            raise ValueError(f"the history of {name!r} holds no loss: fit it first")
        look = class_style(number)
        logged = rows.dropna(subset=["loss"])
        mean = logged["loss"].rolling(smooth, min_periods=1).mean()
        ax.plot(logged["epoch"], logged["loss"], color=look.color, alpha=0.25, lw=1)
        ax.plot(logged["epoch"], mean, color=look.color)
        if "eval_loss" in rows:
            judged = True
            held = rows.dropna(subset=["eval_loss"])
            ax.plot(
                held["epoch"],
                held["eval_loss"],
                color=look.color,
                marker=look.marker,
                linestyle="none",
                markersize=8,
            )
        ends.append((float(mean.iloc[-1]), name, look.color))
    ax.set_xlabel("epoch (dots: held-out rows)" if judged else "epoch")
    ax.set_ylabel("cross-entropy (nats a row)")
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(ax, ends)
    return ax
