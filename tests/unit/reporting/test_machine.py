"""What a run costs is measured, and the machine described without naming it."""

from __future__ import annotations

import mmap
import platform
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

from chapterlib import settings
from chapterlib.reporting import machine


def test_measure_sees_time_and_memory():
    with machine.measure(interval=0.005) as idle:
        pass
    size = 320_000_000
    # New pages: an array may get memory that the process has left over.
    with machine.measure(interval=0.005) as cost, mmap.mmap(-1, size) as block:
        block.write(b"1" * size)
        threading.Event().wait(0.1)
    assert cost.seconds >= 0.1
    assert cost.peak_bytes > idle.peak_bytes + size / 2
    assert "chapterlib-memory" not in {t.name for t in threading.enumerate()}


def test_measure_counts_children():
    command = "x = b'1' * 200_000_000; import time; time.sleep(1)"
    with machine.measure() as cost:
        alone = machine._resident(psutil.Process())
        subprocess.run([sys.executable, "-c", command], check=True)
    assert cost.peak_bytes > alone + 150_000_000


def test_measure_is_complete_after_an_error():
    seen = []

    def run():
        with machine.measure() as cost:
            seen.append(cost)
            raise KeyError

    with pytest.raises(KeyError):
        run()
    (cost,) = seen
    assert cost.seconds > 0
    assert cost.peak_bytes > 0


def test_measure_asks_torch_for_the_gpus(monkeypatch):
    reset = []

    class Cuda:
        def device_count(self):
            return 2

        def reset_peak_memory_stats(self, gpu):
            reset.append(gpu)

        def synchronize(self):
            pass

        def max_memory_allocated(self, gpu):
            return 100 + gpu

    monkeypatch.setattr(machine, "_cuda", Cuda)
    with machine.measure() as cost:
        pass
    assert cost.peak_gpu_bytes == 201
    assert reset == [0, 1]


def test_records_do_not_import_torch():
    code = (
        "import sys; from chapterlib import records\n"
        "with records.measure(): records.hardware(), records.table()\n"
        "print('torch' in sys.modules, 'chapterlib.reporting.tables' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["False", "True"]


def test_the_machine_is_described():
    found = machine.hardware()
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["dtype"] in (None, "float32", "bfloat16", "float16")
    assert settings.versions()["python"] == platform.python_version()
    assert "numpy" in settings.versions()


def test_the_type_that_the_machine_computes_in_is_told(monkeypatch):
    from chapterlib.models import devices

    monkeypatch.delenv("CHAPTERLIB_DTYPE")
    monkeypatch.setattr(devices, "fast_bf16", lambda: True)
    monkeypatch.setattr(devices, "pick_device", lambda: devices.torch.device("cpu"))
    assert machine.hardware()["dtype"] == "bfloat16"
    monkeypatch.setattr(devices, "fast_bf16", lambda: False)
    assert machine.hardware()["dtype"] == "float32"


def test_the_processor_is_named_on_other_systems_too(monkeypatch):
    def no_such_file(*_, **__):
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", no_such_file)
    assert machine._cpu_model() == (platform.processor() or platform.machine())
    monkeypatch.setattr(sys, "platform", "darwin")
    done = subprocess.CompletedProcess([], 0, stdout="Apple M9\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert machine._cpu_model() == "Apple M9"

    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr(subprocess, "run", fail)
    assert machine._cpu_model()


def test_the_code_digest_follows_the_code_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "PACKAGE", tmp_path)
    (tmp_path / "a.py").write_bytes(b"x = 1\n")
    before = machine.code_digest()
    (tmp_path / "notes.txt").write_text("nothing", encoding="utf-8")
    (tmp_path / "a.py").write_bytes(b"x = 1\r\n")
    assert machine.code_digest() == before
    (tmp_path / "a.py").write_bytes(b"x = 2\n")
    changed = machine.code_digest()
    assert changed != before
    (tmp_path / "room").mkdir()
    (tmp_path / "room" / "b.py").write_bytes(b"y = 1\n")
    assert machine.code_digest() not in (before, changed)
