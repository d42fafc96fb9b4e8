"""Figures that compare methods: what they show, where names stand, what they refuse."""

from __future__ import annotations

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose

from chapterlib.metrics import significance
from chapterlib.plots import comparison
from chapterlib.plots.styles import METHOD_STYLES
from chapterlib.reporting import costs

from .checks import assert_follows_the_rules, assert_nothing_overlaps, written

METHODS = list(METHOD_STYLES)


def rungs(n=4):
    accuracy = np.linspace(0.92, 0.8, n)
    return pd.DataFrame(
        {
            "method": ["lora", "probe", "tfidf", "zero-shot"][:n],
            "title": ["LoRA", "Probe", "TF-IDF", "Zero-shot"][:n],
            "model": ["embedded", "embedded", None, "embedded"][:n],
            "labels": [2048, 512, 512, 0][:n],
            "seeds": [1, 3, 1, 1][:n],
            "accuracy": accuracy,
            "low": accuracy - 0.01,
            "high": accuracy + 0.01,
            "test_rows": 3800,
            "level": 0.95,
            "data": "AG News",
        }
    )


def differences() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    y_true = rng.integers(0, 4, 600)
    wrong = (y_true + rng.integers(1, 4, 600)) % 4
    given = {
        slug: np.where(rng.random(600) < share, y_true, wrong)
        for slug, share in (("probe", 0.8), ("lora", 0.87), ("zero-shot", 0.4))
    }
    return significance.pairwise_differences(y_true, given)


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


def lines(found: costs.BreakEven, **options):
    """Draw both models' costs around the crossing, or around 10,000 articles."""
    counts = np.geomspace(100, 10**7, 200)
    own, hosted = found.small_costs(counts), found.hosted_costs(counts)
    crossing = found.articles
    return comparison.break_even_lines(
        counts, own, hosted, crossing=crossing, **options
    )


