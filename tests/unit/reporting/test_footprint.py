"""What has to lie in memory to answer, counted from records."""

from __future__ import annotations

import pytest

from chapterlib.models import sizes
from chapterlib.reporting import records
from chapterlib.reporting.costs import answering_bytes
from chapterlib.reporting.records import RunRecord

LLAMA = "meta-llama/Meta-Llama-3-8B-Instruct"


@pytest.fixture(scope="module")
def runs() -> dict[str, RunRecord]:
    return {run.method: run for run in records.read() if run.data.n_train in (0, 1000)}


def like(run: RunRecord, **changes: object) -> RunRecord:
    return run.model_copy(update=changes)


def test_a_method_without_a_model_is_its_own_size(runs: dict[str, RunRecord]) -> None:
    assert answering_bytes(runs["tfidf"]) == runs["tfidf"].size_bytes


def test_the_model_counts_as_it_is_loaded(runs: dict[str, RunRecord]) -> None:
    plain = sizes.memory("SmolLM2-135M").weights
    assert answering_bytes(runs["probe"]) == plain + runs["probe"].size_bytes
    assert answering_bytes(runs["lora"]) == pytest.approx(
        plain + runs["lora"].size_bytes, rel=1e-4
    )
    assert answering_bytes(runs["qlora"]) < 0.5 * answering_bytes(runs["lora"])


def test_a_classifier_of_llama_has_no_output_layer(runs: dict[str, RunRecord]) -> None:
    llama = like(runs["lora"], model=LLAMA, size_bytes=0)
    assert answering_bytes(llama) == sizes.memory("Llama-3-8B", labels=4).weights
    scored = like(runs["zero-shot"], model=LLAMA, size_bytes=0)
    assert answering_bytes(scored) == sizes.memory("Llama-3-8B").weights
    assert answering_bytes(llama) < answering_bytes(scored)


def test_a_model_that_was_trained_whole_counts_once(
    runs: dict[str, RunRecord],
) -> None:
    whole = like(runs["lora"], params={"method": "full"}, size_bytes=4 * 134_515_584)
    assert answering_bytes(whole) == 4 * 134_515_584


def test_what_is_not_known_is_not_guessed(runs: dict[str, RunRecord]) -> None:
    assert answering_bytes(like(runs["probe"], size_bytes=None)) is None
    assert answering_bytes(like(runs["probe"], model="someone/else-2B")) is None
