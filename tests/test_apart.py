"""A call in a process of its own: results, errors, and an end by the system."""

from __future__ import annotations

import json
import math
import os
import signal
import sys

import pytest

from chapterlib.apart import apart


def test_it_returns_what_the_function_returns() -> None:
    assert apart(json.dumps, {"b": 1, "a": 2}, sort_keys=True) == '{"a": 2, "b": 1}'


def test_nothing_of_this_process_is_there() -> None:
    assert "pytest" in sys.modules
    assert apart(os.getpid) != os.getpid()


def test_an_error_comes_through() -> None:
    with pytest.raises(ValueError, match="factorial"):
        apart(math.factorial, -1)


def test_a_process_that_was_ended_is_told_from_an_error() -> None:
    with pytest.raises(MemoryError, match="raise_signal was ended by the system"):
        apart(signal.raise_signal, signal.SIGKILL)
