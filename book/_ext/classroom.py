"""Write the chapters without their solutions, for a class: `make classroom`."""

from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import nbformat

ROOT = Path(__file__).resolve().parents[2]
# Hints stay; the answers of a quiz go with the discussions.
ANSWERS = re.compile(
    r"<details><summary>(?:Discussion|Answer)</summary>.*?</details>\n*", re.DOTALL
)


def without_solutions(notebook: Any) -> Any:
    """Empty the cells that solve an exercise, and take the folded answers out.

    The hidden cells after the exercises go too: they check what the solutions make.
    """
    given = copy.deepcopy(notebook)
    begun = False
    kept = []
    for cell in given.cells:
        tags = cell.metadata.get("tags", [])
        begun = begun or (
            cell.cell_type == "markdown"
            and re.search(r"^## Exercises$", cell.source, re.MULTILINE) is not None
        )
        if cell.cell_type == "markdown":
            cell.source = ANSWERS.sub("", cell.source).rstrip()
        elif begun and "remove-cell" in tags:
            continue
        elif begun and "hide-cell" in tags:
            cell.source = "# Your solution\n"
            cell.metadata.tags = [tag for tag in tags if tag != "hide-cell"]
        if cell.source:
            kept.append(cell)
    given.cells = kept
    return given


def main(folder: str) -> None:
    """Write each chapter into the folder, beside the drawings that it shows."""
    target = Path(folder)
    (target / "images").mkdir(parents=True, exist_ok=True)
    chapters = sorted((ROOT / "notebooks").glob("*.ipynb"))
    for path in chapters:
        given = without_solutions(nbformat.read(path, as_version=4))
        nbformat.write(given, target / path.name)
    for drawing in (ROOT / "notebooks" / "images").glob("*.svg"):
        (target / "images" / drawing.name).write_bytes(drawing.read_bytes())
    print(f"{len(chapters)} chapters without solutions in {target}")


if __name__ == "__main__":
    main(sys.argv[1])