CASES = {
    "ladder": (comparison.ladder, rungs()),
    "ladder: one": (comparison.ladder, rungs(1)),
    "ladder: gaps": (comparison.ladder, rungs().assign(low=np.nan, high=np.nan)),
    "differences": (comparison.difference_matrix, differences()),
    "differences: one": (comparison.difference_matrix, differences()[:1]),
    "leads": (comparison.leads_by_draw, leads()),
    "leads: one": (comparison.leads_by_draw, leads()[:1]),
    "cost": (comparison.accuracy_against, runs(), "cost"),
    "cost: one": (
        comparison.accuracy_against,
        runs(1).drop(columns=["low", "high"]),
        "cost",
    ),
    "break-even": (lines, costs.break_even(0.001, machine=365)),
    "break-even: never": (lines, costs.break_even(0.001, 0.002)),
}
OPTIONS = {
    comparison.ladder: {"names_on_y": True},
    comparison.difference_matrix: {"names_on_y": True},
    comparison.leads_by_draw: {"rival": "probe"},
    comparison.accuracy_against: {"x_label": "US dollars for 1,000 articles"},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_figures_that_compare_follow_the_rules(case):
    ax = assert_follows_the_rules(*case, **OPTIONS.get(case[0], {}))
    assert_nothing_overlaps(ax)


# ---- the ladder ----


def test_the_ladder_is_sorted_and_tells_the_labels():
    ax = comparison.ladder(rungs().sample(frac=1, random_state=0))
    names = [tick.get_text() for tick in ax.get_yticklabels()]
    assert names == [
        "LoRA\n2,048 labels",
        "Probe\n512 labels, mean of 3 seeds",
        "TF-IDF\n512 labels",
        "Zero-shot\nno labels",
    ]
    assert written(ax)[0] == "0.920"
    low, high = ax.get_ylim()
    assert low > high
    assert "3,800 test rows of AG News" in ax.get_xlabel()


def test_the_ladder_has_room_for_long_titles():
    frame = rungs().assign(title="Zero-shot chat prompt, JSON schema", test_rows=200)
    frame = pd.concat([frame, frame.assign(method="full", test_rows=3800)])
    assert_follows_the_rules(comparison.ladder, frame, names_on_y=True)


def test_the_ladder_draws_the_best_budget_of_each_method():
    fewer = rungs(1).assign(labels=32, accuracy=0.5)
    names = comparison.ladder(pd.concat([fewer, rungs(1)])).get_yticklabels()
    assert [name.get_text() for name in names] == ["LoRA\n2,048 labels"]


def test_a_method_far_behind_stands_at_the_edge():
    behind = rungs(1).assign(method="majority", title="Majority")
    behind = behind.assign(accuracy=0.25, low=0.24, high=0.26)
    ax = comparison.ladder(pd.concat([rungs(), behind]), start=0.5)
    assert ax.get_xlim()[0] > 0.5
    assert written(ax)[-1] == "0.250"
    *_, arrow, value = ax.texts
    assert arrow.arrow_patch
    assert arrow.xy == value.xy == (ax.get_xlim()[0], 4)
    assert not any(4 in np.asarray(line.get_ydata()) for line in ax.lines)
    alone = comparison.ladder(behind, start=0.5)
    assert alone.get_xlim()[0] < 0.25


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


def test_points_go_by_their_label_or_by_the_title_where_two_share_a_name():
    two = runs(2).assign(method=["probe", "probe-llama"], title=["Small", "Big"])
    ax = comparison.accuracy_against(two, "cost", x_label="US dollars")
    assert sorted(written(ax)) == ["Big", "Small"]
    named = two.assign(label=["a", "b"])
    ax = comparison.accuracy_against(named, "cost", x_label="US dollars")
    assert sorted(written(ax)) == ["a", "b"]


# ---- differences ----


def digits(points: float) -> str:
    return f"{points:.1f}" if points < 9.95 else f"{points:.0f}"


def test_the_matrix_holds_points_and_stars_of_every_pair():
    table = differences()
    ax = comparison.difference_matrix(table)
    expected = [
        "\n".join(filter(None, [digits(abs(points)), comparison.stars(p)]))
        for points, p in zip(table["points"], table["p_holm"], strict=True)
    ]
    assert sorted(written(ax)) == sorted(expected)
    rows = [" ".join(name.get_text().split()) for name in ax.get_yticklabels()]
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
    ax = lines(result, names=("ours", "theirs"))
    small, hosted = ax.lines[:2]
    x = np.asarray(small.get_xdata())
    cheaper = np.asarray(small.get_ydata()) < np.asarray(hosted.get_ydata())
    assert (cheaper == (x >= result.articles)).all()
    assert cheaper.any()
    assert not cheaper.all()
    assert "416,667 articles\nfor $416.67 per month" in written(ax)
    assert {"ours", "theirs"} <= set(written(ax))
    assert lines(result, unit="mails").get_xlabel() == "mails per month (log scale)"


def test_lines_that_never_cross_have_no_mark():
    ax = lines(costs.break_even(0.001, 0.002, machine=9))
    assert len(ax.lines) == 2
    assert len(written(ax)) == 2


# ---- what is refused ----


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: comparison.ladder(rungs(0)), "nothing to draw"),
        (lambda: comparison.ladder(pd.DataFrame()), "no column method"),
        (
            lambda: comparison.ladder(
                pd.concat([rungs(1), rungs(1).assign(data="sample")])
            ),
            "different data",
        ),
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
        (lambda: comparison.leads_by_draw(runs(), rival="probe"), "no column labels"),
        (lambda: lines(costs.break_even(0, 1)), "costs nothing"),
        (lambda: lines(costs.break_even(1)), "costs nothing"),
        (lambda: comparison.break_even_lines([], [], []), "costs nothing"),
        (lambda: comparison.break_even_lines([1, 2], [1, 2], [1]), "the shapes"),
        (lambda: comparison.pareto_front([1, 2], [1]), "one of each"),
        (lambda: comparison.pareto_front([1, np.nan], [1, 2]), "is missing"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()
