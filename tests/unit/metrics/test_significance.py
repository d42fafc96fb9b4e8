"""Differences, intervals and sample sizes against reference implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import binom, bootstrap, norm
from sklearn.metrics import accuracy_score, f1_score
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import normal_sample_size_one_tail
from statsmodels.stats.proportion import samplesize_proportions_2indep_onetail

from chapterlib.metrics import evaluation, significance

NAMES = ("World", "Sports", "Business", "Sci/Tech")
shares = st.floats(0.01, 0.99)


def answers(n: int, accuracies: list[float], seed: int = 0):
    """Draw true classes, and predictions that are right about as often as asked."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 4, n)
    wrong = (y_true + rng.integers(1, 4, n)) % 4
    wrong[rng.random(n) < 0.1] = -1
    found = [np.where(rng.random(n) < p, y_true, wrong) for p in accuracies]
    return y_true, found


# ---- Holm ----


# The reference takes a twentieth of a second for each.
@settings(deadline=None, max_examples=25)
@given(arrays(float, array_shapes(max_dims=3, max_side=3), elements=st.floats(0, 1)))
def test_holm_is_that_of_statsmodels_in_any_shape(values):
    adjusted = significance.holm(values)
    assert adjusted.shape == values.shape
    expected = multipletests(values.ravel(), method="holm")[1]
    assert_allclose(adjusted.ravel(), expected, rtol=1e-12)
    assert (adjusted >= values).all()


def test_holm_takes_one_value_or_none():
    assert significance.holm(0.04) == 0.04
    assert significance.holm([]).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, -0.1, 1.5, math.inf])
def test_holm_refuses_what_is_no_probability(bad):
    with pytest.raises(ValueError, match=r"number 1 is .*within 0 … 1"):
        significance.holm([0.5, bad])


# ---- the table of pairs ----


def test_the_table_holds_mcnemar_of_every_pair_and_holm_over_all():
    y_true, (a, b, c) = answers(500, [0.9, 0.85, 0.6])
    table = significance.pairwise_differences(y_true, {"a": a, "b": b, "c": c})
    assert list(zip(table["a"], table["b"], strict=True)) == [
        ("a", "b"),
        ("a", "c"),
        ("b", "c"),
    ]
    expected = []
    for first, second in ((a, b), (a, c), (b, c)):
        right, other = first == y_true, second == y_true
        cells = [
            [(right & other).sum(), (right & ~other).sum()],
            [(~right & other).sum(), (~right & ~other).sum()],
        ]
        expected.append(reference_mcnemar(cells, exact=True).pvalue)
    assert_allclose(table["p"], expected, rtol=1e-9)
    assert_allclose(table["p_holm"], multipletests(expected, method="holm")[1])
    accuracies = [accuracy_score(y_true, x) for x in (a, b, c)]
    assert_allclose(table["accuracy_a"], [accuracies[i] for i in (0, 0, 1)])
    assert_allclose(table["accuracy_b"], [accuracies[i] for i in (1, 2, 2)])
    points = 100 * (table["accuracy_a"] - table["accuracy_b"])
    assert_allclose(table["points"], points)
    assert_allclose(5 * table["points"], table["only_a"] - table["only_b"])


def test_no_answer_is_wrong_in_the_table():
    table = significance.pairwise_differences([0, 1], {"x": [0, 1], "y": [-1, -1]})
    assert table["points"].tolist() == [100.0]
    assert table["accuracy_b"].tolist() == [0.0]


def test_the_table_names_the_pair_that_does_not_fit():
    with pytest.raises(ValueError, match="at least two"):
        significance.pairwise_differences([0], {"x": [0]})
    with pytest.raises(ValueError, match=r"b is 'short'\. The lengths differ"):
        significance.pairwise_differences([0, 1], {"x": [0, 1], "short": [0]})


# ---- bootstrap interval of the macro-F1 ----


def test_the_bootstrap_agrees_with_that_of_scipy():
    y_true, (y_pred,) = answers(400, [0.8])
    ours = significance.macro_f1_interval(evaluation.evaluate(y_true, y_pred, NAMES))

    def macro_f1(true, pred):
        return f1_score(true, pred, labels=range(4), average="macro", zero_division=0)

    theirs = bootstrap(
        (y_true, y_pred),
        macro_f1,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=1500,
        rng=1,
    )
    # Both are drawn: some thousandths of chance, where the width is 0.08.
    assert_allclose(ours, tuple(theirs.confidence_interval), atol=0.008)


def test_the_bootstrap_is_seeded_and_widens_with_the_level():
    y_true, (y_pred,) = answers(300, [0.7])
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    low, high = significance.macro_f1_interval(result, seed=3)
    assert (low, high) == significance.macro_f1_interval(result, seed=3, level=0.95)
    assert (low, high) != significance.macro_f1_interval(result, seed=4)
    wide = significance.macro_f1_interval(result, seed=3, level=0.99)
    assert wide.low < low < result.macro_f1 < high < wide.high


