"""Figures of the data: what they show, and what they refuse."""

from __future__ import annotations

from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from chapterlib.metrics import evaluation
from chapterlib.plots import data

from .checks import assert_follows_the_rules, written

NAMES = ("red", "green", "blue", "dark/light")
MANY = [f"class {i}" for i in range(77)]
LENGTHS = {"train": [30, 40, 50, np.nan, 300], "test": [35, 45]}
FRAME = pd.DataFrame({"train": [10, 20], "test": [5, np.nan]}, index=["a", "b"])


def points(n):
    return np.random.default_rng(0).normal(size=(n, 2))


# Each function on usual data, on the least data, and on data with gaps.
BARS = {
    "class_balance": (data.class_balance, FRAME),
    "class_balance: one class": (data.class_balance, {"red": 3}),
    "class_balance: series": (data.class_balance, pd.Series([1, 2], NAMES[:2])),
    "class_balance: no rows": (data.class_balance, {"red": 0}),
    "audit_bars": (data.audit_bars, FRAME / 100),
    "audit_bars: one": (data.audit_bars, {"tags": 0.25}),
}
OTHERS = {
    "length_histogram": (data.length_histogram, LENGTHS),
    "length_histogram: one": (data.length_histogram, {"all": [7]}),
    "projection": (data.projection, points(300), np.arange(300) % 4, NAMES),
    "projection: one": (data.projection, points(1), [2], NAMES),
    "confusion": (data.confusion, np.eye(4, 5, dtype=int), NAMES),
    "confusion: one class": (data.confusion, [[3]], ["a"]),
    "confusion: 77 classes": (data.confusion, np.eye(77, dtype=int), MANY),
}


@pytest.mark.parametrize("case", BARS.values(), ids=BARS)
def test_bars_follow_the_rules(case):
    assert_follows_the_rules(*case, names_on_y=True)


@pytest.mark.parametrize("case", OTHERS.values(), ids=OTHERS)
def test_figures_of_data_follow_the_rules(case):
    assert_follows_the_rules(*case)


def test_bars_carry_their_numbers():
    assert written(data.class_balance(FRAME)) == [
        "10 train",
        "20 train",
        "5 test",
        "no value",
    ]
    assert written(data.audit_bars({"tags": 0.2534})) == ["25.3%"]


def test_audit_bars_take_an_audit():
    class Audit:
        artifacts = FRAME / 100

    assert written(data.audit_bars(Audit()))[0] == "10.0% train"


def test_the_cut_tells_how_many_texts_are_longer():
    ax = data.length_histogram({"all": [10] * 99 + [200]}, max_length=128)
    assert written(ax) == ["cut at 128:\n1.0% are longer"]
    assert ax.get_xlim()[1] > 128


def test_the_no_answer_column_shows_only_where_needed():
    full = data.confusion(evaluation.evaluate([0, 1, 2, 3], [0, 1, 2, 3], NAMES))
    assert [t.get_text() for t in full.get_xticklabels()] == list(NAMES)
    some = data.confusion(evaluation.evaluate([0, 1, 2, 3], [0, 1, 2, -1], NAMES))
    assert some.get_xticklabels()[-1].get_text() == "no answer"
    assert written(some)[-1] == "1\n100.0%"


def test_a_class_without_rows_has_no_shares():
    assert written(data.confusion([[2, 0], [0, 0]])) == [
        "2\n100.0%",
        "0\n0.0%",
        "–",
        "–",
    ]


def test_many_classes_are_colors_without_numbers():
    ax = data.confusion(np.eye(77, dtype=int), MANY)
    assert not ax.texts
    assert [label.get_text() for label in ax.get_yticklabels()] == MANY
    ax.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: data.class_balance({}), "no rows"),
        (lambda: data.length_histogram({"train": [np.nan]}), "No split"),
        (lambda: data.projection(points(3), [0, 1], NAMES), "one class id a row"),
        (lambda: data.projection([[np.nan, 0]], [0], NAMES), "No point is finite"),
        (lambda: data.confusion([[1, 2, 3, 4]], ["a"]), "a row and a column"),
        (lambda: data.confusion([[1]], ["a", "b"]), "2 label_names for 1 classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
    assert not plt.get_fignums()
