"""Replies of chat models, kept so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.globals import get_llm_cache
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration, Generation
from langchain_core.runnables import Runnable, RunnableSerializable

from chapterlib.prompting.budget import Call, Meter

# Finish reasons of whole replies: OpenAI's, Together's, and a call of a tool.
WHOLE = frozenset({"stop", "eos", "tool_calls"})
# Fields of a message that make up the reply.
KEPT = (
    "content",
    "additional_kwargs",
    "response_metadata",
    "usage_metadata",
    "tool_calls",
    "id",
)
PATIENCE = 60.0  # seconds to wait for another process that writes
T = TypeVar("T")


class ReplyCacheError(RuntimeError):
    """The file of the reply cache can't be used."""


class ReplyCache(BaseCache):
    """Replies by prompt and parameters, in one SQLite file for all processes.

    A reply is on disk when `update` returns: a process that is killed afterwards has
    lost nothing. Prompts are kept as hashes only. A reply that was cut off is not kept.

    Parameters
    ----------
    path : path
        The file, made on first use together with its folder.
    namespace : str
        Whose replies these are, the endpoint: LangChain's key names only the model.

    Raises
    ------
    ReplyCacheError
        If the file is no cache, is damaged or can't be written; the message names it.

    Notes
    -----
    A message out of the cache has ``response_metadata["cached"]`` set to True; its
    token counts are those of the reply that was paid for.
    """

    def __init__(self, path: str | Path, namespace: str = "") -> None:
        self.path, self.namespace = Path(path), namespace
        self._space = _digest(namespace)
        self._lock = threading.Lock()
        self._database: sqlite3.Connection | None = None
        self._owner = 0
        self._inherited: list[sqlite3.Connection] = []

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the reply that was kept, or None."""
        key = (self._space, _digest(prompt, llm_string))
        found = self._run(
            lambda database: database.execute(
                "SELECT reply FROM replies WHERE space = ? AND prompt = ?", key
            ).fetchone()
        )
        if found is None:
            return None
        try:
            return [_from_json(kept) for kept in json.loads(found[0])]
        except (ValueError, TypeError, KeyError) as error:
            raise ReplyCacheError(
                self._advice(f"a reply in it is damaged: {error}")
            ) from error

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep a reply, if it is whole and can be written down."""
        if not return_val or not all(_is_whole(g) for g in return_val):
            return
        try:
            reply = json.dumps([_as_json(g) for g in return_val])
        except (TypeError, ValueError):
            return  # holds an object that was parsed out of it
        row = (self._space, _digest(prompt, llm_string), reply)

        def insert(database: sqlite3.Connection) -> None:
            with database:
                database.execute("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", row)

        self._run(insert)

    def clear(self, **kwargs: Any) -> None:
        """Forget all replies of this namespace."""

        def delete(database: sqlite3.Connection) -> None:
            with database:
                database.execute("DELETE FROM replies WHERE space = ?", (self._space,))

        self._run(delete)

    def __len__(self) -> int:
        """Count the replies of this namespace."""
        count = "SELECT count(*) FROM replies WHERE space = ?"
        return self._run(lambda d: d.execute(count, (self._space,)).fetchone()[0])

    def __bool__(self) -> bool:
        """Be true when empty, too: LangChain asks whether there is a cache."""
        return True

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._database is not None and self._owner == os.getpid():
                self._database.close()
            self._database = None

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "namespace": self.namespace}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def __repr__(self) -> str:
        return f"ReplyCache({str(self.path)!r})"

    def __del__(self) -> None:
        database = getattr(self, "_database", None)
        if database is not None and self._owner == os.getpid():
            database.close()

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        # One connection behind a lock: the work takes less time than opening another.
        with self._lock:
            try:
                return work(self._opened())
            except (sqlite3.Error, OSError) as error:
                raise ReplyCacheError(self._advice(str(error))) from error

    def _opened(self) -> sqlite3.Connection:
        if self._database is not None and self._owner == os.getpid():
            return self._database
        if self._database is not None:
            # A fork's copy: SQLite forbids both its use and its end in the child.
            self._inherited.append(self._database)
            self._database = None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=PATIENCE, check_same_thread=False)
        try:
            _switch_to_wal(database)
            # A kill of the process loses nothing with NORMAL; a power cut may lose
            # the last replies, and never damages the file.
            database.execute("PRAGMA synchronous = NORMAL")
            database.execute(
                "CREATE TABLE IF NOT EXISTS replies (space BLOB, prompt BLOB, "
                "reply TEXT, PRIMARY KEY (space, prompt)) WITHOUT ROWID"
            )
        except BaseException:
            database.close()
            raise
        self._database, self._owner = database, os.getpid()
        return database

    def _advice(self, cause: str) -> str:
        return (
            f"the reply cache {self.path} can't be used ({cause}): free its disk if it "
            "is full, delete the file if it is damaged, or name another folder with "
            "CHAPTERLIB_CACHE"
        )


