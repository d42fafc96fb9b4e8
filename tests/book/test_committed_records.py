"""The records in the repository are of the methods as they stand in the code."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features

from chapterlib import settings
from chapterlib.reporting import records, runs
from chapterlib.reporting.methods import METHODS
from chapterlib.tasks.task import AG_NEWS

COMMITTED = records.read(data="AG News")
BY_SLUG = {method.slug: method for method in METHODS}
TEST_ROWS = 3_800


@cache
def planned() -> set[tuple[str, int | None, int]]:
    """Name the runs that `make results` would measure on the book's rows."""
    path = settings.results_folder() / "rows" / "ag-news.json"
    splits = json.loads(path.read_text(encoding="utf-8"))
    features = Features({"label": ClassLabel(names=list(AG_NEWS.label_names))})
    labels = {
        split: Dataset.from_dict({"label": [int(i) for i in part["labels"]]}, features)
        for split, part in splits.items()
    }
    return {run.name for run in runs.plan(DatasetDict(labels), list(BY_SLUG))}


def run_of(record: records.RunRecord) -> runs.Run:
    """Find the run that makes such a record."""
    per_class = record.data.per_class if record.data.n_train else 0
    return runs.Run(BY_SLUG[record.method], per_class, record.seed)


def test_every_run_of_the_plan_has_a_record() -> None:
    assert {run_of(record).name for record in COMMITTED} == planned()


def test_the_records_are_of_the_methods_as_they_stand() -> None:
    """List all that differ, each parameter with what is stored and what is now."""
    differ = {}
    for record in COMMITTED:
        run = run_of(record)
        stored = {**runs.recorded_params(record), "title": record.title}
        now = runs.plain_params(run.estimator().get_params())
        now["title"] = run.method.title
        if wrong := {
            name: (stored.get(name, "no such"), now.get(name, "no such"))
            for name in stored.keys() | now.keys()
            if name not in stored or name not in now or stored[name] != now[name]
        }:
            differ[record.file_name] = wrong
    assert differ == {}


def test_records_of_a_chat_model_account_for_every_article() -> None:
    asked = [record for record in COMMITTED if runs.FOUND in record.params]
    assert {record.method for record in asked} >= {"prompt", "prompt-schema"}
    for record in asked:
        found: Any = record.params[runs.FOUND]
        articles = found["articles"]
        assert sum(articles.values()) == record.data.n_test
        assert articles.get("parsed", 0) == record.metrics.answered


def test_all_records_are_on_the_book_s_rows() -> None:
    full = [r for r in COMMITTED if r.data.n_test == TEST_ROWS]
    assert len({record.data.test_fingerprint for record in full}) == 1
    for record in COMMITTED:
        per_class = BY_SLUG[record.method].test_per_class
        expected = per_class * len(AG_NEWS.labels) if per_class else TEST_ROWS
        assert record.data.n_test == expected


def test_anyone_can_compute_every_record_s_figures_anew() -> None:
    for record in COMMITTED:
        assert record.recompute().accuracy == record.metrics.accuracy
