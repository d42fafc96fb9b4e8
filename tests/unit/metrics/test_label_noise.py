"""Errors that methods share, and the verdicts on some of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, strategies as st

from chapterlib.metrics import significance
from chapterlib.reporting import records

ids = st.lists(st.integers(-1, 3), min_size=30, max_size=30)


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
    assert set(judged) == set(significance.VERDICTS)
    # Neither text nor label of a row is needed to see that the methods agree on it.
    answers = [
        records.decode_predictions(best[slug].predictions)[judged.index]
        for slug in ("probe", "tfidf", "neighbors", "few-shot-vote")
    ]
    agree = np.all([a == answers[0] for a in answers], axis=0)
    assert agree.mean() > 0.7


def test_other_rows_have_no_verdicts():
    assert significance.verdicts("0" * 16).empty