def test_the_bootstrap_counts_no_answer_as_wrong_and_leaves_out_empty_classes():
    all_right = evaluation.evaluate([0, 0, 1, 1], [0, 0, 1, 1], NAMES)
    assert significance.macro_f1_interval(all_right) == (1.0, 1.0)
    silent = evaluation.evaluate([0, 1, 2, 3], [-1] * 4, NAMES)
    assert significance.macro_f1_interval(silent) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"level": 95}, "between 0 and 1"), ({"resamples": 0}, "at least one")],
)
def test_the_bootstrap_refuses(options, message):
    result = evaluation.evaluate([0, 1], [0, 1], NAMES)
    with pytest.raises(ValueError, match=message):
        significance.macro_f1_interval(result, **options)


# ---- how many rows ----


@settings(deadline=None)
@given(shares, shares, st.floats(0.55, 0.99), st.sampled_from([0.001, 0.05, 0.2]))
def test_rows_of_two_samples_are_those_of_statsmodels(p1, p2, power, level):
    if abs(p1 - p2) < 1e-3:
        return
    expected = samplesize_proportions_2indep_onetail(
        p1 - p2, p2, power, ratio=1, alpha=level
    )
    # One more than a whole number, where rounding lifts it over the next.
    assert significance.rows_needed(p1, p2, power, level) in (
        math.ceil(expected),
        math.ceil(expected * (1 - 1e-9)),
        math.ceil(expected * (1 + 1e-9)),
    )
    assert significance.rows_needed(p1, p2, power, level) == significance.rows_needed(
        p2, p1, power, level
    )


@settings(deadline=None)
@given(shares, shares, st.floats(0, 1), st.floats(0.55, 0.99))
def test_paired_rows_are_those_of_the_normal_approximation(p1, p2, where, power):
    difference = abs(p1 - p2)
    if difference < 1e-3:
        return
    discordant = difference + where * (min(p1 + p2, 2 - p1 - p2) - difference)
    expected = normal_sample_size_one_tail(
        difference,
        power,
        0.025,
        std_null=math.sqrt(discordant),
        std_alternative=math.sqrt(discordant - difference**2),
    )
    found = significance.rows_needed(p1, p2, power, discordant=discordant)
    assert found == pytest.approx(expected, abs=1 + 1e-9 * expected)
    assert found >= expected * (1 - 1e-9)


@pytest.mark.parametrize(
    ("more", "exact", "expected"),
    [(1.0, False, 0.8), (1.0, True, 0.78), (1.05, True, 0.8)],
)
def test_the_rows_give_the_power_they_promise(more, exact, expected):
    n = round(more * significance.rows_needed(0.85, 0.875, 0.8, 0.05, discordant=0.1))
    # Without the approximation of the sample size: every number of discordant rows
    # and every split of them, with its probability.
    power = 0.0
    for rows in range(1, n + 1):
        often = binom.pmf(rows, n, 0.1)
        if often > 1e-9:
            only_a = np.arange(rows + 1)
            if exact:
                fewer = np.minimum(only_a, rows - only_a)
                found = 2 * binom.cdf(fewer, rows, 0.5) < 0.05
            else:
                z = np.abs(2 * only_a - rows) / math.sqrt(rows)
                found = z > norm.ppf(0.975)
            power += often * binom.pmf(only_a, rows, 0.0625 / 0.1)[found].sum()
    assert power == pytest.approx(expected, abs=0.006)


def test_sharing_the_rows_takes_fewer():
    apart = significance.rows_needed(0.9, 0.92)
    # Two methods that err independently of each other.
    by_chance = 0.9 * 0.08 + 0.1 * 0.92
    together = significance.rows_needed(0.9, 0.92, discordant=by_chance)
    assert together == pytest.approx(apart, rel=0.02)
    assert significance.rows_needed(0.9, 0.92, discordant=0.05) < apart / 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"p1": 0.9, "p2": 0.9}, "two different"),
        ({"p1": 85, "p2": 0.9}, "as shares"),
        ({"p1": math.nan, "p2": 0.9}, "as shares"),
        ({"p1": 0.8, "p2": 0.9, "level": 0.95}, "significance level"),
        ({"p1": 0.8, "p2": 0.9, "level": 0}, "significance level"),
        ({"p1": 0.8, "p2": 0.9, "power": 1.0}, "power=1.0"),
        ({"p1": 0.8, "p2": 0.9, "power": 0.01}, "power=0.01"),
        ({"p1": 0.8, "p2": 0.9, "discordant": 0.05}, "0.1 to 0.3"),
        ({"p1": 0.8, "p2": 0.9, "discordant": 0.4}, "0.1 to 0.3"),
    ],
)
def test_rows_needed_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        significance.rows_needed(**arguments)


def test_the_new_names_can_be_had_from_metrics():
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None
    assert_array_equal(sorted(evaluation.__all__), sorted(set(evaluation.__all__)))
