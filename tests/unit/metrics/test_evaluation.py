"""Intervals by their definition, evaluations by scikit-learn; what is refused."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import norm

from chapterlib.metrics import evaluation

NAMES = ("red", "green", "blue", "dark/light")

labels = st.integers(0, 3)
rows = st.lists(st.tuples(labels, st.integers(-1, 3)), min_size=1, max_size=60)


# ---- Wilson ----


# R. G. Newcombe (1998), "Two-sided confidence intervals for the single proportion",
# Statistics in Medicine 17, 857–872, table I, method 3.
@pytest.mark.parametrize(
    ("case", "published"),
    [
        ((81, 263), (0.2553, 0.3662)),
        ((15, 148), (0.0624, 0.1605)),
        ((0, 20), (0.0, 0.1611)),
        ((1, 29), (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_numbers(case, published):
    assert_allclose(evaluation.wilson(*case), published, atol=5.1e-5)


@settings(deadline=None)
@given(
    st.integers(1, 10**5).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))),
    st.sampled_from([0.5, 0.9, 0.95, 0.999]),
)
def test_the_share_is_z_standard_errors_of_each_bound_away(case, level):
    successes, n = case
    bounds = np.array(evaluation.wilson(successes, n, level))
    error = np.sqrt(bounds * (1 - bounds) / n)
    off = norm.ppf((1 + level) / 2) * error - np.abs(successes / n - bounds)
    # At 0 of n and n of n one bound has no error: it is the share itself.
    assert_allclose(off, 0, atol=1e-12)


def test_wilson_is_exact_at_the_edges():
    assert evaluation.wilson(0, 7).low == 0.0
    assert evaluation.wilson(7, 7).high == 1.0


@settings(deadline=None)
@given(
    st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
)
def test_wilson_holds_the_share_and_is_symmetric(case):
    successes, n = case
    low, high = evaluation.wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = evaluation.wilson(n - successes, n)
    assert_allclose((low, high), (1 - mirrored.high, 1 - mirrored.low), atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(50, 100))
def test_wilson_widens_with_the_level(successes, n):
    narrow, wide = (evaluation.wilson(successes, n, level) for level in (0.8, 0.99))
    assert wide.low <= narrow.low <= narrow.high <= wide.high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 0), "at least one row"),
        ((5, 4), "from 0 to n"),
        ((-1, 4), "from 0 to n"),
        ((0.87, 100), "not their share"),
        ((math.nan, 4), "from 0 to n"),
        ((3, 4, 95), "between 0 and 1"),
        ((3, 4, 1.0), "between 0 and 1"),
    ],
)
def test_wilson_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluation.wilson(*arguments)


# ---- evaluate ----


def test_a_row_without_an_answer_is_wrong_in_every_figure():
    y_true, y_pred = [0, 0, 1, 1, 2, 3], [0, -1, 1, 1, 1, -1]
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    assert (result.n, result.answered) == (6, 4)
    assert result.accuracy == 0.5
    assert result.accuracy_answered == 0.75
    assert_array_equal(
        result.confusion,
        [[1, 0, 0, 0, 1], [0, 2, 0, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 1]],
    )
    assert result.per_class.loc["red", "recall"] == 0.5
    assert result.per_class.loc["red", "precision"] == 1.0
    assert list(result.per_class["no_answer"]) == [1, 0, 0, 1]
    assert_allclose(result.macro_f1, np.mean([2 / 3, 0.8, 0, 0]))


@settings(deadline=None)
@given(rows)
def test_evaluate_is_what_counting_gives(pairs):
    y_true, y_pred = zip(*pairs, strict=True)
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    right = sum(true == pred for true, pred in pairs)
    assert result.accuracy == right / len(pairs)
    expected = np.zeros((4, 5), dtype=int)
    for true, pred in pairs:
        expected[true, pred] += 1  # -1 is the last column
    assert_array_equal(result.confusion, expected)
    scores = []
    for i, name in enumerate(NAMES):
        hits, true, pred = expected[i, i], expected[i].sum(), expected[:, i].sum()
        found = result.per_class.loc[name]
        assert (found["rows"], found["predicted"]) == (true, pred)
        assert_allclose(found["precision"], hits / pred if pred else math.nan)
        assert_allclose(found["recall"], hits / true if true else math.nan)
        if true + pred:
            scores.append(2 * hits / (true + pred))
            assert_allclose(found["f1"], scores[-1])
        else:
            assert math.isnan(found["f1"])
    assert_allclose(result.macro_f1, np.mean(scores))


@settings(deadline=None, max_examples=25)
@given(rows, st.randoms(use_true_random=False))
def test_evaluate_does_not_depend_on_row_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    found = []
    for some in (pairs, shuffled):
        y_true, y_pred = zip(*some, strict=True)
        found.append(evaluation.evaluate(y_true, y_pred, NAMES))
    first, second = found
    assert first.interval == second.interval
    assert (first.confusion == second.confusion).all()
    pd.testing.assert_frame_equal(first.per_class, second.per_class)


@settings(deadline=None, max_examples=50)
@given(rows)
def test_withholding_answers_never_helps(pairs):
    y_true, y_pred = (np.array(column) for column in zip(*pairs, strict=True))
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    withheld = evaluation.evaluate(y_true, np.full_like(y_pred, -1), NAMES)
    assert withheld.accuracy == 0.0 <= result.accuracy
    assert math.isnan(withheld.accuracy_answered)
    if result.answered:
        assert result.accuracy <= result.accuracy_answered


@pytest.mark.parametrize("y_pred", [[0, 2], [0, -1]])
def test_without_names_the_ids_are_the_names(y_pred):
    result = evaluation.evaluate([0, 2], y_pred)
    assert list(result.per_class.index) == ["0", "1", "2"]
    assert result.confusion.shape == (3, 4)
    named = evaluation.evaluate([0, 2], y_pred, ["a", "b", "c"])
    assert result.macro_f1 == named.macro_f1
    assert evaluation.evaluate([0], [0]).confusion.tolist() == [[1, 0]]
    with pytest.raises(ValueError, match="Row 1 of y_pred holds inf"):
        evaluation.evaluate([0, 1], [0, math.inf])
    beyond = evaluation.evaluate([0, 1], [0, 5]).per_class
    assert list(beyond.index) == ["0", "1", "2", "3", "4", "5"]


def test_many_classes_of_few_rows_are_no_regression(recwarn):
    y_true = np.arange(77)
    result = evaluation.evaluate(y_true, np.roll(y_true, 1), [f"c{i}" for i in y_true])
    assert (result.accuracy, result.macro_f1) == (0.0, 0.0)
    two = evaluation.evaluate([0, 1, 1], [0, 1, -1], ["1", "2"])
    assert two.confusion.tolist() == [[1, 0, 0], [0, 1, 1]]
    assert not [str(warning.message) for warning in recwarn]


@pytest.mark.parametrize(
    "convert",
    [tuple, np.array, pd.Series, lambda v: np.array(v, float), np.int8, pd.Categorical],
)
def test_evaluate_takes_any_kind_of_column(convert):
    result = evaluation.evaluate(convert([0, 1, 2]), convert([0, 2, -1]), NAMES)
    assert_allclose(result.accuracy, 1 / 3)


@pytest.mark.parametrize(
    ("y_true", "y_pred", "message"),
    [
        ([0, 1, 2], [0, 1, 4], "Row 2 of y_pred holds 4; .* 0 to 3 or -1"),
        ([0, 1, 2], [0, -2, 1], "Row 1 of y_pred holds -2"),
        ([0, -1], [0, 1], "Row 1 of y_true holds -1; allowed is .* 0 to 3\\."),
        ([0, 1], [0, math.nan], "Row 1 of y_pred holds nan"),
        ([0, 1], [0, None], "Row 1 of y_pred holds None"),
        ([0, 1], [0, 0.5], "Row 1 of y_pred holds 0.5"),
        ([0, 1], ["red", "green"], "Row 0 of y_pred holds 'red'.*label names"),
        ([0, 1], [True, False], "Row 0 of y_pred holds True"),
        ([0, 1], [0], "y_true has 2, y_pred has 1"),
        ([], [], "y_true is empty"),
        ([0, 1], [[0.9, 0.1], [0.2, 0.8]], r"shape \(2, 2\).*argmax"),
        (0, 0, r"shape \(\)"),
    ],
)
def test_evaluate_names_the_row_and_the_remedy(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        evaluation.evaluate(y_true, y_pred, NAMES)


@pytest.mark.parametrize("names", [[], ["a", "a"]])
def test_evaluate_refuses_class_names_that_are_not_distinct(names):
    with pytest.raises(ValueError, match="one distinct name"):
        evaluation.evaluate([0], [0], names)


def test_an_evaluation_can_be_read():
    result = evaluation.evaluate([0, 1, 1, 2], [0, 1, -1, 0], ["a", "<b>", "c"])
    assert "3 of 4 (accuracy over these: 0.667)" in str(result)
    assert "95% interval" in str(result)
    page = result._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "no answer" in page


def test_the_no_answer_column_shows_only_where_needed():
    result = evaluation.evaluate([0, 1], [0, 1], ["a", "b"])
    assert "no answer" not in result._repr_html_() + str(result)
    with pytest.raises(ValueError, match="read-only"):
        result.confusion[0, 0] = 5


# ---- the local evaluate module ----


@pytest.fixture(scope="module")
def accuracy(tmp_path_factory):
    # evaluate copies the module's file under this folder, not in the user's cache.
    patch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("modules")
    patch.setattr("evaluate.config.HF_MODULES_CACHE", str(folder))
    patch.setenv("HF_HUB_OFFLINE", "1")
    yield evaluation.load_accuracy()
    patch.undo()


def test_the_local_module_counts_no_answer_as_wrong(accuracy):
    assert accuracy.compute(predictions=[0, -1], references=[0, 1])["accuracy"] == 0.5
    counted = accuracy.compute(predictions=[0, 1], references=[0, 1], normalize=False)
    assert counted["accuracy"] == 2


def test_the_local_module_works_in_batches_and_combined(accuracy):
    import evaluate

    for predictions, references in [([0, 1], [0, 1]), ([2, -1], [3, 0])]:
        accuracy.add_batch(predictions=predictions, references=references)
    assert accuracy.compute() == {"accuracy": 0.5}
    accuracy.add(prediction=1, reference=1)
    assert accuracy.compute() == {"accuracy": 1.0}

    both = evaluate.combine([accuracy, evaluation.load_accuracy()])
    both.add_batch(predictions=[0, -1], references=[0, 1])
    assert both.compute() == {"accuracy_0_accuracy": 0.5, "accuracy_1_accuracy": 0.5}


@settings(max_examples=25, deadline=None)
@given(pairs=rows)
def test_the_local_module_agrees_with_evaluate(accuracy, pairs):
    y_true, y_pred = zip(*pairs, strict=True)
    result = accuracy.compute(predictions=y_pred, references=y_true)
    assert result["accuracy"] == evaluation.evaluate(y_true, y_pred, NAMES).accuracy


@pytest.mark.parametrize(
    ("predictions", "references", "message"),
    [
        ([0, -2], [0, 1], "Row 1 of predictions holds -2"),
        ([0, None], [0, 1], "Row 1 of predictions holds None"),
        ([0, -1], [0, -1], "Row 1 of references holds -1"),
    ],
)
def test_the_local_module_names_the_row(predictions, references, message):
    # Imported as it stands: evaluate runs a copy, which coverage can't see.
    module = importlib.import_module("chapterlib.data_files.accuracy.accuracy")
    with pytest.raises(ValueError, match=message):
        module.Accuracy().compute(predictions=predictions, references=references)
