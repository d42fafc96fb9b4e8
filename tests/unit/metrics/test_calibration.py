"""Calibration and abstention against scikit-learn and against plain counting."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.calibration import calibration_curve
from sklearn.metrics import accuracy_score

from chapterlib.metrics import calibration

# Eighths of a percent: exact in binary, so that no bound is a matter of rounding.
confidences = st.integers(0, 64).map(lambda i: i / 64)
rows = st.lists(
    st.tuples(st.integers(0, 3), st.integers(-1, 3), confidences),
    min_size=1,
    max_size=80,
)


def columns(drawn):
    return tuple(np.array(column) for column in zip(*drawn, strict=True))


@settings(deadline=None)
@given(rows, st.integers(1, 12))
def test_the_bins_are_those_of_sklearn(drawn, bins):
    y_true, y_pred, confidence = columns(drawn)
    found = calibration.reliability(y_true, y_pred, confidence, bins=bins)
    answered = y_pred >= 0
    assert (found.n, found.answered) == (len(y_true), answered.sum())
    assert found.bins["rows"].sum() == found.answered
    if not found.answered:
        assert math.isnan(found.error)
        return
    right = (y_true == y_pred)[answered]
    filled = found.bins[found.bins["rows"] > 0]
    if bins > 1:
        accuracy, mean = calibration_curve(right, confidence[answered], n_bins=bins)
        assert_allclose(filled["accuracy"], accuracy)
        assert_allclose(filled["confidence"], mean)
    distances = filled["rows"] * (filled["accuracy"] - filled["confidence"]).abs()
    assert found.error == pytest.approx(distances.sum() / found.answered)
    assert_allclose(filled["gap"], filled["accuracy"] - filled["confidence"])


def test_a_bin_holds_its_upper_bound_but_not_its_lower():
    found = calibration.reliability([0] * 4, [0] * 4, [0.0, 0.25, 0.5, 1.0], bins=4)
    assert found.bins["rows"].tolist() == [2, 1, 0, 1]
    assert math.isnan(found.bins["accuracy"][2])


def test_a_classifier_that_knows_itself_has_no_error():
    y_true = [0, 0, 0, 1]
    assert calibration.reliability(y_true, [0] * 4, [0.75] * 4).error == pytest.approx(
        0
    )
    boasting = calibration.reliability(y_true, [0] * 4, [1.0] * 4)
    assert boasting.error == pytest.approx(0.25)
    assert boasting.bins["gap"].iloc[-1] == pytest.approx(-0.25)


@settings(deadline=None)
@given(rows)
def test_the_abstention_curve_is_the_accuracy_above_each_threshold(drawn):
    y_true, y_pred, confidence = columns(drawn)
    curve = calibration.abstention_curve(y_true, y_pred, confidence)
    answered = y_pred >= 0
    distinct = sorted(set(confidence[answered].tolist()), reverse=True)
    assert curve["threshold"].tolist() == distinct
    for row in curve.itertuples():
        given_ones = answered & (confidence >= row.threshold)
        assert row.rows == given_ones.sum()
        assert row.coverage == pytest.approx(given_ones.mean())
        expected = accuracy_score(y_true[given_ones], y_pred[given_ones])
        assert row.accuracy == pytest.approx(expected)
        assert row.right == ((y_true == y_pred) & given_ones).sum()


@settings(deadline=None)
@given(rows, st.randoms(use_true_random=False))
def test_ties_do_not_depend_on_row_order(drawn, random):
    shuffled = random.sample(drawn, len(drawn))
    curves = [
        calibration.abstention_curve(*columns(some)) for some in (drawn, shuffled)
    ]
    assert_array_equal(*curves)


def test_the_curve_ends_where_answers_do():
    curve = calibration.abstention_curve(
        [0, 1, 2, 3], [0, 1, 0, -1], [1, 0.5, 0.5, 0.9]
    )
    assert curve["coverage"].tolist() == [0.25, 0.75]
    assert curve["accuracy"].tolist() == [1.0, pytest.approx(2 / 3)]
    assert calibration.abstention_curve([0], [-1], [math.nan]).empty


def test_the_top_label_is_the_most_likely_class():
    probabilities = [[0.1, 0.7, 0.2], [math.nan] * 3, [0.5, 0.5, 0.0]]
    predictions, confidence = calibration.top_label(probabilities)
    assert predictions.tolist() == [1, -1, 0]
    assert_array_equal(confidence, [0.7, math.nan, 0.5])
    softmax = np.exp(np.random.default_rng(0).normal(size=(50, 4)), dtype=np.float32)
    softmax /= softmax.sum(axis=1, keepdims=True)
    predictions, confidence = calibration.top_label(softmax)
    assert_array_equal(predictions, softmax.argmax(axis=1))
    found = calibration.reliability(predictions, predictions, confidence)
    assert found.answered == 50


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: calibration.reliability([0], [0], [0.5], bins=0), "at least 1"),
        (lambda: calibration.reliability([0], [0], [1.5]), "Row 0 of confidence"),
        (lambda: calibration.reliability([0], [0], [math.nan]), "set y_pred to -1"),
        (lambda: calibration.reliability([0], [0], [[0.5, 0.5]]), "see top_label"),
        (lambda: calibration.abstention_curve([0, 1], [0, 1], [0.5]), "lengths differ"),
        (lambda: calibration.top_label([0.5, 0.5]), "a column a class"),
        (lambda: calibration.top_label([[0.5, 0.4]]), "Row 0 of probabilities"),
        (lambda: calibration.top_label([[0.5, math.nan]]), "softmax"),
        (lambda: calibration.top_label([[1.5, -0.5]]), "softmax"),
    ],
)
def test_what_is_no_confidence_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
