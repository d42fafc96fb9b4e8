from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.outputs import ChatGeneration, Generation

from chapterlib.prompting.cache import ReplyCache, ReplyCacheError

KEYS = ("f53b3155b302982e196b7645b7b614b1", "2e286b3bf8250f3f5f98fbe12f9d2b94")


def reply(text="World", finish="stop", **more):
    message = AIMessage(
        content=text,
        response_metadata={"finish_reason": finish},
        usage_metadata={"input_tokens": 3, "output_tokens": 2, "total_tokens": 5},
        **more,
    )
    return [ChatGeneration(message=message, generation_info={"logprobs": None})]


def text_of(cache, prompt, parameters="m"):
    found = cache.lookup(prompt, parameters)
    assert found is not None
    return found[0].text


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new folder" / "replies.sqlite"


def test_a_reply_comes_back_as_it_was_and_says_that_it_was_kept(path):
    call = {"name": "f", "args": {"a": 1}, "id": "1", "type": "tool_call"}
    kept = reply("", "tool_calls", tool_calls=[call], id="abc")
    ReplyCache(path).update("p", "m", kept)
    (found,) = ReplyCache(path).lookup("p", "m") or []
    assert found.message.response_metadata.pop("cached") is True
    assert found == kept[0]


def test_prompt_parameters_and_namespace_make_the_key(path):
    cache, other = ReplyCache(path, "a"), ReplyCache(path, "b")
    cache.update("p", "m", reply())
    for prompt, parameters in [("p", "n"), ("q", "m"), ("pm", ""), ("", "pm")]:
        assert cache.lookup(prompt, parameters) is None
    assert other.lookup("p", "m") is None
    other.update("p", "m", reply("Sports"))
    assert text_of(cache, "p") == "World"
    assert (len(cache), len(other)) == (1, 1)
    cache.clear()
    assert (len(cache), len(other)) == (0, 1)


def test_an_empty_cache_counts_as_one(path):
    assert ReplyCache(path)


@pytest.mark.parametrize(
    "value",
    [
        reply(""),
        reply(" ", finish="length"),
        reply(finish="content_filter"),
        reply(finish=None),
        [*reply(), *reply(finish="content_filter")],
        [],
        [Generation(text="World")],
        [ChatGeneration(message=HumanMessage("World"))],
        reply(additional_kwargs={"parsed": object()}),
    ],
)
def test_what_is_no_reply_is_not_kept(path, value):
    cache = ReplyCache(path)
    cache.update("p", "m", value)
    assert cache.lookup("p", "m") is None


@pytest.mark.parametrize("finish", ["stop", "eos", "length", "max_tokens"])
def test_replies_are_kept_whole_or_cut_off(path, finish):
    cache = ReplyCache(path)
    cache.update("p", "m", reply(finish=finish))
    cache.update("p", "m", reply("newer", finish=finish))
    assert text_of(cache, "p") == "newer"


def test_strange_text_survives(path):
    odd = "\ud800 \x00 \u2028 'quoted' — 新闻"
    cache = ReplyCache(path)
    cache.update(odd, odd, reply(odd))
    assert text_of(cache, odd, odd) == odd


def test_prompts_are_not_written_down(path):
    cache = ReplyCache(path, "http://user:planted-password@host")
    cache.update("planted-prompt", "planted-parameters", reply())
    held = b"".join(f.read_bytes() for f in path.parent.iterdir())
    assert b"planted" not in held
    assert b"World" in held


