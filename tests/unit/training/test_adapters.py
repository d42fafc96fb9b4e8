"""What is trained and what is frozen, and in which type it is kept."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_llama import save_tiny_llama

from chapterlib.training import adapters

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("four") / "four", layers=4)


def build(
    folder: Path, method: Any, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    base = adapters.load_base(
        method, folder, LABELS, device=torch.device("cpu"), dtype=dtype
    )
    return adapters.make_trainable(method, base.model, **options)


def test_adapters_have_the_size_of_the_formula(folder: Path) -> None:
    network = build(folder, "lora", r=4, target_modules=["q_proj", "v_proj"])
    found = adapters.trainable(network)
    assert all("lora_" in name or "score" in name for name in found)
    # r (inputs + outputs) a module; values have half as many heads as queries.
    expected = 4 * (4 * (32 + 32) + 4 * (32 + 16)) + 3 * 32
    assert sum(p.numel() for p in found.values()) == expected


def test_layers_below_the_first_stay_as_they_are(folder: Path) -> None:
    for method in ("lora", "full"):
        names = adapters.trainable(build(folder, method, first_layer=3))
        assert any("layers.3." in name for name in names)
        assert not any(f"layers.{i}." in name for name in names for i in range(3))
        assert not any("embed_tokens" in name for name in names)


def test_a_share_of_the_layers_fits_every_depth() -> None:
    assert [adapters.layer_number(x, 30) for x in (0, 0.0, 0.5, 7)] == [0, 0, 15, 7]
    assert [adapters.layer_number(0.5, depth) for depth in (1, 2, 3)] == [0, 1, 1]


def test_full_trains_all_and_head_nothing_else(folder: Path) -> None:
    whole = build(folder, "full")
    assert len(adapters.trainable(whole)) == len(list(whole.parameters()))
    assert list(adapters.trainable(build(folder, "head"))) == ["score.weight"]


@pytest.mark.parametrize("method", adapters.METHODS)
def test_what_is_trained_is_kept_in_float32(method: Any, folder: Path) -> None:
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    network = build(folder, method, torch.bfloat16)
    assert {p.dtype for p in adapters.trainable(network).values()} == {torch.float32}
    ids = torch.tensor([[5, 6, 7]])
    with torch.autocast("cpu", torch.bfloat16, enabled=method == "full"):
        network(input_ids=ids, labels=torch.tensor([1])).loss.backward()
    gradients = [p.grad for p in adapters.trainable(network).values()]
    assert all(g is not None and torch.isfinite(g).all() for g in gradients)


def test_logits_are_not_rounded(folder: Path) -> None:
    network = build(folder, "lora", torch.bfloat16)
    assert network(input_ids=torch.tensor([[5, 6]])).logits.dtype == torch.float32


def test_seeds_choose_head_and_adapters(folder: Path) -> None:
    def first(seed: int) -> torch.Tensor:
        base = adapters.load_base(
            "lora",
            folder,
            LABELS,
            device=torch.device("cpu"),
            dtype=torch.float32,
            seed=seed,
        )
        network = adapters.make_trainable("lora", base.model, seed=seed)
        return torch.cat(
            [p.detach().flatten() for p in adapters.trainable(network).values()]
        )

    state = torch.random.get_rng_state()
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"target_modules": ["q_proj", "query"]},
            "names query, which .* down_proj, gate_proj, k_proj, o_proj",
        ),
        ({"target_modules": "q_proj"}, "give a list of names"),
        ({"target_modules": []}, "give a list of names"),
        ({"target_modules": ["score"]}, "names score"),
        ({"first_layer": 4}, "layers are 0 to 3"),
        ({"first_layer": -1}, "layers are 0 to 3"),
        ({"first_layer": 1.0}, "or a share of them"),
    ],
)
def test_bad_options_are_named(
    options: dict[str, Any], words: str, folder: Path
) -> None:
    with pytest.raises(ValueError, match=words):
        build(folder, "lora", **options)


def test_plain_takes_the_wrapper_off(folder: Path) -> None:
    network = build(folder, "lora")
    assert type(adapters.plain(network)).__name__ == "LlamaForSequenceClassification"
    inner = adapters.plain(network)
    assert adapters.plain(inner) is inner


SHARDED = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from chapterlib import adapters

def build():
    base = adapters.load_base("lora", sys.argv[1], ("a", "b"), dtype=torch.float32,
                              device=torch.device("cpu"))
    return adapters.make_trainable("lora", base.model)

def step(network):
    ids = torch.arange(5, 15).reshape(2, 5)
    optimizer = torch.optim.AdamW(
        [p for p in network.parameters() if p.requires_grad], 0.01)
    network(input_ids=ids, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()

dist.init_process_group("gloo")
mesh = dist.init_device_mesh("cpu", (2,))
alone, sharded = build(), build()
for layer in adapters.plain(sharded).model.layers:
    fully_shard(layer, mesh=mesh)
fully_shard(sharded, mesh=mesh)
shards = adapters.trainable(sharded)
step(alone)
step(sharded)
whole, expected = adapters.gathered(sharded), adapters.gathered(alone)
assert set(whole) == set(expected)
for name, value in expected.items():
    assert shards[name].to_local().numel() < value.numel()
    torch.testing.assert_close(whole[name], value, atol=1e-5, rtol=1e-4)
fresh = build()
assert not fresh.load_state_dict(whole, strict=False).unexpected_keys
dist.destroy_process_group()
"""


def test_shards_of_two_processes_are_the_whole(folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment = {
            **os.environ,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "RANK": str(rank),
            "GLOO_SOCKET_IFNAME": "lo",
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", SHARDED, str(folder)]
        processes.append(subprocess.Popen(command, env=environment))
    assert [process.wait() for process in processes] == [0, 0]
