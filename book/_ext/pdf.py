"""Print the built book into one file, with contents and bookmarks: `make pdf`."""

from __future__ import annotations

import html
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from pypdf import PdfReader, PdfWriter

ROOT = Path(__file__).resolve().parents[2]
# Chromium waits for formulas to be set: this is its own clock, not the wall's.
FLAGS = "--headless --no-sandbox --disable-gpu --no-pdf-header-footer"
FLAGS += " --virtual-time-budget=30000"
STYLE = "body { font: 12pt sans-serif } td { padding: 3pt 12pt 3pt 0 }"


def pages_of_the_book() -> list[str]:
    """Names of the pages in the order of the table of contents."""
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [c["file"] for part in toc["parts"] for c in part["chapters"]]
    return [toc["root"], *chapters]


def browser() -> str:
    """Find Chromium or Chrome."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    sys.exit("make pdf prints with Chromium, and there is none: install it first")


def print_page(page: Path, target: Path) -> PdfReader:
    """Print one page, as a reader would."""
    command = [browser(), *FLAGS.split(), f"--print-to-pdf={target}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not target.exists():
        sys.exit(f"Chromium could not print {page}: {done.stderr.strip()[-500:]}")
    return PdfReader(target)


def title_of(page: Path) -> str:
    """Read a page's title from its heading."""
    found = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser").h1
    return found.get_text().removesuffix("#").strip() if found else page.stem


def contents(rows: list[tuple[str, int]], folder: Path) -> PdfReader:
    """Print the list of titles with their pages."""
    lines = "".join(
        f"<tr><td>{html.escape(title)}</td><td>{number}</td></tr>"
        for title, number in rows
    )
    page = folder / "contents.html"
    page.write_text(
        f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>"
        f"<h1>{html.escape(rows[0][0])}</h1><table>{lines}</table>",
        encoding="utf-8",
    )
    return print_page(page, folder / "contents.pdf")


def write_pdf(built: Path, target: Path) -> None:
    """Print all pages of a built book, and join them behind their contents."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        titles, parts = [], []
        for i, page in enumerate(pages_of_the_book()):
            source = built / f"{page}.html"
            titles.append(title_of(source))
            parts.append(print_page(source, folder / f"{i}.pdf"))
        first = len(contents([(title, 0) for title in titles], folder).pages) + 1
        starts = [first]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part.pages))
        joined = PdfWriter()
        joined.append(contents(list(zip(titles, starts, strict=True)), folder))
        for title, part in zip(titles, parts, strict=True):
            joined.append(part, outline_item=title, import_outline=False)
        target.parent.mkdir(parents=True, exist_ok=True)
        joined.write(target)
        print(f"{len(joined.pages)} pages in {target}")


if __name__ == "__main__":
    write_pdf(Path(sys.argv[1]).resolve(), Path(sys.argv[2]))
