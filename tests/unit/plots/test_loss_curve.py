"""The figure of a training run shows its losses, and refuses what is none."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest

from chapterlib.plots.curves import loss_curve

HISTORY = [
    {"step": 1, "epoch": 0.5, "loss": 2.0},
    {"step": 2, "epoch": 1.0, "loss": 1.0},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.2, "eval_accuracy": 0.5},
]


@pytest.fixture(autouse=True)
def no_figure_stays() -> object:
    yield
    plt.close("all")


def test_lines_are_losses_and_dots_held_out_rows() -> None:
    ax = loss_curve({"LoRA": HISTORY, "full": HISTORY[:2]}, smooth=2, title="Found")
    assert ax.get_title() == "Found"
    raw, mean, held, *other = ax.lines
    assert list(raw.get_ydata()) == [2.0, 1.0]
    assert list(mean.get_ydata()) == [2.0, 1.5]
    assert (list(held.get_xdata()), list(held.get_ydata())) == ([1.0], [1.2])
    assert held.get_linestyle() == "None"
    assert len(other) == 2
    assert {text.get_text() for text in ax.texts} == {"LoRA", "full"}
    assert "held-out" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_without_held_out_rows_none_are_named() -> None:
    _, given = plt.subplots()
    ax = loss_curve({"LoRA": HISTORY[:2]}, ax=given)
    assert ax is given
    assert ax.get_xlabel() == "epoch"


def test_what_holds_no_loss_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        loss_curve({})
    with pytest.raises(ValueError, match="'new' holds no loss"):
        loss_curve({"new": []})
    with pytest.raises(ValueError, match="'judged' holds no loss"):
        loss_curve({"judged": HISTORY[2:]})
