"""Logits that no batch changes, and heads that start from a probe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from chapterlib.models import hidden_states
from chapterlib.training import adapters

IDS = [[5, 6, 7, 8], [9], [4, 5, 6], [30, 31, 32, 33, 34, 35]]


def load(folder: Path, labels: int = 3) -> Any:
    return adapters.load_base(
        "head",
        folder,
        [str(i) for i in range(labels)],
        device=torch.device("cpu"),
        dtype=torch.float32,
    ).model


def test_logits_are_those_of_one_row_at_a_time(tiny_llama: Path) -> None:
    network = load(tiny_llama)
    with torch.no_grad():
        alone = [network(input_ids=torch.tensor([row])).logits[0] for row in IDS]
    expected = torch.stack(alone).numpy()
    for tokens in (1, 8, 1000):
        found = adapters.logits_of(network, IDS, batch_tokens=tokens)
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert adapters.logits_of(network, []).shape == (0, 3)


@pytest.fixture
def rows() -> tuple[list[list[int]], list[int]]:
    """Rows whose class is told by their last token."""
    rng = np.random.default_rng(0)
    labels = [i % 3 for i in range(60)]
    ids = [
        [*rng.integers(40, 300, rng.integers(2, 9)).tolist(), 10 + label]
        for label in labels
    ]
    return ids, labels


def test_the_probe_is_a_head_that_knows_the_rows(
    rows: tuple[list[list[int]], list[int]], tiny_llama: Path
) -> None:
    network, (ids, labels) = load(tiny_llama), rows
    before = adapters.logits_of(network, ids).argmax(1)
    assert adapters.probe_head(network, ids, labels) in hidden_states.STRENGTHS
    after = adapters.logits_of(network, ids)
    assert after.shape == (60, 3)
    assert (before == labels).mean() < 0.7 < (after.argmax(1) == labels).mean()
    assert isinstance(network.score, torch.nn.Linear)


def test_the_probe_does_not_know_by_heart(
    rows: tuple[list[list[int]], list[int]], tiny_llama: Path
) -> None:
    # Labels without a pattern: held-out rows make the strongest penalty the best.
    network, (ids, _) = load(tiny_llama), rows
    noise = np.random.default_rng(1).permutation([i % 3 for i in range(60)]).tolist()
    assert adapters.probe_head(network, ids, noise) == min(hidden_states.STRENGTHS)


def test_two_classes_and_few_rows(tiny_llama: Path) -> None:
    network = load(tiny_llama, labels=2)
    assert adapters.probe_head(network, IDS, [0, 1, 0, 1]) in hidden_states.STRENGTHS
    single = load(tiny_llama, labels=2)
    assert adapters.probe_head(single, IDS[:2], [0, 1]) == min(hidden_states.STRENGTHS)
    logits = adapters.logits_of(single, IDS[:2])
    np.testing.assert_allclose(logits[:, 0], -logits[:, 1], atol=1e-6)
    assert logits.argmax(1).tolist() == [0, 1]


def test_the_network_keeps_its_head_where_the_states_fail(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load(tiny_llama)
    head = network.score

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(adapters, "logits_of", fail)
    with pytest.raises(RuntimeError, match="no"):
        adapters.probe_head(network, IDS, [0, 1, 2, 0])
    assert network.score is head
