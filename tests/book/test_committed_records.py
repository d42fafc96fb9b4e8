"""The records in the repository are of the methods as they stand in the code."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest
from datasets import Dataset, DatasetDict

from chapterlib import settings
from chapterlib.reporting import records, runs
from chapterlib.reporting.methods import METHODS
from chapterlib.tasks import task

COMMITTED = records.read(data="AG News")
BY_SLUG = {method.slug: method for method in METHODS}


@cache
def planned() -> set[tuple[str, int | None, int]]:
    """Name the runs that `make results` would measure on the book's rows."""
    path = settings.results_folder() / "rows" / "ag-news.json"
    splits = json.loads(path.read_text(encoding="utf-8"))
    labels = {
        split: Dataset.from_dict({"label": [int(i) for i in part["labels"]]})
        for split, part in splits.items()
    }
    return {run.name for run in runs.plan(DatasetDict(labels), list(BY_SLUG))}


def run_of(record: records.RunRecord) -> runs.Run:
    """Find the run that makes such a record."""
    per_class = record.data.per_class if record.data.n_train else 0
    return runs.Run(BY_SLUG[record.method], per_class, record.seed)


def test_every_run_of_the_plan_has_a_record() -> None:
    assert {run_of(record).name for record in COMMITTED} == planned()


@pytest.mark.parametrize("record", COMMITTED, ids=lambda record: record.file_name)
def test_a_record_is_of_the_method_as_it_stands(record: records.RunRecord) -> None:
    run = run_of(record)
    assert record.title == run.method.title
    now = runs.plain_params(run.estimator().get_params())
    assert {k: v for k, v in record.params.items() if k != runs.FOUND} == now


def test_records_of_a_chat_model_account_for_every_article() -> None:
    asked = [record for record in COMMITTED if BY_SLUG[record.method].asks]
    assert asked
    for record in asked:
        found: Any = record.params[runs.FOUND]
        articles = found["articles"]
        assert sum(articles.values()) == record.data.n_test
        assert articles.get("parsed", 0) == record.metrics.answered


def test_all_records_are_on_the_book_s_rows() -> None:
    full = {r.data.test_fingerprint for r in COMMITTED if r.data.n_test == 3_800}
    assert len(full) == 1
    for record in COMMITTED:
        per_class = BY_SLUG[record.method].test_per_class
        expected = per_class * len(task.LABEL_NAMES) if per_class else 3_800
        assert record.data.n_test == expected
