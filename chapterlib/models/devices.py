"""Which device a model runs on, and in which floating-point type."""

from __future__ import annotations

import hashlib
import json
import platform
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import torch

from chapterlib.settings import get_settings

# Below this ratio of speeds, the digits that bf16 drops are not worth it.
FAST_BF16 = 1.3


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

    Parameters
    ----------
    device : optional
        By default `pick_device`.

    Returns
    -------
    torch.dtype
        On CUDA bfloat16, or float16 where the GPU would only emulate it (a T4); on a
        CPU bfloat16 if a matrix product is measurably faster in it, else float32.
    """
    if (chosen := get_settings().dtype) != "auto":
        return as_dtype(chosen)
    device = torch.device(device) if device else pick_device()
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
        return torch.bfloat16 if native else torch.float16
    if device.type == "cpu" and bf16_speedup() >= FAST_BF16:
        return torch.bfloat16
    return torch.float32


def device_and_dtype(
    device: str | torch.device | None = None, dtype: str | torch.dtype | None = None
) -> tuple[torch.device, torch.dtype]:
    """Take a device and a type as given, or choose what is missing by `pick_…`."""
    chosen = torch.device(device) if device else pick_device()
    return chosen, as_dtype(dtype) if dtype else pick_dtype(chosen)


def as_dtype(dtype: str | torch.dtype) -> torch.dtype:
    """Turn a name such as "bfloat16" into the type; a type passes through."""
    found = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"no floating-point type {dtype!r}: try float32 or bfloat16")
    return found


@lru_cache(maxsize=1)
def bf16_speedup() -> float:
    """How many times faster than fp32 this CPU multiplies matrices in bf16.

    Measured once per machine, at the shapes of a small language model, and kept.
    """
    key, file = machine_key(), get_settings().cache / "bf16_speedup.json"
    try:
        known: dict[str, float] = json.loads(file.read_text())
    except (OSError, ValueError):
        known = {}
    if key not in known:
        known[key] = round(_measure_bf16(), 2)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as new:
                json.dump(known, new)
            Path(new.name).replace(file)
        except OSError:  # a read-only cache costs a second a process, no more
            pass
    return known[key]


def machine_key() -> str:
    """Name all that the ratio hangs on, so that a shared home folder is safe."""
    return f"{platform.machine()}/{cpu_fingerprint()}/{torch.__version__}"


def _measure_bf16(rounds: int = 15) -> float:
    """Seconds that products take in fp32, divided by those in bf16."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {
        t: (torch.ones(512, 576, dtype=t), torch.ones(576, 1536, dtype=t)) for t in best
    }
    with torch.inference_mode():
        # By turns, and the best of each: a busy moment then hits both alike.
        for done in range(rounds):
            for kind, (left, right) in pairs.items():
                start = time.perf_counter()
                for _ in range(4):
                    left @ right
                best[kind] = min(best[kind], time.perf_counter() - start)
            # Where it is only emulated, each round takes seconds and none is needed.
            if done and best[torch.bfloat16] > 10 * best[torch.float32]:
                break
    return best[torch.float32] / best[torch.bfloat16]


def cpu_fingerprint() -> str:
    """Tell this kind of CPU from others, even where a cloud hides its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    found = sorted({x for x in lines if x.startswith(("model name", "flags"))})
    return hashlib.sha256("\n".join(found).encode()).hexdigest()[:16]
