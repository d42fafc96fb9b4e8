"""A call in a process of its own: results, errors, and an end by the system."""

from __future__ import annotations

import json
import math
import os
import signal
import sys

import pytest

from chapterlib.reporting.runs import in_own_process


def test_it_returns_what_the_function_returns() -> None:
    assert (
        in_own_process(json.dumps, {"b": 1, "a": 2}, sort_keys=True)
        == '{"a": 2, "b": 1}'
    )


def test_nothing_of_this_process_is_there() -> None:
    assert "pytest" in sys.modules
    assert in_own_process(os.getpid) != os.getpid()


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="factorial"):
        in_own_process(math.factorial, -1)


def test_a_process_that_was_ended_is_told_from_an_error() -> None:
    with pytest.raises(MemoryError, match="raise_signal was ended by the system"):
        in_own_process(signal.raise_signal, signal.SIGKILL)
