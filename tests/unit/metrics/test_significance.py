"""Differences and sample sizes by their definition; errors that methods share."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose
from scipy.stats import binom, norm
from sklearn.metrics import accuracy_score

from chapterlib.metrics import significance
from chapterlib.reporting import records

labels = st.integers(0, 3)
ids = st.lists(st.integers(-1, 3), min_size=30, max_size=30)
shares = st.floats(0.01, 0.99)


def answers(n: int, accuracies: list[float], seed: int = 0):
    """Draw true classes, and predictions that are right about as often as asked."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(0, 4, n)
    wrong = (y_true + rng.integers(1, 4, n)) % 4
    wrong[rng.random(n) < 0.1] = -1
    found = [np.where(rng.random(n) < p, y_true, wrong) for p in accuracies]
    return y_true, found


# ---- McNemar ----


def two_sided(only_a: int, only_b: int) -> float:
    """Add up both tails of the binomial distribution with p = 1/2."""
    return min(1.0, 2 * binom.cdf(min(only_a, only_b), only_a + only_b, 0.5))


@settings(deadline=None)
@given(st.lists(st.tuples(labels, labels, st.integers(-1, 3)), min_size=1))
def test_mcnemar_adds_up_both_tails(triples):
    y_true, a, b = (np.array(column) for column in zip(*triples, strict=True))
    test = significance.mcnemar(y_true, a, b)
    right, other = a == y_true, b == y_true
    assert test.only_a == (right & ~other).sum()
    assert test.only_b == (~right & other).sum()
    assert test.both == (right & other).sum()
    assert test.n == len(y_true)
    assert_allclose(test.p, two_sided(test.only_a, test.only_b), rtol=1e-9)
    assert_allclose(
        test.difference, accuracy_score(y_true, a) - accuracy_score(y_true, b)
    )
    swapped = significance.mcnemar(y_true, b, a)
    assert_allclose(swapped.p, test.p)
    assert swapped.only_a == test.only_b


def test_mcnemar_finds_no_difference_between_the_same_answers():
    assert significance.mcnemar([0, 1, 2], [0, -1, 1], [0, -1, 1]).p == 1.0


def test_mcnemar_says_what_it_found():
    y_true = [0] * 100
    test = significance.mcnemar(y_true, [0] * 100, [0] * 80 + [-1] * 20)
    assert "a − b = +0.200" in str(test)
    assert "p = 1.9e-06" in str(test)
    assert "p = 1.000" in str(significance.mcnemar(y_true, y_true, y_true))


def test_mcnemar_refuses_other_rows():
    with pytest.raises(ValueError, match="b has 1"):
        significance.mcnemar([0, 1], [0, 1], [0])
    with pytest.raises(
        ValueError, match="Row 1 of y_true holds -1; allowed is a class"
    ):
        significance.mcnemar([0, -1], [0, 1], [0, 1])


# ---- Holm ----


def step_down(values: np.ndarray) -> list[float]:
    """Holm's rule read off its definition, one p-value at a time."""
    flat = values.ravel()
    return [min(1.0, max(q * (flat >= q).sum() for q in flat if q <= p)) for p in flat]


@settings(deadline=None)
@given(arrays(float, array_shapes(max_dims=3, max_side=3), elements=st.floats(0, 1)))
def test_holm_is_its_definition_in_any_shape(values):
    adjusted = significance.holm(values)
    assert adjusted.shape == values.shape
    assert_allclose(adjusted.ravel(), step_down(values), rtol=1e-12)
    assert (adjusted >= values).all()
    assert significance.holm([0.01, 0.04, 0.03]).tolist() == [0.03, 0.06, 0.06]


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
        expected.append(two_sided((right & ~other).sum(), (~right & other).sum()))
    assert_allclose(table["p"], expected, rtol=1e-9)
    assert_allclose(table["p_holm"], step_down(np.array(expected)))
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


# ---- how many rows ----


def power_of(n: int, difference: float, level: float, null: float, other: float):
    """Probability to find a difference, by the normal approximation.

    `null` and `other` are the standard deviations of one row's difference if there is
    none, and if there is.
    """
    bound = norm.ppf(1 - level / 2) * null
    return norm.cdf((difference * math.sqrt(n) - bound) / other)


