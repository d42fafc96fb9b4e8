"""Replies of chat models, kept so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration

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
            return [_read(kept) for kept in json.loads(found[0])]
        except (ValueError, TypeError, KeyError) as error:
            raise ReplyCacheError(
                self._advice(f"a reply in it is damaged: {error}")
            ) from error

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep a reply, if it is whole and can be written down."""
        if not return_val or not all(_is_whole(g) for g in return_val):
            return
        try:
            reply = json.dumps([_write(g) for g in return_val])
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


def _write(generation: Any) -> dict[str, Any]:
    message = generation.message
    kept = {name: getattr(message, name) for name in KEPT}
    return {"message": kept, "info": generation.generation_info}


def _read(kept: dict[str, Any]) -> ChatGeneration:
    fields = kept["message"]
    metadata = {**fields["response_metadata"], "cached": True}
    message = AIMessage(**{**fields, "response_metadata": metadata})
    return ChatGeneration(message=message, generation_info=kept["info"])
