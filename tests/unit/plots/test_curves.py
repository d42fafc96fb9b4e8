"""Figures with lines: what they show, and what they refuse."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

from chapterlib.metrics import calibration, evaluation
from chapterlib.plots import curves as curve_plots
from chapterlib.plots.curves import loss_curve
from chapterlib.plots.styles import CLASS_STYLES, METHOD_STYLES

from .checks import assert_follows_the_rules, assert_nothing_overlaps, written

HISTORY = [
    {"step": 1, "epoch": 0.5, "loss": 2.0},
    {"step": 2, "epoch": 1.0, "loss": 1.0},
    {"step": 2, "epoch": 1.0, "eval_loss": 1.2, "eval_accuracy": 0.5},
]


def curves(**columns):
    frame = pd.DataFrame(
        {
            "method": ["tfidf"] * 3 + ["probe"] * 3 + ["zero-shot"],
            "labels": [32, 128, 512, 32, 128, 512, 0],
            "accuracy": [0.5, 0.65, 0.8, 0.7, 0.8, 0.86, 0.6],
        }
    )
    frame["low"], frame["high"] = frame["accuracy"] - 0.02, frame["accuracy"] + 0.02
    return frame.assign(**columns)


def layers():
    return pd.DataFrame(
        {
            "layer": [0, 1, 2] * 2,
            "pooling": ["mean"] * 3 + ["last"] * 3,
            "accuracy": [0.5, 0.8, 0.7, 0.4, 0.6, np.nan],
        }
    )


def answers(n: int = 600):
    """Draw true classes, and answers with the confidence of a few methods."""
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 4, n)
    found = {}
    for slug, skill in (("probe", 2.5), ("lora", 3.0), ("zero-shot", 0.5)):
        scores = rng.normal(size=(n, 4))
        scores[np.arange(n), y_true] += skill
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        found[slug] = calibration.top_label(shares)
    return y_true, found


def reliabilities() -> dict[str, calibration.Reliability]:
    y_true, found = answers()
    return {
        slug: calibration.reliability(y_true, *made) for slug, made in found.items()
    }


def abstentions() -> dict[str, pd.DataFrame]:
    y_true, found = answers()
    return {slug: calibration.abstention_curve(y_true, *m) for slug, m in found.items()}


CASES = {
    "intervals": (curve_plots.interval_widths,),
    "intervals: one": (curve_plots.interval_widths, [300]),
    "learning": (curve_plots.learning_curve, curves()),
    "learning: one": (curve_plots.learning_curve, curves()[:1]),
    "learning: no labels": (curve_plots.learning_curve, curves()[6:]),
    "learning: gaps": (curve_plots.learning_curve, curves(low=np.nan)),
    "layers": (curve_plots.layer_curve, layers()),
    "layers: one": (curve_plots.layer_curve, layers()[:1]),
    "losses": (loss_curve, {"LoRA": HISTORY, "full": HISTORY[:2]}),
    "losses: one": (loss_curve, {"LoRA": HISTORY[:1]}),
    "reliability": (curve_plots.reliability_diagram, reliabilities()),
    "reliability: one": (curve_plots.reliability_diagram, reliabilities()["probe"]),
    "reliability: many": (
        curve_plots.reliability_diagram,
        dict.fromkeys(METHOD_STYLES, reliabilities()["probe"]),
    ),
    "abstention": (curve_plots.abstention_lines, abstentions()),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_figures_with_lines_follow_the_rules(case):
    assert_nothing_overlaps(assert_follows_the_rules(*case))


def inner_leads(ax):
    """Colors of the thin lines that lead from a name to an end inside the axes."""
    leads = [line for line in ax.lines if line.get_linestyle() == ":"]
    starts = [np.asarray(line.get_xdata())[0] for line in leads]
    return [a.get_color() for a, x in zip(leads, starts, strict=True) if x < 0.9]


def test_interval_widths_are_those_of_wilson():
    ax = curve_plots.interval_widths([100, 300], shares=[0.85])
    low, high = evaluation.wilson(255, 300)
    assert np.asarray(ax.lines[0].get_ydata())[1] == pytest.approx(100 * (high - low))
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["100", "300"]


def test_the_learning_curve_has_real_numbers_and_names_at_its_ends():
    ax = curve_plots.learning_curve(curves())
    assert ax.get_xscale() == "log"
    assert list(ax.get_xticks()) == [32, 128, 512]
    assert sorted(written(ax)) == ["Probe", "TF-IDF", "Zero-shot (no labels)"]
    assert ax.get_legend() is None


@pytest.mark.parametrize(
    ("method", "numbers"),
    [
        ("probe", ["32", "128", "512", "", "2,048", "14,112"]),
        (
            "a-name-that-takes-half-of-the-page",
            ["32", "128", "", "", "2,048", "14,112"],
        ),
    ],
)
def test_counts_have_ticks_and_numbers_that_do_not_touch(method, numbers):
    labels = [32, 128, 512, 1000, 2048, 14112]
    frame = pd.DataFrame({"method": method, "labels": labels, "accuracy": 0.5})
    ax = curve_plots.learning_curve(frame)
    assert_nothing_overlaps(ax)
    assert list(ax.get_xticks()) == labels
    assert [tick.get_text() for tick in ax.get_xticklabels()] == numbers


def test_names_stand_below_the_title_and_lines_lead_to_ends_inside():
    frames = [
        pd.DataFrame({"method": slug, "labels": [32, last], "accuracy": [0.2, 0.9]})
        for slug, last in (("tfidf", 512), ("probe", 14112), ("lora", 14112))
    ]
    ax = curve_plots.learning_curve(pd.concat(frames))
    assert all(text.xy[1] <= 1 for text in ax.texts)
    assert inner_leads(ax) == [METHOD_STYLES["tfidf"].color]


def test_many_names_that_end_alike_are_kept_apart_on_the_page():
    frames = [
        curves(method=slug, labels=[8, 32, 128, 512, 1000, 2048, 14112])
        for slug in METHOD_STYLES
    ]
    ax = assert_follows_the_rules(curve_plots.learning_curve, pd.concat(frames)[:70])
    assert_nothing_overlaps(ax)
    assert len(written(ax)) == 10


def test_chosen_methods_are_enlarged_below():
    ax = curve_plots.learning_curve(curves(), zoom=["probe"], title="All")
    above, below = ax.figure.axes
    assert ax is above
    assert (above.get_title(), below.get_title()) == ("All", "Enlarged")
    assert written(below) == ["Probe"]
    for panel in (above, below):
        assert_nothing_overlaps(panel)
        left = panel.title.get_window_extent().x0
        assert left == pytest.approx(0.015 * ax.figure.bbox.width, abs=1)


def test_variants_of_one_method_are_told_apart():
    two = pd.concat(
        [curves(method="probe-a", title="Small"), curves(method="probe-b", title="Big")]
    )
    ax = curve_plots.learning_curve(two[two["labels"] > 0])
    assert sorted(written(ax)) == ["Big", "Small"]
    assert ax.lines[0].get_linestyle() != ax.lines[1].get_linestyle()
    untitled = curve_plots.learning_curve(two.drop(columns="title"))
    assert sorted(written(untitled)) == ["probe-a", "probe-b"]


# ---- losses ----


def test_lines_are_losses_and_dots_held_out_rows() -> None:
    more = [{"epoch": 1.5, "loss": 0.8}, {"epoch": 2, "loss": 0.7}]
    runs = {"LoRA": [*HISTORY, *more], "full": HISTORY[:2]}
    ax = loss_curve(runs, smooth=2, title="Found")
    assert ax.get_title() == "Found"
    raw, mean, held, *_ = ax.lines
    assert list(raw.get_ydata()) == [2.0, 1.0, 0.8, 0.7]
    assert_allclose(mean.get_ydata(), [np.nan, 1.5, 0.9, 0.75])
    assert (list(held.get_xdata()), list(held.get_ydata())) == ([1.0], [1.2])
    assert (mean.get_color(), held.get_linestyle()) == (held.get_color(), "--")
    assert mean.get_color() == METHOD_STYLES["lora"].color
    assert {text.get_text() for text in ax.texts} == {"LoRA", "full"}
    assert "held-out" in ax.get_xlabel()
    assert "nats" in ax.get_ylabel()


def test_runs_have_the_colors_of_their_methods_and_variants_other_dashes() -> None:
    names = ["LoRA, rank 8", "LoRA, rank 16", "QLoRA", "lp-ft", "carefully tuned"]
    ax = loss_curve(dict.fromkeys(names, HISTORY))
    means, held = ax.lines[1:15:3], ax.lines[2:15:3]
    known = [METHOD_STYLES[slug] for slug in ("lora", "lora", "qlora", "lp-ft")]
    colors = [style.color for style in [*known, CLASS_STYLES[4]]]
    assert [line.get_color() for line in means] == colors
    assert [line.get_linestyle() for line in means] == ["-", "--", "-", "-", "-"]
    assert [line.get_markerfacecolor() == "white" for line in held[:3]] == [0, 1, 0]


def test_a_short_run_has_a_line_and_its_name_is_led_to_its_end() -> None:
    losses = [{"epoch": n / 8, "loss": 2 - n / 100} for n in range(1, 33)]
    ax = loss_curve({"LoRA": losses[:8], "full": losses})
    short, long = (np.asarray(ax.lines[i].get_ydata()) for i in (1, 3))
    assert np.isfinite(short).sum() == 5
    assert np.isnan(long).sum() == 7
    assert ax.lines[0].get_marker() == "."  # a single loss is seen, too
    assert inner_leads(ax) == [METHOD_STYLES["lora"].color]


def test_without_held_out_rows_none_are_named() -> None:
    _, given = plt.subplots()
    ax = loss_curve({"LoRA": HISTORY[:2]}, ax=given)
    assert ax is given
    assert ax.get_xlabel() == "epoch"


# ---- reliability and abstention ----


def test_the_reliability_diagram_shows_the_bins_and_names_the_error():
    found = reliabilities()
    ax = curve_plots.reliability_diagram(found)
    bins = found["probe"].bins.query("rows >= 10")
    diagonal, probe = ax.lines[:2]
    assert_allclose(diagonal.get_xdata(), diagonal.get_ydata())
    assert_allclose(probe.get_xdata(), bins["confidence"])
    assert_allclose(probe.get_ydata(), bins["accuracy"])
    assert f"Probe ({found['probe'].error:.3f})" in written(ax)
    assert inner_leads(ax) == [METHOD_STYLES["zero-shot"].color]
    assert ax.get_ylim()[1] > 1.02  # else the top would cut markers in half
    alone = curve_plots.reliability_diagram(found["lora"])
    assert written(alone) == [f"error {found['lora'].error:.3f}"]


def test_bins_with_few_rows_are_not_drawn():
    few = calibration.reliability([0] * 12, [0] * 12, [0.95] * 11 + [0.3])
    ax = curve_plots.reliability_diagram(few)
    assert len(ax.lines[1].get_xdata()) == 1
    everything = curve_plots.reliability_diagram(few, least_rows=1)
    assert len(everything.lines[1].get_xdata()) == 2
    with pytest.raises(ValueError, match="least_rows=20"):
        curve_plots.reliability_diagram(few, least_rows=20)


def test_abstention_lines_begin_where_they_rest_on_enough_rows():
    found = abstentions()
    ax = curve_plots.abstention_lines(found, least_rows=60)
    for line, curve in zip(ax.lines, found.values(), strict=True):
        x, y = (np.asarray(values) for values in line.get_data())
        assert x[0] == pytest.approx(60 / 600, abs=0.01)
        assert_allclose(y[-1], curve["accuracy"].iloc[-1])
        assert not line.get_clip_on()
    assert sorted(written(ax)) == ["LoRA", "Probe", "Zero-shot"]
    with pytest.raises(ValueError, match="least_rows=601"):
        curve_plots.abstention_lines(found, least_rows=601)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: curve_plots.interval_widths([]), "give counts"),
        (lambda: curve_plots.interval_widths([0]), "give counts"),
        (lambda: curve_plots.learning_curve(curves().drop(columns="labels")), "labels"),
        (
            lambda: curve_plots.learning_curve(curves(accuracy=np.nan)),
            "nothing to draw",
        ),
        (lambda: curve_plots.learning_curve(curves(), zoom=["lora"]), "of the table"),
        (
            lambda: curve_plots.learning_curve(
                curves(), zoom=["probe"], ax=plt.figure("given").gca()
            ),
            "no ax",
        ),
        (lambda: curve_plots.layer_curve(curves()), "layer, pooling"),
        (lambda: curve_plots.reliability_diagram({}), "No bin"),
        (lambda: curve_plots.abstention_lines({}), "No curve"),
        (lambda: loss_curve({}), "at least one run"),
        (lambda: loss_curve({"new": []}), "'new' holds no loss"),
        (lambda: loss_curve({"judged": HISTORY[2:]}), "'judged' holds no loss"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