def _switch_to_wal(database: sqlite3.Connection) -> None:
    """Let readers go on while one writes; where the disk can't, go on without."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The switch does not wait for another process that makes it, too.
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)
        else:
            return


def _digest(*parts: str) -> bytes:
    joined = json.dumps(parts).encode()
    return hashlib.blake2b(joined, digest_size=16).digest()


def _is_whole(generation: Any) -> bool:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return False
    info = {**(generation.generation_info or {}), **message.response_metadata}
    return info.get("finish_reason") in WHOLE


def _as_json(generation: Any) -> dict[str, Any]:
    message = generation.message
    kept = {name: getattr(message, name) for name in KEPT}
    return {"message": kept, "info": generation.generation_info}


def _from_json(kept: dict[str, Any]) -> ChatGeneration:
    fields = kept["message"]
    metadata = {**fields["response_metadata"], "cached": True}
    message = AIMessage(**{**fields, "response_metadata": metadata})
    return ChatGeneration(message=message, generation_info=kept["info"])


# Replies that were cut off are kept under a key of their own.
CUT_OFF = "\ncut off"
# What marks them there: caches look at the reason alone.
CUT = {"finish_reason": "stop", "cut_off": True}


class MeteredCache(BaseCache):
    """Stands between a chat model and its cache, and meters what is not cached.

    LangChain looks a request up right before it sends it: on a miss the budget is
    asked first. A reply that was cut off by the token limit is paid for like any other;
    a shared cache refuses it, for it is no full answer. It is stored here under a key
    that other callers never look up, so that an interrupted run does not ask again.

    Parameters
    ----------
    inner : BaseCache or None
        Where replies are kept; None: nowhere.
    meter : Meter
        Its `call` is the request of the thread that looks up or updates.
    """

    def __init__(self, inner: BaseCache | None, meter: Meter) -> None:
        self.inner = inner
        self.meter = meter

    def lookup(self, prompt: str, llm_string: str) -> Sequence[Generation] | None:
        """Find a reply; without one, set aside what the request may take."""
        call = self.meter.call
        found = None
        if call is not None:
            call.key = prompt, llm_string
        if self.inner is not None:
            try:
                found = self.inner.lookup(prompt, llm_string)
                if found is None:
                    found = self.inner.lookup(prompt, llm_string + CUT_OFF)
            except Exception as error:
                if call is not None:
                    call.cache_error = error
                raise
        if call is not None:
            call.cached = found is not None
            if found is None:
                self.meter.reserve(call)
        return found

    def update(
        self, prompt: str, llm_string: str, return_val: Sequence[Generation]
    ) -> None:
        """Keep a reply; a cache that can't must not lose what was paid for."""
        if self.inner is None:
            return
        kept, key = list(return_val), llm_string
        if _finish_reason(kept) in ("length", "max_tokens"):
            kept, key = [_as_whole(generation) for generation in kept], key + CUT_OFF
        try:
            self.inner.update(prompt, key, kept)
        except Exception as error:
            warnings.warn(
                f"a reply could not be stored ({error}): if this run is interrupted, "
                "it will be asked for and paid for again",
                RuntimeWarning,
                stacklevel=2,
            )

    def skip(self, call: Call) -> None:
        """Note that a request need not be sent again, though no reply came to it.

        Its articles were answered one by one since: in a later run it has a reply
        without entries, from which the same single requests follow, replies and all.
        """
        if call.key is not None:
            prompt, llm_string = call.key
            said = AIMessage('{"results": []}', response_metadata=CUT)
            self.update(prompt, llm_string + CUT_OFF, [ChatGeneration(message=said)])

    def clear(self, **kwargs: Any) -> None:
        """Clear the cache behind this one."""
        if self.inner is not None:
            self.inner.clear(**kwargs)


def metered(llm: Runnable, meter: Meter) -> Runnable | None:
    """Copy a chat model, with its requests on a meter.

    Parameters
    ----------
    llm : Runnable
        A chat model, or one with bound arguments, retries or the like around it.
    meter : Meter

    Returns
    -------
    Runnable or None
        None if there is no chat model inside. The original is not changed.
    """
    if isinstance(llm, BaseChatModel):
        inner = llm.cache if isinstance(llm.cache, BaseCache) else None
        if llm.cache in (None, True):
            inner = get_llm_cache()
        return llm.model_copy(update={"cache": MeteredCache(inner, meter)})
    bound = _inner(llm)
    copy = metered(bound, meter) if isinstance(bound, Runnable) else None
    return None if copy is None else llm.model_copy(update={"bound": copy})  # type: ignore[attr-defined]


def chat_model_in(llm: Runnable) -> BaseChatModel | None:
    """Find the chat model under bound arguments, retries and the like."""
    *_, last = _layers(llm)
    return last if isinstance(last, BaseChatModel) else None


def longest_reply(llm: Runnable) -> int | None:
    """Tokens that a reply may have, by bound arguments or the model's own field."""
    for layer in _layers(llm):
        bound = getattr(layer, "kwargs", None) or {}
        limit = bound.get("max_tokens") or getattr(layer, "max_tokens", None)
        if limit is not None:
            return int(limit)
    return None


def _layers(llm: Runnable) -> Iterator[Runnable]:
    """Yield a runnable and what it is wrapped around, the innermost last."""
    layer: Any = llm
    while isinstance(layer, Runnable):
        yield layer
        layer = None if isinstance(layer, BaseChatModel) else _inner(layer)


def _inner(llm: Runnable) -> Any:
    return (
        getattr(llm, "bound", None) if isinstance(llm, RunnableSerializable) else None
    )


def _finish_reason(generations: Sequence[Generation]) -> str | None:
    for generation in generations:
        if isinstance(generation, ChatGeneration):
            said = generation.message.response_metadata.get("finish_reason")
            return str(said) if said else None
    return None


def _as_whole(generation: Generation) -> Generation:
    """Mark a reply as cut off elsewhere than in the field that caches look at."""
    if not isinstance(generation, ChatGeneration):
        return generation
    message = generation.message
    return ChatGeneration(
        message=AIMessage(
            content=message.content,
            additional_kwargs=message.additional_kwargs,
            response_metadata={**message.response_metadata, **CUT},
            usage_metadata=getattr(message, "usage_metadata", None),
        ),
        generation_info={**(generation.generation_info or {}), **CUT},
    )
