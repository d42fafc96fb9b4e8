"""Device and floating-point type: settings first, then what is measured."""

from __future__ import annotations

import json
from itertools import accumulate, cycle
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import torch

from chapterlib.models import devices

BF16 = torch.bfloat16


@pytest.fixture
def fresh_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path))
    devices.bf16_speedup.cache_clear()
    return tmp_path


def test_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_DEVICE", "meta")
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float16")
    assert devices.pick_device() == torch.device("meta")
    assert devices.pick_dtype() == torch.float16


@pytest.mark.parametrize(
    ("cuda", "metal", "expected"),
    [(True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")],
)
def test_the_fastest_device_is_taken(
    cuda: bool, metal: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: metal)
    assert devices.pick_device().type == expected


@pytest.mark.parametrize(
    ("native", "expected"), [(True, torch.bfloat16), (False, torch.float16)]
)
def test_a_gpu_without_bf16_gets_fp16(
    native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: native)
    assert devices.pick_dtype("cuda") == expected


def test_metal_stays_in_fp32() -> None:
    assert devices.pick_dtype("mps") == torch.float32


@pytest.mark.parametrize(
    ("ratio", "expected"), [(3.0, torch.bfloat16), (0.6, torch.float32)]
)
def test_a_cpu_gets_bf16_only_where_it_is_faster(
    ratio: float,
    expected: torch.dtype,
    fresh_cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "_measure_bf16", lambda: ratio)
    assert devices.pick_dtype("cpu") == expected


def test_the_measurement_is_made_once_a_machine(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = devices._measure_bf16
    monkeypatch.setattr(devices, "_measure_bf16", lambda: measure(rounds=1))
    measured = devices.bf16_speedup()
    assert measured > 0
    (file,) = fresh_cache.iterdir()
    assert list(json.loads(file.read_text()).values()) == [measured]

    def never() -> float:
        raise AssertionError("measured again")

    monkeypatch.setattr(devices, "_measure_bf16", never)
    devices.bf16_speedup.cache_clear()
    assert devices.bf16_speedup() == measured


@pytest.mark.parametrize(("slower", "rounds"), [(20, 2), (2, 5)])
def test_emulated_bf16_is_not_measured_at_length(
    slower: int, rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A round: begin and end in fp32, begin and end in bf16.
    clock = Mock(side_effect=accumulate(cycle([0, 1, 0, slower])))
    monkeypatch.setattr(devices, "time", SimpleNamespace(perf_counter=clock))
    one = {kind: torch.ones(1, 1, dtype=kind) for kind in (torch.float32, BF16)}
    monkeypatch.setattr(torch, "ones", lambda *shape, dtype: one[dtype])
    assert devices._measure_bf16(5) == 1 / slower
    assert clock.call_count == 4 * rounds


def test_a_broken_or_read_only_cache_only_costs_time(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_measure_bf16", lambda: 1.5)
    (fresh_cache / "bf16_speedup.json").write_text("{")
    assert devices.bf16_speedup() == 1.5
    blocked = fresh_cache / "file"
    blocked.write_text("")
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(blocked))
    devices.bf16_speedup.cache_clear()
    assert devices.bf16_speedup() == 1.5


def test_type_names() -> None:
    assert devices.as_dtype("bfloat16") == torch.bfloat16
    assert devices.as_dtype(torch.float32) == torch.float32
    for wrong in ("int8", "float99", "nn"):
        with pytest.raises(ValueError, match="no floating-point type"):
            devices.as_dtype(wrong)
