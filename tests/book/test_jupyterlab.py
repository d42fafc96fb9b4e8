"""The first chapters in a real JupyterLab, as a reader opens them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

ROOT = Path(__file__).resolve().parents[2]
# Taken before any fixture isolates it, and without the reader's own data.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "CHAPTERLIB_AG_NEWS"}
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
CHROMEDRIVER = shutil.which("chromedriver")
PATIENCE = 1800  # seconds: only a machine that hangs needs so long

pytestmark = [
    pytest.mark.book,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (CHROMIUM and CHROMEDRIVER),
        reason="no chromium or no chromedriver on this machine "
        "(Debian and Ubuntu: apt install chromium chromium-driver)",
    ),
]

RUN_ALL = """
const done = arguments[0], app = window.jupyterapp, panel = app.shell.currentWidget;
panel.context.ready
  .then(() => panel.sessionContext.ready)
  .then(() => app.commands.execute('notebook:run-all-cells'))
  .then(() => done(panel.context.model.toJSON().cells), error => done(String(error)));
"""
# Cells out of sight are not in the page: scroll to each with such an output.
SHOWN = """
const done = arguments[2], content = window.jupyterapp.shell.currentWidget.content;
content.scrollToItem(arguments[0], 'center')
  .then(() => new Promise(then => setTimeout(then, 1000)))
  .then(() => done(content.node.querySelectorAll(arguments[1]).length));
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A JupyterLab over the notebooks, in a folder whose name is not plain."""
    folder = tmp_path_factory.mktemp("Übung mit Leerzeichen")
    shutil.copytree(ROOT / "notebooks", folder / "notebooks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--port={port}", "--ip=127.0.0.1", "--IdentityProvider.token=book"]
    command += ["--LabApp.expose_app_in_browser=True", f"--ServerApp.root_dir={folder}"]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, env=ENVIRONMENT, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"{address}/api").close()
                break
            except OSError:
                said = (folder / "log").read_text()
                assert server.poll() is None, said
                assert time.monotonic() < until, said
                time.sleep(0.2)
        yield address
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(CHROMEDRIVER))
    driver.set_script_timeout(PATIENCE)
    driver.command_executor.client_config.timeout = PATIENCE
    yield driver
    driver.quit()


def mimes(cells: list[dict[str, Any]], kind: str) -> list[int]:
    """Places of the cells that have an output of a kind."""
    return [
        i
        for i, cell in enumerate(cells)
        if any(kind in output.get("data", {}) for output in cell.get("outputs", []))
    ]


@pytest.mark.parametrize("chapter", ["00_language_model", "01_text_classification"])
def test_chapter_runs_in_jupyterlab(
    chapter: str, lab: str, browser: webdriver.Chrome
) -> None:
    browser.get(f"{lab}/lab/tree/notebooks/{chapter}.ipynb?reset&token=book")
    until = time.monotonic() + PATIENCE
    ready = "return !!window.jupyterapp?.shell.currentWidget?.sessionContext"
    while not browser.execute_script(ready):
        assert time.monotonic() < until, "JupyterLab did not open the notebook"
        time.sleep(0.2)
    cells = browser.execute_async_script(RUN_ALL)
    assert isinstance(cells, list), cells
    failed = [o for c in cells for o in c.get("outputs", []) if "ename" in o]
    assert failed == []
    code = [c for c in cells if c["cell_type"] == "code" and c["source"]]
    assert all(cell["execution_count"] for cell in code)
    pictures = mimes(cells, "image/svg+xml")
    assert len(pictures) >= 4
    assert browser.execute_async_script(SHOWN, pictures[0], ".jp-RenderedSVG > *")
    if chapter.startswith("00"):
        bar = mimes(cells, "application/vnd.jupyter.widget-view+json")[0]
        assert browser.execute_async_script(SHOWN, bar, ".widget-hprogress")
        drawing = "img[src*='model.svg'], img[alt^='Five tokens']"
        place = next(i for i, c in enumerate(cells) if "model.svg" in c["source"])
        assert browser.execute_async_script(SHOWN, place, drawing)
