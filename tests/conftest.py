"""Fixtures for the unit tests: no network, no user cache, no `.env`, tiny data."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from tiny_llama import save_tiny_llama

import chapterlib.settings
from chapterlib.tasks.task import AG_NEWS

THREADS = torch.get_num_threads()
USER_CACHE = os.environ.get("CHAPTERLIB_CACHE")
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session", autouse=True)
def isolated_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give the session its own cache, no settings of the user and no Hub."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("CHAPTERLIB_")]:
            patch.delenv(name)
        patch.setenv("CHAPTERLIB_CACHE", str(folder))
        patch.setenv("CHAPTERLIB_DTYPE", "float32")  # the same on every machine
        patch.setattr(chapterlib.settings, "find_dotenv", lambda **_: "")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Compute in one thread, child processes too.

    The models here are tiny: threads would wait for each other more than they work,
    on a busy machine many times as long.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(THREADS)


@pytest.fixture(scope="module", autouse=True)
def no_client_left() -> Iterator[None]:
    """Close the connections of dead HTTP clients before they use up the open files."""
    yield
    # LangChain keeps a client for each address; every test server has a new one.
    kept = sys.modules.get("langchain_openai.chat_models._client_utils")
    for function in vars(kept).values() if kept else ():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    gc.collect()


@pytest.fixture
def user_cache(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Use the user's own cache: for slow tests whose work is done once a machine."""
    if USER_CACHE:
        monkeypatch.setenv("CHAPTERLIB_CACHE", USER_CACHE)
    else:
        monkeypatch.delenv("CHAPTERLIB_CACHE")
    monkeypatch.delenv("OMP_NUM_THREADS")
    torch.set_num_threads(THREADS)
    yield chapterlib.settings.get_settings().cache
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def ag_news_folder() -> Path:
    """Return the folder with real AG News rows that may lie beside the checkout."""
    return shared_rows("ag_news")


@pytest.fixture(scope="session")
def banking77_folder() -> Path:
    """Return the folder with another task's rows: train.csv, test.csv, 77 labels."""
    return shared_rows("banking77")


def shared_rows(name: str) -> Path:
    if not (SHARED / name).is_dir():
        pytest.skip(f"no ../shared/{name} beside this checkout: real rows are needed")
    return SHARED / name


@pytest.fixture
def tiny_news() -> DatasetDict:
    """Return 40 hand-made rows: 6 for training and 4 for testing in each class."""
    stems = {
        "World": ["ministers sign treaty", "envoy visits border", "voters queue early"],
        "Sports": ["striker scores twice", "coach praises keeper", "relay team wins"],
        "Business": [
            "shares fall sharply",
            "grocer buys rival",
            "profit beats forecast",
        ],
        "Sci/Tech": ["probe lands on moon", "browser flaw patched", "chip runs cooler"],
    }
    places = ["in Oslo", "in Lima", "in Kyiv", "in Accra"]
    label = ClassLabel(names=list(AG_NEWS.label_names))
    features = Features({"text": Value("string"), "label": label})
    rows: dict[str, list[tuple[str, int]]] = {"train": [], "test": []}
    for i in range(10):
        for label_id, name in enumerate(AG_NEWS.label_names):
            text = f"{stems[name][i % 3]} {places[i % 4]} on day {i}"
            rows["train" if i < 6 else "test"].append((text, label_id))
    return DatasetDict(
        {
            split: Dataset.from_dict(
                {"text": [t for t, _ in part], "label": [c for _, c in part]},
                features=features,
            )
            for split, part in rows.items()
        }
    )


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a 2-layer Llama with random weights."""
    return save_tiny_llama(tmp_path_factory.mktemp("tiny") / "tiny-llama")
