"""Which device a model runs on, and in which floating-point type."""

from __future__ import annotations

import torch

from chapterlib.settings import get_settings


def pick_device() -> torch.device:
    """Choose the device: the setting ``CHAPTERLIB_DEVICE``, else CUDA, Metal or CPU."""
    if chosen := get_settings().device:
        return torch.device(chosen)
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def pick_dtype(device: str | torch.device | None = None) -> torch.dtype:
    """Choose the floating-point type: the setting ``CHAPTERLIB_DTYPE``, else by speed.

    On CUDA bfloat16, or float16 where the GPU would only emulate it (a T4); on a CPU
    bfloat16 if it has instructions for it, else float32. By default for `pick_device`.
    """
    if (chosen := get_settings().dtype) != "auto":
        return as_dtype(chosen)
    device = torch.device(device) if device else pick_device()
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and fast_bf16():
        return torch.bfloat16
    return torch.float32


def device_and_dtype(
    device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[torch.device, torch.dtype]:
    """Take a device and a type as given, or choose what is missing by `pick_…`."""
    chosen = torch.device(device) if device else pick_device()
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"the device {str(chosen)!r} is asked for, and torch finds no GPU: leave "
            "out `device` and CHAPTERLIB_DEVICE, or set them to 'cpu'"
        )
    return chosen, as_dtype(dtype) if dtype else pick_dtype(chosen)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Turn a name such as "bfloat16" into the type; a type passes through."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"no floating-point type {dtype!r}: try float32 or bfloat16")
    return found


def fast_bf16() -> bool:
    """Whether this CPU has instructions for products in bf16, else it emulates them."""
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
