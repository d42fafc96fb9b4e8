"""The decision table, published figures, and what stands where no figure can be."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given, strategies as st

from chapterlib.plots.style import placeholder
from chapterlib.reporting import tables
from chapterlib.reporting.tables import published


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
    found = published()
    assert found["accuracy"].between(0.2, 0.97).all()
    assert found["url"].str.startswith("https://").all()
    assert not found.duplicated(["source", "method", "labels"]).any()
    # The caution that the chapter teaches: the same model, two tables.
    same = found[(found["method"] == "RoBERTa-large") & (found["labels"] == 64)]
    assert sorted(same["accuracy"]) == [0.2187, 0.8529]


def test_a_blank_figure_says_why():
    ax = placeholder("The rows are others. " * 10, title="Left out")
    assert ax.get_title() == "Left out"
    assert "The rows are others." in ax.texts[0].get_text()
    with pytest.raises(ValueError, match="reason is empty"):
        placeholder(" ")
    plt.close("all")
