"""What a run cost in time and memory, on which machine and code it ran."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from chapterlib.settings import PACKAGE


@dataclass
class Measured:
    """Wall time of a block and its peaks of memory; filled in when the block ends.

    `peak_bytes` is resident memory, with that of child processes and of what was loaded
    before; `peak_gpu_bytes` what torch had allocated on all GPUs, None without one.
    """

    seconds: float = 0.0
    peak_bytes: int = 0
    peak_gpu_bytes: int | None = None


@contextmanager
def measure(interval: float = 0.1) -> Iterator[Measured]:
    """Measure wall time and peak memory of the block under `with`.

    `interval` is seconds between two looks at the memory: a shorter peak can be missed.
    The GPU's figure is torch's own high-water mark, which this resets: of two nested
    blocks only the inner one has a right one.
    """
    measured = Measured()
    done = threading.Event()
    process = psutil.Process()

    def look() -> None:
        measured.peak_bytes = max(measured.peak_bytes, _resident(process))

    def watch() -> None:
        while not done.wait(interval):
            look()

    cuda = _cuda()
    if cuda is not None:
        for gpu in range(cuda.device_count()):
            cuda.reset_peak_memory_stats(gpu)
    look()
    watcher = threading.Thread(target=watch, name="chapterlib-memory", daemon=True)
    watcher.start()
    start = time.perf_counter()
    try:
        yield measured
    finally:
        cuda = _cuda()
        if cuda is not None:
            # Work on a GPU goes on after the call that started it returned.
            cuda.synchronize()
        measured.seconds = time.perf_counter() - start
        done.set()
        watcher.join()
        look()
        if cuda is not None:
            measured.peak_gpu_bytes = sum(
                cuda.max_memory_allocated(gpu) for gpu in range(cuda.device_count())
            )


def hardware() -> dict[str, Any]:
    """Describe this machine, without its name or anything else that identifies it.

    `cores` are those that this process may use, `dtype` is what models compute in here
    unless told otherwise: clouds call processors by one name of which some are fast in
    bfloat16 and others not. GPU and type are None where torch is not in use.
    """
    torch = sys.modules.get("torch")
    devices = sys.modules.get("chapterlib.models.devices")
    cuda = torch.cuda if torch and torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": _cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "gpu": cuda.get_device_name(0) if cuda else None,
        "dtype": str(devices.pick_dtype()).removeprefix("torch.") if devices else None,
        "system": f"{platform.system()} {platform.machine()}",
    }


def code_digest() -> str:
    """Digest of the package's code, the same on every system (16 hex digits)."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        # Reading as text makes the line ends of Windows those of the rest.
        source = path.read_text(encoding="utf-8")
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0{source}\0".encode())
    return digest.hexdigest()[:16]


def _resident(process: psutil.Process) -> int:
    total: int = process.memory_info().rss
    with suppress(psutil.Error):
        for child in process.children(recursive=True):
            with suppress(psutil.Error):  # it may have ended meanwhile
                total += child.memory_info().rss
    return total


def _cuda() -> Any:
    """torch.cuda where it is in use already, else None."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        return torch.cuda
    return None


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _cpu_model() -> str:
    with suppress(OSError):  # Linux has this file, others don't
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        if found := re.search(
            r"^(?:model name|Model)\s*:\s*(\S.*)$", text, re.MULTILINE
        ):
            return " ".join(found[1].split())
    if sys.platform == "darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        with suppress(OSError, subprocess.CalledProcessError):
            return subprocess.check_output(command, text=True).strip()
    return platform.processor() or platform.machine()
