"""The embedded model behind a real server: llama.cpp on 127.0.0.1, in this process."""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import secrets
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from chapterlib.models.embedded import GGUF_SHA256, TITLE, EmbeddedModelError, gguf_path
from chapterlib.prompting.errors import LLMError

# Requests that are worked on at once, and tokens that each may have with its reply.
SLOTS = 4
CONTEXT = 4096


@dataclass(frozen=True)
class LocalServer:
    """A server that runs until this process ends, with a key made for it alone.

    Its `identity` is the same for the same model, whatever the port.
    """

    base_url: str
    key: SecretStr
    model: str
    identity: str
    _handle: Any = field(repr=False, compare=False)


_running: dict[Path, LocalServer] = {}
_lock = threading.Lock()


def local_server(model: str | Path = "embedded") -> LocalServer:
    """Start the server of a GGUF file on first use; afterwards give the one that runs.

    It ends with the process, or with `stop_local_servers`. Raises LLMError if
    ``xllamacpp`` is missing, or the model can't be fetched or loaded.
    """
    path, name, identity = _model_file(model)
    with _lock:
        if path not in _running:
            _running[path] = _start(path, name, identity)
        return _running[path]


def stop_local_servers() -> None:
    """Stop every server that this process runs; the next use starts one anew."""
    with _lock:
        _running.clear()


def _model_file(model: str | Path) -> tuple[Path, str, str]:
    if str(model) in ("embedded", TITLE):
        try:
            return gguf_path(), TITLE, f"gguf {GGUF_SHA256}"
        except EmbeddedModelError as error:
            raise LLMError(str(error), fatal=True) from error
    path = Path(model).expanduser().resolve()
    if path.suffix != ".gguf" or not path.is_file():
        raise LLMError(
            f"the local server can't serve {str(model)!r}, which is no GGUF file here: "
            'set CHAPTERLIB_LLM_MODEL to "embedded" or to the path of one, or choose '
            "another provider with CHAPTERLIB_LLM_PROVIDER",
            fatal=True,
        )
    # Reading gigabytes to know a file again would take longer than loading it.
    known = path.stat()
    mark = f"{path} {known.st_size} {known.st_mtime_ns}"
    return path, path.stem, f"gguf {hashlib.sha256(mark.encode()).hexdigest()}"


def _start(path: Path, name: str, identity: str) -> LocalServer:
    try:
        import xllamacpp
    except ImportError as error:
        raise LLMError(
            f"the local server needs xllamacpp ({error}): install it with "
            "`python -m pip install xllamacpp`, or set TOGETHER_API_KEY, "
            "OPENAI_API_KEY or CHAPTERLIB_LLM_BASE_URL to ask another server",
            fatal=True,
        ) from error
    key = secrets.token_urlsafe(24)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.model_alias = [name]
    params.n_parallel = SLOTS
    params.n_ctx = CONTEXT * SLOTS
    # The default lets connections that are kept alive wait for seconds.
    params.n_threads_http = 4 * SLOTS
    params.cpuparams.n_threads = threads or os.cpu_count() or 1
    params.cpuparams_batch.n_threads = params.cpuparams.n_threads
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [key]
    params.ui = False
    params.offline = True
    params.verbosity = 0
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        raise LLMError(
            f"the local server can't load {path} ({error}): delete the file if it is "
            "damaged, and it is fetched anew",
            fatal=True,
        ) from error
    url = f"{server.listening_address}/v1"
    return LocalServer(url, SecretStr(key), name, identity, server)


def _abandon() -> None:
    """Keep a forked child from stopping what runs in its parent alone.

    The child would wait forever for threads that it has not got.
    """
    for server in _running.values():
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(server._handle))
    _running.clear()


atexit.register(stop_local_servers)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon)
