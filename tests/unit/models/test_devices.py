"""Device and floating-point type: settings first, then what is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chapterlib.models import devices

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHAPTERLIB_DTYPE")


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
    ("instructions", "expected"),
    [({"avx512_bf16": True}, BF16), ({"amx_bf16": True}, BF16), ({}, torch.float32)],
)
def test_a_cpu_gets_bf16_only_where_it_has_instructions_for_it(
    instructions: dict[str, bool],
    expected: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: instructions)
    assert devices.pick_dtype("cpu") == expected


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_a_gpu_that_is_not_there_names_the_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(ValueError, match=r"'cuda:1'.*CHAPTERLIB_DEVICE"):
        devices.device_and_dtype("cuda:1")
    monkeypatch.setenv("CHAPTERLIB_DEVICE", "cuda")
    with pytest.raises(ValueError, match=r"'cuda'.*CHAPTERLIB_DEVICE"):
        devices.device_and_dtype()


def test_type_names() -> None:
    assert devices.as_dtype("bfloat16") == torch.bfloat16
    assert devices.as_dtype(torch.float32) == torch.float32
    for wrong in ("int8", "float99", "nn"):
        with pytest.raises(ValueError, match="no floating-point type"):
            devices.as_dtype(wrong)