def test_threads_share_one_cache(path):
    cache = ReplyCache(path)

    def work(thread):
        for i in range(50):
            cache.update(f"{thread} {i}", "m", reply(f"{thread} {i}"))
            assert text_of(cache, f"{thread} {i}") == f"{thread} {i}"

    threads = [threading.Thread(target=work, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(cache) == 800


def write_many(path, process, start):
    start.wait()
    cache = ReplyCache(path)
    for i in range(50):
        cache.update(f"{process} {i}", "m", reply())


def test_processes_make_and_fill_one_file_at_once(path):
    context = multiprocessing.get_context("fork")
    start = context.Event()
    children = [
        context.Process(target=write_many, args=(path, n, start)) for n in range(4)
    ]
    for child in children:
        child.start()
    start.set()
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0] * 4
    assert len(ReplyCache(path)) == 200


def test_a_fork_opens_the_file_for_itself(path):
    cache = ReplyCache(path)
    cache.update("before", "m", reply())
    child = multiprocessing.get_context("fork").Process(
        target=cache.update, args=("in the child", "m", reply())
    )
    child.start()
    child.join()
    assert child.exitcode == 0
    cache.update("after", "m", reply())
    assert len(cache) == 3


KILLED = """
import sys
from tests.unit.prompting.test_cache import reply
from chapterlib.prompting.cache import ReplyCache
cache = ReplyCache(sys.argv[1])
for i in range(10**9):
    cache.update(str(i), "m", reply())
    print(i, flush=True)
"""


def test_nothing_that_update_returned_from_is_lost_to_sigkill(path):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    done = [int(child.stdout.readline()) for _ in range(200)]
    os.kill(child.pid, signal.SIGKILL)
    done += [int(line) for line in child.stdout.read().split("\n")[:-1]]
    child.wait()
    cache = ReplyCache(path)
    assert all(cache.lookup(str(i), "m") for i in done)
    # At most the one that was under way when the kill came.
    assert len(cache) - len(done) in (0, 1)


def test_a_copy_by_pickle_uses_the_same_file(path):
    cache = ReplyCache(path, "a")
    cache.update("p", "m", reply())
    copy = pickle.loads(pickle.dumps(cache))
    assert text_of(copy, "p") == "World"
    assert repr(copy) == f"ReplyCache({str(path)!r})"


def test_a_refusal_is_a_reply(path):
    cache = ReplyCache(path)
    cache.update("p", "m", reply("", additional_kwargs={"refusal": "No."}))
    assert cache.lookup("p", "m")


def test_replies_of_before_are_found(path):
    # The format of the file and of the key: what was paid for stays valid.
    cache = ReplyCache(path, "a")
    cache.update("p", "m", reply())
    with closing(sqlite3.connect(path)) as database:
        ((space, prompt, kept),) = database.execute("SELECT * FROM replies").fetchall()
    assert (space.hex(), prompt.hex()) == KEYS
    assert json.loads(kept)[0]["message"]["content"] == "World"


def test_a_reply_that_cannot_be_written_is_told_of_and_not_lost(path, monkeypatch):
    cache = ReplyCache(path)
    monkeypatch.setattr("chapterlib.prompting.cache.TABLE", "CREATE nonsense")
    with pytest.warns(RuntimeWarning, match="could not be stored"):
        cache.update("p", "m", reply())


@pytest.mark.parametrize("content", [b"no database at all" * 100, None])
def test_a_file_that_is_no_cache_is_named(path, content):
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(ReplyCacheError, match=r"replies.sqlite can't be used .*delete"):
        ReplyCache(path).lookup("p", "m")


def test_a_reply_that_is_damaged_is_named(path):
    cache = ReplyCache(path)
    cache.update("p", "m", reply())
    with sqlite3.connect(path) as database:
        database.execute("UPDATE replies SET reply = '[{}]'")
    database.close()
    with pytest.raises(ReplyCacheError, match="damaged"):
        cache.lookup("p", "m")


def test_a_writer_that_meets_another_waits(path, monkeypatch):
    path.parent.mkdir()
    other = sqlite3.connect(path, check_same_thread=False)
    other.execute("CREATE TABLE t (a)")
    other.execute("BEGIN EXCLUSIVE")
    cache = ReplyCache(path)
    monkeypatch.setattr("chapterlib.prompting.cache.PATIENCE", 0.05)
    with pytest.raises(ReplyCacheError, match="locked"):
        cache.lookup("p", "m")
    monkeypatch.setattr("chapterlib.prompting.cache.PATIENCE", 60)
    threading.Timer(0.2, other.rollback).start()
    assert cache.lookup("p", "m") is None
    other.close()


def test_async_calls_work(path):
    import asyncio

    async def both():
        cache = ReplyCache(path)
        await cache.aupdate("p", "m", reply())
        return await cache.alookup("p", "m")

    assert asyncio.run(both())[0].text == "World"


def test_a_file_that_is_only_being_made_holds_no_reply(tmp_path: Path) -> None:
    (tmp_path / "replies.sqlite").touch()  # as another thread leaves it on a full disk
    cache = ReplyCache(tmp_path / "replies.sqlite")
    assert cache.lookup("prompt", "model") is None
    assert len(cache) == 0
    cache.clear()
    assert (tmp_path / "replies.sqlite").stat().st_size == 0
