"""The store of vectors: what was put is there, whatever happens around it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from chapterlib._store import StoreError, VectorStore


def _vector(value: float) -> np.ndarray:
    return np.full(4, value, np.float32)


def test_round_trip_and_kinds(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "deep" / "v.sqlite")
    store.put([("a", "mean1", _vector(1)), ("a", "last1", _vector(2))])
    assert store.get(["a", "b"], "mean1").keys() == {"a"}
    np.testing.assert_array_equal(store.get(["a"], "last1")["a"], _vector(2))
    assert store.get([], "mean1") == {}


def test_the_first_vector_stays(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "v.sqlite")
    store.put([("a", "k", _vector(1))])
    store.put([("a", "k", _vector(2)), ("b", "k", _vector(3))])
    found = store.get(["a", "b"], "k")
    np.testing.assert_array_equal(found["a"], _vector(1))
    np.testing.assert_array_equal(found["b"], _vector(3))


def test_more_texts_than_one_statement_binds(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "v.sqlite")
    texts = [f"text {i}" for i in range(2500)]
    store.put((text, "k", _vector(i)) for i, text in enumerate(texts))
    found = store.get(texts, "k")
    assert [found[text][0] for text in texts] == list(range(2500))


def test_texts_of_any_characters(tmp_path: Path) -> None:
    store = VectorStore(tmp_path / "v.sqlite")
    odd = ["naïve ☃", "'; DROP TABLE vectors; --", "\x00", "\ud800"]
    store.put((text, "k", _vector(i)) for i, text in enumerate(odd))
    assert store.get(odd, "k").keys() == set(odd)


def _write_many(path: str, start: int) -> None:
    store = VectorStore(path)
    for i in range(start, start + 60):
        store.put([(f"text {i}", "k", _vector(i))])


def test_processes_write_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "v.sqlite")
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=_write_many, args=(path, start))
        for start in (0, 30, 60)  # overlapping on purpose
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    found = VectorStore(path).get([f"text {i}" for i in range(120)], "k")
    assert len(found) == 120


KILLED = """
import sys
import numpy as np
from chapterlib._store import VectorStore
store = VectorStore(sys.argv[1])
for i in range(100000):
    store.put([(f"{i} {j}", "k", np.full(4, i, np.float32)) for j in range(20)])
    print(i, flush=True)
"""


def test_a_kill_loses_no_call_that_returned(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        done = [int(process.stdout.readline()) for _ in range(12)][-1]
        os.kill(process.pid, signal.SIGKILL)
    store = VectorStore(path)
    for i in range(done + 1):
        assert len(store.get([f"{i} {j}" for j in range(20)], "k")) == 20
    later = [len(store.get([f"{done + 1 + i} {j}" for j in range(20)], "k"))
             for i in range(50)]  # fmt: skip
    assert set(later) <= {0, 20}  # a call is there whole or not at all


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.sqlite").mkdir()  # a folder can't be opened as a database
    store = VectorStore(tmp_path / "v.sqlite")
    with pytest.raises(StoreError, match=r"v\.sqlite can't be used"):
        store.get(["a"], "k")
    with pytest.warns(RuntimeWarning, match="can't be written.*CHAPTERLIB_CACHE"):
        store.put([("a", "k", _vector(1))])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "v.sqlite"
    path.write_bytes(b"not a database, but long enough to look like a file" * 30)
    with pytest.raises(StoreError, match=r"v\.sqlite.*delete it"):
        VectorStore(path).get(["a"], "k")
