"""The printed book: one file in which every page of the contents is found."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pypdf import PdfReader

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "book" / "_ext" / "pdf.py"
HTML = "<!doctype html><meta charset=utf-8><h1>{title}<a>#</a></h1><p>{text}"

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(
        not (shutil.which("chromium") or shutil.which("google-chrome")),
        reason="no chromium on this machine",
    ),
]


def test_every_page_is_printed_under_its_bookmark(tmp_path: Path) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    names = [toc["root"]] + [c["file"] for p in toc["parts"] for c in p["chapters"]]
    built = tmp_path / "built pages"
    for name in names:
        page = built / f"{name}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        title, text = f"Page {names.index(name)}", f"What {name} says." * 300
        page.write_text(HTML.format(title=title, text=text), encoding="utf-8")
    target = tmp_path / "made" / "book.pdf"
    subprocess.run([sys.executable, PROGRAM, built, target], check=True)
    printed = PdfReader(target)
    contents = printed.pages[0].extract_text()
    assert len(printed.outline) == len(names)
    for i, mark in enumerate(printed.outline):
        assert not isinstance(mark, list)
        place = printed.get_destination_page_number(mark)
        assert place is not None
        assert mark.title == f"Page {i}"
        assert f"Page {i}" in printed.pages[place].extract_text()
        assert f"Page {i} {place + 1}" in " ".join(contents.split())
