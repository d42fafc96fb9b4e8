"""Notebooks for a class: no solution is left, and what stays is whole."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
CHAPTERS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def classroom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All chapters without their solutions, as `make classroom` writes them."""
    folder = tmp_path_factory.mktemp("class room")
    program = ROOT / "book" / "_ext" / "classroom.py"
    subprocess.run([sys.executable, program, folder], check=True)
    return folder


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda path: path.stem)
def test_no_solution_is_left(chapter: Path, classroom: Path) -> None:
    whole = nbformat.read(chapter, as_version=4)
    given = nbformat.read(classroom / chapter.name, as_version=4)
    nbformat.validate(given)
    text = "\n".join(cell.source for cell in given.cells)
    solutions = [
        cell.source
        for cell in whole.cells
        if "hide-cell" in cell.metadata.get("tags", [])
    ]
    assert solutions
    assert not [code for code in solutions if code in text]
    assert text.count("# Your solution") == len(solutions)
    assert "<summary>Discussion" not in text
    assert "<summary>Answer" not in text
    assert text.count("<summary>Hint") >= 3
    assert text.count("<details>") == text.count("</details>")
    assert "## Quiz" in text
    assert "## What you have learned" in text


def test_the_drawings_come_along(classroom: Path) -> None:
    names = {path.name for path in (ROOT / "notebooks" / "images").iterdir()}
    assert {path.name for path in (classroom / "images").iterdir()} == names
