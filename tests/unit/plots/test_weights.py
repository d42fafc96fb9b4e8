"""Figures of weights and of memory: what they show, and what they refuse."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes

from chapterlib.plots import weights as weight_plots

from .checks import assert_follows_the_rules, written


def legend(ax: Axes) -> list[str]:
    found = ax.get_legend()
    assert found is not None
    return [text.get_text() for text in found.get_texts()]


def points() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "series": ["32-bit scales", "32-bit scales", "8-bit scales"],
            "block": [128, 64, 64],
            "bits": [4.25, 4.5, 4.127],
            "error": [0.1, 0.09, 0.0901],
        }
    )


def test_every_bit_is_drawn_in_the_color_of_its_job() -> None:
    ax = weight_plots.bit_layout(title="Bits")
    layouts = weight_plots.FORMATS.values()
    assert len(ax.patches) == sum(sum(layout.values()) for layout in layouts) == 68
    assert written(ax) == ["32 bits", "16 bits", "16 bits", "4 bits"]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(weight_plots.FORMATS)
    assert legend(ax) == ["sign", "exponent", "fraction", "level"]
    colors = [patch.get_facecolor() for patch in ax.patches]
    assert len(set(colors[:32])) == 3
    assert len(set(colors[-4:])) == 1
    assert ax.get_title() == "Bits"


def test_levels_stand_below_the_weights() -> None:
    weights = np.random.default_rng(0).normal(0, 0.3, (40, 64)).clip(-1, 1)
    levels = [-1.0, -0.5, 0.0, 0.5, 1.0]
    ax = weight_plots.weight_levels(weights, levels)
    lines = ax.collections[0].get_segments()
    assert [segment[0][0] for segment in lines] == levels
    assert all(segment[:, 1].max() < 0 for segment in lines)
    assert legend(ax) == ["weights", "normal curve", "5 levels"]
    assert "block" in ax.get_xlabel()


@pytest.mark.parametrize("weights", [[], [0.5, 0.5]])
def test_weights_without_spread_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="nothing to see"):
        weight_plots.weight_levels(weights, [0.0, 1.0])


def test_points_of_the_error_curve_carry_their_block() -> None:
    ax = weight_plots.error_curve(points())
    assert written(ax) == ["128", "64", "64"]
    first = ax.lines[0]
    assert list(first.get_xdata()) == [4.25, 4.5]
    assert list(first.get_ydata()) == [0.1, 0.09]
    assert legend(ax) == ["32-bit scales", "8-bit scales"]
    assert ax.get_ylabel() == "relative error"
    assert "bits" in ax.get_xlabel()


def test_an_error_curve_needs_its_columns() -> None:
    with pytest.raises(ValueError, match="no column block"):
        weight_plots.error_curve(points().drop(columns="block"))


def test_spectra_add_up_to_the_whole() -> None:
    steep, flat = [4.0, 2.0, 1.0, 0.0], np.ones(8)
    ax = weight_plots.spectrum({"change": steep, "weights": flat}, mark=2)
    change, weights, mark = ax.lines
    np.testing.assert_allclose(change.get_ydata(), np.array([16, 20, 21, 21]) / 21)
    np.testing.assert_allclose(weights.get_ydata(), np.arange(1, 9) / 8)
    assert list(mark.get_xdata()) == [2, 2]
    assert written(ax) == ["change", "weights"]
    assert ax.get_xscale() == "log"
    assert len(weight_plots.spectrum({"one": [1.0, 0.5]}).lines) == 1


@pytest.mark.parametrize("values", [{}, {"nothing": [0.0, 0.0]}])
def test_spectra_of_nothing_are_refused(values: dict[str, list[float]]) -> None:
    with pytest.raises(ValueError, match="at least one matrix"):
        weight_plots.spectrum(values)


def test_bars_are_stacked_and_summed() -> None:
    sizes = pd.DataFrame(
        {"weights": [30.0, 15.0, 4.65], "optimizer": [90.0, 0.2, 0.2]},
        index=["full", "LoRA", "QLoRA"],
    )
    ax = weight_plots.memory_bars(sizes, title="Memory")
    assert written(ax) == ["120", "15.2", "4.85"]
    assert [bar.get_x() for bar in ax.containers[1]] == [30.0, 15.0, 4.65]
    assert [t.get_text() for t in ax.get_yticklabels()] == list(sizes.index)
    assert ax.yaxis_inverted()
    assert legend(ax) == ["weights", "optimizer"]
    assert ax.get_xlabel() == "memory (GB)"
    assert weight_plots.memory_bars(sizes, unit="MiB").get_xlabel() == "memory (MiB)"


@pytest.mark.parametrize("sizes", [[], [[1.0, -1.0]], [[1.0, np.nan]]])
def test_impossible_sizes_are_refused(sizes: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="no value below 0"):
        weight_plots.memory_bars(pd.DataFrame(sizes))


def test_losses_are_measured_by_the_first() -> None:
    ax = weight_plots.loss_bars({"as it is": 4.66, "NF4": 4.881, "even": 5.69})
    assert written(ax) == ["4.66", "4.88", "5.69"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["as it is", "NF4", "even"]
    assert list(ax.lines[0].get_xdata()) == [4.66, 4.66]
    colors = [bar.get_facecolor() for bar in ax.patches]
    assert colors[0] != colors[1] == colors[2]
    assert ax.get_xlabel() == "loss (nats per token)"
    for losses in ({}, {"broken": np.nan}):
        with pytest.raises(ValueError, match="at least one variant"):
            weight_plots.loss_bars(losses)


CASES = {
    "error": (weight_plots.error_curve, points()),
    "levels": (weight_plots.weight_levels, np.linspace(-1, 1, 99) ** 3, [-1, 0, 1]),
    "spectrum": (weight_plots.spectrum, {"a": [2.0, 1.0]}),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_figures_of_weights_follow_the_rules(case) -> None:
    assert_follows_the_rules(*case)


def test_bars_of_memory_follow_the_rules() -> None:
    frame = pd.DataFrame({"weights": [1.0, 2.0, 3.0]}, index=["a", "b", "c"])
    assert_follows_the_rules(weight_plots.memory_bars, frame, names_on_y=True)


def test_bars_of_losses_follow_the_rules() -> None:
    assert_follows_the_rules(
        weight_plots.loss_bars, {"a": 1, "b": 2.0}, names_on_y=True
    )


def test_bits_can_be_drawn_into_given_axes() -> None:
    _, ax = plt.subplots()
    assert weight_plots.bit_layout(ax=ax) is ax
    assert ax.get_title()
