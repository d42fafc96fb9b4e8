"""The frozen lower layers: computed once, to the bit the same, put back afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save_tiny_llama

from chapterlib.models import loading
from chapterlib.training.prefix import FrozenPrefix, pack, unpack

IDS = torch.tensor([[5, 6, 7, 8, 9], [9, 8, 7, 2, 2], [4, 2, 2, 2, 2]])
MASK = (IDS != 2).long()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("four") / "four", layers=4)


@pytest.fixture
def network(folder: Path) -> Any:
    return loading.load("classify", folder, labels=("a", "b"), dtype="float32").model


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = network(input_ids=IDS, attention_mask=MASK).logits
    return found


@pytest.mark.parametrize(
    ("layers", "only_last"), [(1, False), (2, False), (4, False), (4, True)]
)
def test_logits_stay_the_same(
    layers: int, only_last: bool, network: Any, tmp_path: Path
) -> None:
    before = logits(network)
    names = list(network.state_dict())
    prefix = FrozenPrefix(network, layers, tmp_path / "p.sqlite", only_last=only_last)
    for _ in range(2):  # computed, then read
        torch.testing.assert_close(logits(network), before, atol=1e-5, rtol=0)
    assert prefix.computed == 3
    assert not any(f"layers.{layers - 1}." in name for name in network.state_dict())
    prefix.remove()
    assert list(network.state_dict()) == names
    torch.testing.assert_close(logits(network), before, atol=0, rtol=0)


def test_another_process_reads_what_was_computed(
    network: Any, folder: Path, tmp_path: Path
) -> None:
    FrozenPrefix(network, 2, tmp_path / "p.sqlite")
    expected = logits(network)
    twin = loading.load("classify", folder, labels=("a", "b"), dtype="float32").model
    prefix = FrozenPrefix(twin, 2, tmp_path / "p.sqlite")
    torch.testing.assert_close(logits(twin), expected, atol=0, rtol=0)
    assert prefix.computed == 0


def test_gradients_reach_what_lies_above(network: Any, tmp_path: Path) -> None:
    FrozenPrefix(network, 2, tmp_path / "p.sqlite")
    network(
        input_ids=IDS, attention_mask=MASK, labels=torch.tensor([0, 1, 1])
    ).loss.backward()
    upper = network.model.layers[2].self_attn.q_proj.weight
    assert upper.grad.abs().sum() > 0
    assert not list(network.model.layers[1].parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_packing_keeps_every_bit(dtype: torch.dtype) -> None:
    states = torch.randn(3, 32).to(dtype)
    states[0, :3] = torch.tensor([float("nan"), float("inf"), -0.0])
    back = unpack(pack(states), 32, dtype)
    kind = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(back.view(kind), states.view(kind))


def test_a_model_in_half_precision(folder: Path, tmp_path: Path) -> None:
    network: Any = loading.load(
        "classify", folder, labels=("a", "b"), dtype="bfloat16"
    ).model
    before = logits(network)
    FrozenPrefix(network, 3, tmp_path / "p.sqlite")
    torch.testing.assert_close(logits(network), before, atol=0.02, rtol=0)


@pytest.mark.parametrize("layers", [0, 5])
def test_too_many_layers_are_an_error(
    layers: int, network: Any, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="the model has 4"):
        FrozenPrefix(network, layers, tmp_path / "p.sqlite")


def test_a_network_of_another_make_is_an_error(network: Any, tmp_path: Path) -> None:
    del network.model.norm
    with pytest.raises(ValueError, match="cache_prefix=False"):
        FrozenPrefix(network, 1, tmp_path / "p.sqlite")
