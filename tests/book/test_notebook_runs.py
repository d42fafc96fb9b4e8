"""A notebook that pytest has executed is not executed again by the book's build."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = shutil.ignore_patterns("_build", "__pycache__", "notebooks", ".*")
TOC = """\
format: jb-book
root: intro
chapters:
  - file: setup
  - file: notebooks/01_count
"""
COUNT = """\
from pathlib import Path
count = Path("../runs.txt")
count.write_text((count.read_text() if count.exists() else "") + "x")
print("runs so far:", len(count.read_text()))"""
WIDGET = """\
from ipywidgets import IntSlider
from tqdm.auto import tqdm
for _ in tqdm(range(3), desc="a bar"):
    pass
display(IntSlider(description="a slider"))"""

pytestmark = pytest.mark.book


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Copy what runs the book, with one small notebook instead of the chapters."""
    root = tmp_path / "project"
    shutil.copytree(ROOT / "book", root / "book", ignore=SKIPPED, symlinks=True)
    shutil.copytree(ROOT / "chapterlib", root / "chapterlib", ignore=SKIPPED)
    for name in ("_config.yml", "conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, root / name)
    (root / "_toc.yml").write_text(TOC)
    for page in ("intro", "setup"):
        (root / "book" / f"{page}.md").write_text(f"# The {page}\n")
    (root / "notebooks").mkdir()
    (root / "book" / "notebooks").symlink_to("../notebooks")
    cells = [
        nbformat.v4.new_markdown_cell("# Count"),
        nbformat.v4.new_code_cell(COUNT, metadata={"tags": ["kept"]}),
        nbformat.v4.new_code_cell(WIDGET),
    ]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, root / "notebooks" / "01_count.ipynb")
    return root


def call(root: Path, program: str, *arguments: str) -> None:
    environment = {**os.environ, "CHAPTERLIB_AG_NEWS": "sample"}
    environment["PYTHONPATH"] = str(root)
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        cwd=root,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def build(root: Path) -> str:
    call(root, "jupyter-book", "build", "book/", "-n", "-W", "--keep-going")
    page = root / "book" / "_build" / "html" / "notebooks" / "01_count.html"
    return page.read_text(encoding="utf-8")


def runs(root: Path) -> int:
    return len((root / "runs.txt").read_text())


def test_the_build_reuses_what_pytest_has_run(project: Path) -> None:
    notebook = project / "notebooks" / "01_count.ipynb"
    as_committed = notebook.read_bytes()

    call(project, "pytest", "--nbmake", "notebooks/", "-q", "-p", "no:cacheprovider")
    assert runs(project) == 1

    page = build(project)
    assert runs(project) == 1
    assert "runs so far: 1" in page
    # in the cell's source only: no progress bar, nothing in a live widget's place
    assert page.count("a bar") == 1
    assert page.count("a slider") == 1
    # the sample is announced once, under the title
    assert page.count("The sample, not AG News") == 1
    assert "480 train and 240 test rows" in page
    assert 'href="../setup.html"' in page

    build(project)
    assert runs(project) == 1

    with (project / "chapterlib" / "settings.py").open("a") as file:
        file.write("\n# a change that could change what a notebook prints\n")
    page = build(project)
    assert runs(project) == 2
    assert "runs so far: 2" in page

    # a cell's metadata (its alt text, say) belongs to the notebook as well
    assert notebook.read_bytes() == as_committed
