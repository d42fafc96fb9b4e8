"""The chapters on finetuning at the tiers of a GPU, with a Llama of random weights.

Its architecture is that of Llama 3, so the cells meet what they would meet there, but
for the size and the device.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tiny_llama import save_tiny_llama

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
CHAPTERS = ("06_quantization", "07_lora", "08_training")


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama = save_tiny_llama(tmp_path / "llama", layers=4, hidden=64)
    for name, value in {
        "CHAPTERLIB_MODEL": llama,
        "CHAPTERLIB_CACHE": tmp_path / "cache",
        "CHAPTERLIB_AG_NEWS": "sample",
        "CHAPTERLIB_TIER": "gpu",
        "CHAPTERLIB_TRAIN_PER_CLASS": 30,
        "CHAPTERLIB_TEST_PER_CLASS": 60,
        "CHAPTERLIB_DEVICE": "cpu",
        "HF_HUB_OFFLINE": 1,
    }.items():
        monkeypatch.setenv(name, str(value))


@pytest.mark.parametrize("chapter", CHAPTERS)
def test_every_cell_runs(chapter: str, environment: None) -> None:
    notebook = nbformat.read(NOTEBOOKS / f"{chapter}.ipynb", as_version=4)
    claims = [c for c in notebook.cells if "remove-cell" in c.metadata.get("tags", [])]
    assert claims
    # What the text claims of a trained model, random weights need not bear out.
    notebook.cells = [cell for cell in notebook.cells if cell not in claims]
    client = NotebookClient(
        notebook, timeout=3600, resources={"metadata": {"path": NOTEBOOKS}}
    )
    client.execute()
    counts = [c.execution_count for c in notebook.cells if c.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
