"""Tables: runs summed up honestly, the decision table, published figures."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies as st
from record_double import Y_PRED, Y_TRUE, make

from chapterlib.metrics import evaluation
from chapterlib.reporting import records, tables


def test_seeds_are_summed_up_honestly():
    runs = [make([0] * 8, seed=0), make(Y_PRED, seed=1), make(Y_TRUE, seed=2)]
    row = tables.table(runs).iloc[0]
    assert row["seeds"] == 3
    assert row["accuracy"] == pytest.approx((0.25 + 0.75 + 1) / 3)
    assert (row["accuracy_min"], row["accuracy_max"]) == (0.25, 1.0)
    bounds = np.array([evaluation.wilson(correct, 8) for correct in (2, 6, 8)])
    assert (row["low"], row["high"]) == pytest.approx(tuple(bounds.mean(axis=0)))


def test_a_time_is_that_of_the_run_least_disturbed():
    spent = [(5.0, 2.0), (3.0, 8.0), (4.0, 4.0)]
    runs = [
        make(seed=seed, fit_seconds=fit, predict_seconds=predict)
        for seed, (fit, predict) in enumerate(spent)
    ]
    row = tables.table(runs).iloc[0]
    assert (row["fit_seconds"], row["predict_seconds"]) == (3.0, 2.0)


def test_budgets_models_and_test_rows_stay_apart():
    runs = [
        make(),
        make(data={"labels_used": 8, "n_train": 8}),
        make(model="other"),
        make(data={"test_fingerprint": "0" * 16}),
        make([0] * 8, method="majority", title="Majority", model=None, size_bytes=None),
    ]
    table = tables.table(runs)
    assert len(table) == 5
    assert table["accuracy"].is_monotonic_decreasing
    assert table["method"].iloc[-1] == "majority"
    assert table["size_bytes"].isna().sum() == 1


def test_the_sample_never_shares_a_table_with_ag_news(tmp_path):
    sample = {"name": "chapterlib sample", "origin": "sample"}
    runs = [make(), make(data=sample)]
    for run in runs:
        records.write(run, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(records.RecordError, match=r"data='AG News'"):
        tables.table(runs)
    assert len(tables.table(runs, data="AG News")) == 1
    assert records.read(tmp_path, data="chapterlib sample") == [runs[1]]


def test_a_table_refuses_mixed_levels_and_repeated_runs():
    with pytest.raises(records.RecordError, match="confidence levels"):
        tables.table([make(), make(level=0.9, seed=1)])
    with pytest.raises(records.RecordError, match="more than once"):
        tables.table([make(), make()])


def test_no_records_make_an_empty_table():
    table = tables.table([])
    assert len(table) == 0
    assert "accuracy" in table
    assert len(tables.shown(table)) == 0


def test_the_shown_table_reads_well():
    runs = [make(seed=s, size_bytes=134_515_008) for s in (0, 1)]
    runs.append(make([0] * 8, method="majority", title="Majority", size_bytes=None))
    shown = tables.shown(tables.table(runs))
    assert shown["Accuracy"].tolist() == ["0.750", "0.250"]
    assert shown["Size"].tolist() == ["135\N{NO-BREAK SPACE}MB", "–"]
    assert shown["Trainable"].tolist() == ["2.31\N{NO-BREAK SPACE}k"] * 2
    assert shown["Range over seeds"].tolist() == ["0.750–0.750", "–"]


# ---- which method when ----


def row(method: str, labels: int, accuracy: float, fit: float = 90, predict: float = 4):
    return {
        "method": method,
        "labels": labels,
        "accuracy": accuracy,
        "fit_seconds": fit,
        "predict_seconds": predict,
        "test_rows": 2_000,
    }


def test_only_measured_methods_are_advised():
    table = pd.DataFrame(
        [row("zero-shot", 0, 0.7), row("probe", 32, 0.8), row("probe", 512, 0.9)]
    )
    found = tables.decision_table(table).set_index("method")
    assert list(found.index) == [
        "Prompt to a hosted large model",
        "Label scores",
        "Probe on hidden states",
    ]
    probe = found.loc["Probe on hidden states"]
    assert probe["performance"] == "80.0% with 32 labels, 90.0% with 512"
    assert probe["computation"] == "90 s to train, 2.0 s a thousand answers"
    assert found.loc["Label scores", "performance"] == "70.0%"
    assert "not measured" in found["performance"].iloc[0]


def test_records_of_finetuning_and_of_hosted_models_are_taken_in():
    table = pd.DataFrame(
        [
            row("lora", 512, 0.91, fit=7_300),
            row("hosted-llama", 0, 0.85),
            row("zero-shot", 0, 0.7),
            row("zero-shot-words", 0, 0.8),
        ]
    )
    found = tables.decision_table(table).set_index("method")
    assert found.loc["LoRA", "performance"] == "91.0% with 512 labels"
    assert found.loc["LoRA", "computation"].startswith("2.0 h to train")
    assert found["performance"].iloc[0] == "85.0%"
    assert found.loc["Label scores", "performance"] == "80.0%"
    # One measured table leaves nothing behind for the next.
    again = tables.decision_table(table[table["method"] == "lora"])
    assert "not measured" in again["performance"].iloc[0]


def test_the_records_fill_the_table():
    found = tables.decision_table(tables.table(data="AG News"))
    assert len(found) >= 5
    assert not found.isna().to_numpy().any()
    with pytest.raises(ValueError, match="no column"):
        tables.decision_table(pd.DataFrame({"method": ["probe"]}))


@given(st.floats(0.01, 1e6))
def test_a_duration_keeps_its_size(seconds):
    number, unit = tables.duration(seconds).split()
    back = float(number) * {"s": 1, "min": 60, "h": 3600}[unit]
    assert back == pytest.approx(seconds, rel=0.26, abs=0.005)
    assert float(number) < 120 or unit == "h"


def test_a_duration_below_zero_is_refused():
    assert tables.duration(0) == "under 0.01 s"
    with pytest.raises(ValueError, match="at least 0"):
        tables.duration(-1)
    with pytest.raises(ValueError, match="at least 0"):
        tables.duration(float("nan"))


def test_published_figures_are_shares_with_a_source():
    found = tables.published()
    assert found["accuracy"].between(0.2, 0.97).all()
    assert found["url"].str.startswith("https://").all()
    assert not found.duplicated(["source", "method", "labels"]).any()
    # The caution that the chapter teaches: the same model, two tables.
    same = found[(found["method"] == "RoBERTa-large") & (found["labels"] == 64)]
    assert sorted(same["accuracy"]) == [0.2187, 0.8529]
