"""Records name the type that the machine computes in: here it is not measured."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAPTERLIB_DTYPE", "float32")
