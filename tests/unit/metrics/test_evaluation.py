"""The figures of `chapterlib.metrics` against reference implementations."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)
from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar
from statsmodels.stats.proportion import proportion_confint

from chapterlib.metrics import evaluation, significance

NAMES = ("World", "Sports", "Business", "Sci/Tech")

labels = st.integers(0, 3)
rows = st.lists(st.tuples(labels, st.integers(-1, 3)), min_size=1, max_size=60)


# ---- Wilson ----


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize(
    ("successes", "n"), [(0, 1), (1, 1), (0, 40), (40, 40), (1, 3), (3300, 3800)]
)
def test_wilson_is_that_of_statsmodels(successes, n, level):
    expected = proportion_confint(successes, n, alpha=1 - level, method="wilson")
    assert_allclose(evaluation.wilson(successes, n, level), expected, atol=1e-12)


def test_wilson_is_exact_at_the_edges():
    assert evaluation.wilson(0, 7).low == 0.0
    assert evaluation.wilson(7, 7).high == 1.0


@given(
    st.integers(1, 10**9).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
)
def test_wilson_holds_the_share_and_is_symmetric(case):
    successes, n = case
    low, high = evaluation.wilson(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = evaluation.wilson(n - successes, n)
    assert_allclose((low, high), (1 - mirrored.high, 1 - mirrored.low), atol=1e-9)


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
    assert result.per_class.loc["World", "recall"] == 0.5
    assert result.per_class.loc["World", "precision"] == 1.0
    assert list(result.per_class["no_answer"]) == [1, 0, 0, 1]
    assert_allclose(result.macro_f1, np.mean([2 / 3, 0.8, 0, 0]))


@given(rows)
def test_evaluate_is_what_sklearn_says(pairs):
    y_true, y_pred = (list(column) for column in zip(*pairs, strict=True))
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    assert_allclose(result.accuracy, accuracy_score(y_true, y_pred))
    matrix = confusion_matrix(y_true, y_pred, labels=[0, 1, 2, 3, -1])
    assert_array_equal(result.confusion, matrix[:4])
    occurring = sorted((set(y_true) | set(y_pred)) - {-1})
    expected = f1_score(
        y_true, y_pred, labels=occurring, average="macro", zero_division=0
    )
    assert_allclose(result.macro_f1, expected)
    table = precision_recall_fscore_support(
        y_true, y_pred, labels=range(4), zero_division=math.nan
    )
    for name, column in zip(("precision", "recall"), table, strict=False):
        assert_allclose(result.per_class[name], column)


@given(rows, st.randoms(use_true_random=False))
def test_evaluate_does_not_depend_on_row_order(pairs, random):
    shuffled = random.sample(pairs, len(pairs))
    found = []
    for some in (pairs, shuffled):
        y_true, y_pred = zip(*some, strict=True)
        found.append(evaluation.evaluate(y_true, y_pred, NAMES).as_dict())
    assert found[0] == found[1]


@given(rows)
def test_withholding_answers_never_helps(pairs):
    y_true, y_pred = (np.array(column) for column in zip(*pairs, strict=True))
    result = evaluation.evaluate(y_true, y_pred, NAMES)
    withheld = evaluation.evaluate(y_true, np.full_like(y_pred, -1), NAMES)
    assert withheld.accuracy == 0.0 <= result.accuracy
    assert math.isnan(withheld.accuracy_answered)
    assert withheld.as_dict()["accuracy_answered"] is None
    if result.answered:
        assert result.accuracy <= result.accuracy_answered


def test_the_default_classes_are_those_of_ag_news():
    result = evaluation.evaluate([0, 1], [0, 1])
    assert tuple(result.per_class.index) == NAMES
    assert (result.accuracy, result.macro_f1) == (1.0, 1.0)


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
        ([0, 1], ["World", "Sports"], "Row 0 of y_pred holds 'World'.*label names"),
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


def test_an_evaluation_can_be_read_and_stored():
    result = evaluation.evaluate([0, 1, 1, 2], [0, 1, -1, 0], ["a", "<b>", "c"])
    assert "3 of 4 (accuracy over these: 0.667)" in str(result)
    assert "95% interval" in str(result)
    page = result._repr_html_()
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert "no answer" in page
    stored = json.loads(json.dumps(result.as_dict(), allow_nan=False))
    assert stored["per_class"]["c"]["precision"] is None
    assert stored["confusion"] == result.confusion.tolist()
    assert (stored["low"], stored["high"]) == result.interval


def test_the_no_answer_column_shows_only_where_needed():
    result = evaluation.evaluate([0, 1], [0, 1], ["a", "b"])
    assert "no answer" not in result._repr_html_() + str(result)
    with pytest.raises(ValueError, match="read-only"):
        result.confusion[0, 0] = 5


# ---- McNemar ----


@given(st.lists(st.tuples(labels, labels, st.integers(-1, 3)), min_size=1))
def test_mcnemar_is_that_of_statsmodels(triples):
    y_true, a, b = (list(column) for column in zip(*triples, strict=True))
    test = significance.mcnemar(y_true, a, b)
    table = [[test.both, test.only_a], [test.only_b, test.neither]]
    assert np.sum(table) == len(y_true)
    assert_allclose(test.p, reference_mcnemar(table, exact=True).pvalue, rtol=1e-9)
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

    both = evaluate.combine([accuracy, evaluate.load(str(evaluation.accuracy_path()))])
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
