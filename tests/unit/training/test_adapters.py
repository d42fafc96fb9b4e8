"""What is trained, in which type it is kept, and heads that start from a probe."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_llama import save_tiny_llama

from chapterlib.classifiers.finetuned import FinetunedClassifier
from chapterlib.models import hidden_states
from chapterlib.training import adapters

LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("four") / "four", layers=4)


CPU = torch.device("cpu")


def options_of(method: Any, folder: Path, **options: Any) -> dict[str, Any]:
    params: dict[str, Any] = FinetunedClassifier(method, folder, **options).get_params()
    return params


def build(
    folder: Path, method: Any, dtype: torch.dtype = torch.float32, **options: Any
) -> Any:
    params = options_of(method, folder, **options)
    base = adapters.load_base(params, LABELS, CPU, dtype)
    return adapters.make_trainable(params, base.model)


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
        network = build(folder, "lora", seed=seed)
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


IDS = [[5, 6, 7, 8], [9], [4, 5, 6], [30, 31, 32, 33, 34, 35]]


def load(folder: Path, labels: int = 3) -> Any:
    names = [str(i) for i in range(labels)]
    options = options_of("head", folder)
    return adapters.load_base(options, names, CPU, torch.float32).model


def test_logits_are_those_of_one_row_at_a_time(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = load(tiny_llama)
    with torch.no_grad():
        alone = [network(input_ids=torch.tensor([row])).logits[0] for row in IDS]
    expected = torch.stack(alone).numpy()
    for tokens in (1, 8, 1000):
        monkeypatch.setattr(adapters, "BATCH_TOKENS", tokens)
        found = adapters.logits_of(network, IDS)
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


SHARDED = """
import os, sys
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from chapterlib import FinetunedClassifier
from chapterlib.training import adapters

options = FinetunedClassifier("lora", sys.argv[1]).get_params()

def build():
    cpu = torch.device("cpu")
    base = adapters.load_base(options, ("a", "b"), cpu, torch.float32)
    return adapters.make_trainable(options, base.model)

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


@pytest.mark.slow
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