@settings(deadline=None)
@given(shares, shares, st.floats(0.55, 0.99), st.sampled_from([0.001, 0.05, 0.2]))
def test_rows_of_two_samples_are_the_first_to_have_the_power(p1, p2, power, level):
    if abs(p1 - p2) < 1e-3:
        return
    n = significance.rows_needed(p1, p2, power, level)
    assert n == significance.rows_needed(p2, p1, power, level)
    mean = (p1 + p2) / 2
    spread = math.sqrt(2 * mean * (1 - mean)), math.sqrt(p1 * (1 - p1) + p2 * (1 - p2))
    assert power_of(n, abs(p1 - p2), level, *spread) >= power - 1e-9
    if n > 1:
        assert power_of(n - 1, abs(p1 - p2), level, *spread) < power + 1e-9


@settings(deadline=None)
@given(shares, shares, st.floats(0, 0.999), st.floats(0.55, 0.99))
def test_paired_rows_are_the_first_to_have_the_power(p1, p2, where, power):
    difference = abs(p1 - p2)
    if difference < 1e-3:
        return
    discordant = difference + where * (min(p1 + p2, 2 - p1 - p2) - difference)
    spread = math.sqrt(discordant), math.sqrt(discordant - difference**2)
    n = significance.rows_needed(p1, p2, power, discordant=discordant)
    assert power_of(n, difference, 0.05, *spread) >= power - 1e-9
    if n > 1:
        assert power_of(n - 1, difference, 0.05, *spread) < power + 1e-9


def test_the_rows_are_those_that_other_programs_give():
    # statsmodels 0.15: samplesize_proportions_2indep_onetail(-0.025, 0.875, 0.8,
    # ratio=1, alpha=0.05) and normal_sample_size_one_tail(0.025, 0.8, 0.025,
    # std_null=0.1**0.5, std_alternative=(0.1 - 0.025**2)**0.5).
    assert significance.rows_needed(0.85, 0.875) == math.ceil(2977.47065)
    assert significance.rows_needed(0.85, 0.875, discordant=0.1) == math.ceil(
        1253.46030
    )


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


# ---- errors that methods share ----


@settings(deadline=None)
@given(st.lists(st.integers(0, 3), min_size=30, max_size=30), st.lists(ids, min_size=2))
def test_an_error_is_shared_where_all_give_the_same_wrong_answer(true, answers):
    found = significance.shared_errors(true, {str(i): a for i, a in enumerate(answers)})
    expected = [
        (row, label, given[0])
        for row, (label, given) in enumerate(
            zip(true, zip(*answers, strict=True), strict=True)
        )
        if len(set(given)) == 1 and given[0] not in (label, -1)
    ]
    assert list(found.itertuples(index=False, name=None)) == expected


def test_what_can_not_be_compared_is_refused():
    with pytest.raises(ValueError, match="at least two"):
        significance.shared_errors([0, 1], {"x": [0, 1]})
    with pytest.raises(ValueError, match="lengths differ"):
        significance.shared_errors([0, 1], {"x": [0, 1], "y": [0]})


def test_the_verdicts_are_on_rows_that_good_methods_share():
    runs = [r for r in records.read(data="AG News") if r.metrics.accuracy > 0.85]
    best = {r.method: r for r in sorted(runs, key=lambda r: r.metrics.accuracy)}
    fingerprint = best["probe"].data.test_fingerprint
    judged = significance.verdicts(fingerprint)
    assert len(judged) == 80
    assert judged.index.is_unique
    assert set(judged) == {"label", "unclear", "methods"}
    # Neither text nor label of a row is needed to see that the methods agree on it.
    answers = [
        records.decode_predictions(best[slug].predictions)[judged.index]
        for slug in ("probe", "tfidf", "neighbors", "few-shot-vote")
    ]
    agree = np.all([a == answers[0] for a in answers], axis=0)
    assert agree.mean() > 0.7


def test_other_rows_have_no_verdicts():
    assert significance.verdicts("0" * 16).empty
