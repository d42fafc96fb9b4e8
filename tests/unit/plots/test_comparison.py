"""Figures of the comparison: what they show, where names stand, what they refuse."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from chapterlib.metrics import calibration, significance
from chapterlib.plots import comparison, curves as curve_plots
from chapterlib.plots.style import METHOD_STYLES, label_points, new_axes, short_names
from chapterlib.reporting import costs

METHODS = list(METHOD_STYLES)


@pytest.fixture(autouse=True)
def closed_figures() -> Iterator[None]:
    yield
    plt.close("all")


def written(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts if text.get_text()]


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


def curves() -> dict[str, pd.DataFrame]:
    y_true, found = answers()
    return {slug: calibration.abstention_curve(y_true, *m) for slug, m in found.items()}


def differences() -> pd.DataFrame:
    y_true, found = answers()
    return significance.pairwise_differences(
        y_true, {slug: predictions for slug, (predictions, _) in found.items()}
    )


def runs(n: int = len(METHODS)) -> pd.DataFrame:
    accuracy = [0.25, 0.9, 0.6, 0.63, 0.66, 0.68, 0.65, 0.7, 0.72, 0.85, 0.86]
    accuracy += [0.905, 0.915, 0.91, 0.92, 0.921]
    cost = [0.01, 0.011, 1, 1.05, 1.1, 1.12, 2.5, 1.3, 0.05, 3, 30]
    cost += [0.3, 0.35, 0.36, 0.5, 0.52]
    frame = pd.DataFrame({"method": METHODS, "accuracy": accuracy, "cost": cost})
    low, high = frame["accuracy"] - 0.01, frame["accuracy"] + 0.01
    return frame.assign(low=low, high=high).head(n)


def leads() -> pd.DataFrame:
    points = {("tfidf", 32): [-30, -28, -27], ("lora", 32): [-0.7, -2, -6]}
    points |= {("tfidf", 512): [-7], ("lora", 512): [1.0, 0.8, 0.3]}
    rows = [(*at, value) for at, values in points.items() for value in values]
    return pd.DataFrame(rows, columns=["method", "labels", "points"])


CASES = {
    "reliability": (curve_plots.reliability_diagram, [reliabilities()], {}),
    "reliability: one": (
        curve_plots.reliability_diagram,
        [reliabilities()["probe"]],
        {},
    ),
    "abstention": (curve_plots.abstention_lines, [curves()], {}),
    "cost": (
        comparison.accuracy_against,
        [runs(), "cost"],
        {"x_label": "US dollars for 1,000 articles"},
    ),
    "cost: one": (
        comparison.accuracy_against,
        [runs(1).drop(columns=["low", "high"]), "cost"],
        {"x_label": "GB"},
    ),
    "differences": (comparison.difference_matrix, [differences()], {}),
    "differences: one": (comparison.difference_matrix, [differences()[:1]], {}),
    "leads": (comparison.leads_by_draw, [leads()], {"rival": "probe"}),
    "leads: one": (comparison.leads_by_draw, [leads()[:1]], {"rival": "probe"}),
    "break-even": (
        comparison.break_even_lines,
        [costs.break_even(0.001, machine=365)],
        {},
    ),
    "break-even: never": (
        comparison.break_even_lines,
        [costs.break_even(0.001, 0.002)],
        {},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_figure_is_titled_labeled_and_within_its_page(case, recwarn):
    draw, data, options = case
    title = "A finding that is long enough to be broken into two lines of the figure"
    ax = draw(*data, title=title, **options)
    ax.figure.canvas.draw()
    assert ax.get_title().replace("\n", " ") == title
    assert ax.get_xlabel()
    assert ax.get_ylabel() or draw is comparison.difference_matrix
    page = ax.figure.bbox
    for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts):
        box = text.get_window_extent()
        assert page.x0 <= box.x0
        assert box.x1 <= page.x1 + 1
        assert page.y0 <= box.y0
        assert box.y1 <= page.y1
    assert not [str(w.message) for w in recwarn]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_every_figure_fits_axes_given_and_leaves_settings_alone(case):
    draw, data, options = case
    before = dict(mpl.rcParams)
    figure, ax = plt.subplots()
    assert draw(*data, ax=ax, **options) is ax
    assert plt.get_fignums() == [figure.number]
    assert dict(mpl.rcParams) == before


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
    found = curves()
    ax = curve_plots.abstention_lines(found, least_rows=60)
    for line, curve in zip(ax.lines, found.values(), strict=True):
        x, y = (np.asarray(values) for values in line.get_data())
        assert x[0] == pytest.approx(60 / 600, abs=0.01)
        assert_allclose(y[-1], curve["accuracy"].iloc[-1])
    assert sorted(written(ax)) == ["LoRA", "Probe", "Zero-shot"]
    with pytest.raises(ValueError, match="least_rows=601"):
        curve_plots.abstention_lines(found, least_rows=601)


# ---- accuracy against cost ----

numbers = st.integers(0, 8)


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), max_size=12))
def test_the_front_holds_what_no_other_beats(choices):
    cost, value = [c for c, _ in choices], [v for _, v in choices]
    front = comparison.pareto_front(cost, value)
    for i, (c, v) in enumerate(choices):
        beaten = any(c2 <= c and v2 >= v and (c2, v2) != (c, v) for c2, v2 in choices)
        assert front[i] == (not beaten)


def test_the_line_runs_along_the_front():
    ax = comparison.accuracy_against(runs(), "cost", x_label="US dollars")
    x, y = ax.lines[-1].get_data()
    # Majority, TF-IDF, probe, LoRA, full finetuning, LP-FT: each step up is dearer.
    assert sorted(set(np.asarray(y).round(3))) == [0.25, 0.9, 0.905, 0.915, 0.92, 0.921]
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= 0).all()
    assert ax.get_xscale() == "log"
    assert "US dollars, log scale" in ax.get_xlabel()


def test_names_cover_neither_each_other_nor_points():
    ax = comparison.accuracy_against(runs(), "cost", x_label="US dollars")
    ax.figure.canvas.draw()
    names = [text for text in ax.texts if text.get_text()]
    assert len(names) == len(METHODS)
    boxes = [text.get_window_extent() for text in names]
    for a, b in combinations(boxes, 2):
        assert not a.overlaps(b)
    for x, y in runs()[["cost", "accuracy"]].to_numpy():
        place = ax.transData.transform((x, y))
        assert not any(box.contains(*place) for box in boxes)
    room = ax.get_window_extent()
    assert all(room.x0 <= box.x0 and box.x1 <= room.x1 for box in boxes)


def test_a_name_far_from_its_point_is_led_to_it():
    ax = new_axes(None, "Crowded")
    ax.set(xlim=(0, 10), ylim=(0, 10))
    points = [(5 + 0.02 * i, 5 + 0.02 * (i % 3)) for i in range(12)]
    label_points(ax, points, [f"method {i}" for i in range(12)], ["#000000"] * 12)
    leaders = [text for text in ax.texts if not text.get_text()]
    assert leaders
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_points_are_named_shortly_where_no_other_shares_the_name():
    assert short_names(["probe", "lora"]) == {"probe": "Probe", "lora": "LoRA"}
    both = ["probe", "probe-llama"]
    assert short_names(both) == {"probe": "probe", "probe-llama": "probe-llama"}
    assert short_names(both, {"probe": "Small"})["probe"] == "Small"
    two = runs(2).assign(method=both, title=["Small", "Big"])
    ax = comparison.accuracy_against(two, "cost", x_label="US dollars")
    assert sorted(written(ax)) == ["Big", "Small"]
    named = two.assign(label=["a", "b"])
    ax = comparison.accuracy_against(named, "cost", x_label="US dollars")
    assert sorted(written(ax)) == ["a", "b"]


# ---- differences ----


def test_the_matrix_holds_points_and_stars_of_every_pair():
    table = differences()
    ax = comparison.difference_matrix(table)
    expected = [
        "\n".join(filter(None, [f"{abs(points):.1f}", comparison.stars(p)]))
        for points, p in zip(table["points"], table["p_holm"], strict=True)
    ]
    assert sorted(written(ax)) == sorted(expected)
    rows = [label.get_text() for label in ax.get_yticklabels()]
    columns = [label.get_text() for label in ax.get_xticklabels()]
    accuracies = [float(name.split()[-1]) for name in [columns[0], *rows]]
    assert accuracies == sorted(accuracies, reverse=True)
    assert rows[:-1] == columns[1:]


def test_a_difference_that_may_be_luck_stays_without_color():
    table = differences().assign(p_holm=[0.05, 0.049, 0.2])
    ax = comparison.difference_matrix(table)
    shown = np.ma.masked_invalid(ax.collections[0].get_array())
    assert shown.count() == 1
    assert sum("*" in text for text in written(ax)) == 1


def test_numbers_can_be_read_on_their_colors():
    ax = comparison.difference_matrix(differences())
    mesh = ax.collections[0]
    darkest = mesh.to_rgba([1.0])[0, :3]

    def luminance(rgb):
        rgb = np.asarray(rgb)
        linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722] + 0.05

    assert luminance(darkest) / luminance(to_rgb("#222222")) > 4.5


@pytest.mark.parametrize(
    ("p", "expected"),
    [(1, ""), (0.05, ""), (0.0499, "*"), (0.0099, "**"), (0.0009, "***")],
)
def test_stars(p, expected):
    assert comparison.stars(p) == expected


def test_every_draw_has_a_mark_and_every_budget_its_mean():
    ax = comparison.leads_by_draw(leads(), rival="probe")
    drawn = [float(y) for line in ax.lines for y in line.get_ydata()]
    assert sorted(drawn) == sorted([0.0, 0.0, *leads()["points"]])
    means = leads().groupby(["method", "labels"])["points"].mean()
    bars = [part[0][1] for c in ax.collections for part in c.get_segments()]
    assert_allclose(sorted(bars), sorted(means))
    assert [text.get_text() for text in ax.get_xticklabels()] == ["32", "512"]
    named = [text.get_text() for text in ax.get_legend().get_texts()]
    assert named == ["TF-IDF", "LoRA"]
    assert "probe" in ax.get_ylabel()


# ---- break-even ----


def test_the_lines_cross_at_the_break_even():
    result = costs.break_even(0.001, 0.0001, machine=365, training=120)
    ax = comparison.break_even_lines(result, names=("ours", "theirs"))
    small, hosted = ax.lines[:2]
    x = np.asarray(small.get_xdata())
    cheaper = np.asarray(small.get_ydata()) < np.asarray(hosted.get_ydata())
    assert (cheaper == (x >= result.articles)).all()
    assert cheaper.any()
    assert not cheaper.all()
    assert "416,667 articles\nfor $416.67 a month" in written(ax)
    assert {"ours", "theirs"} <= set(written(ax))


def test_lines_that_never_cross_have_no_mark():
    ax = comparison.break_even_lines(costs.break_even(0.001, 0.002, machine=9))
    assert len(ax.lines) == 2
    assert len(written(ax)) == 2


# ---- what is refused ----


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: curve_plots.reliability_diagram({}), "No bin"),
        (lambda: curve_plots.abstention_lines({}), "No curve"),
        (
            lambda: comparison.accuracy_against(runs(), "time", x_label="s"),
            "no column time",
        ),
        (
            lambda: comparison.accuracy_against(
                runs().assign(cost=0.0), "cost", x_label="$"
            ),
            "values above 0 only",
        ),
        (lambda: comparison.difference_matrix(runs()), "no column a"),
        (
            lambda: comparison.leads_by_draw(runs(), rival="probe"),
            "no column labels",
        ),
        (
            lambda: comparison.break_even_lines(costs.break_even(0, 1)),
            "costs nothing",
        ),
        (
            lambda: comparison.break_even_lines(costs.break_even(1)),
            "costs nothing",
        ),
        (lambda: comparison.pareto_front([1, 2], [1]), "one of each"),
        (lambda: comparison.pareto_front([1, np.nan], [1, 2]), "is missing"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()
