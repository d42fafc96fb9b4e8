"""Replies of chat models, kept so that nothing is paid for twice."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import warnings
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from langchain_core.caches import RETURN_VAL_TYPE, BaseCache
from langchain_core.messages import AIMessage
from langchain_core.outputs import ChatGeneration

# Finish reasons: OpenAI's, Together's, a call of a tool, and of what was cut off, which
# the same request would bring again.
KEPT = frozenset({"stop", "eos", "tool_calls", "length", "max_tokens"})
# Fields of a message that make up the reply.
FIELDS = (
    *("content", "additional_kwargs", "response_metadata"),
    *("usage_metadata", "tool_calls", "id"),
)
PATIENCE = 60.0  # seconds to wait for another process that writes
TABLE = (
    "CREATE TABLE IF NOT EXISTS replies (space BLOB, prompt BLOB, reply TEXT, "
    "PRIMARY KEY (space, prompt)) WITHOUT ROWID"
)


class ReplyCacheError(RuntimeError):
    """The file of the reply cache can't be used."""


class ReplyCache(BaseCache):
    """Replies by prompt and parameters, in one SQLite file for all processes.

    A reply is on disk when `update` returns: a process that is killed afterwards has
    lost nothing. Prompts are kept as hashes only. A reply that was cut off at
    `max_tokens` is kept, for that is part of the key; an empty one is not. A message
    out of the cache has ``response_metadata["cached"]`` set to True.

    Parameters
    ----------
    path : path
        The file, made on first use together with its folder. ReplyCacheError if it is
        damaged; where it can't be written, a RuntimeWarning and the reply.
    namespace : str
        Whose replies these are, the endpoint: LangChain's key names only the model.
    """

    def __init__(self, path: str | Path, namespace: str = "") -> None:
        self.path, self.namespace = Path(path), namespace
        self._space = _digest(namespace)

    def lookup(self, prompt: str, llm_string: str) -> RETURN_VAL_TYPE | None:
        """Return the reply that was kept, or None."""
        found = self._run(
            "SELECT reply FROM replies WHERE space = ? AND prompt = ?",
            (self._space, _digest(prompt, llm_string)),
        )
        if not found:
            return None
        try:
            return [_from_json(kept) for kept in json.loads(found[0][0])]
        except (ValueError, TypeError, KeyError) as error:
            raise self._error(f"a reply in it is damaged: {error}") from error

    def update(self, prompt: str, llm_string: str, return_val: RETURN_VAL_TYPE) -> None:
        """Keep a reply, if there is something in it and it can be written down."""
        if not return_val or not all(map(_is_reply, return_val)):
            return
        try:
            reply = json.dumps([_as_json(g) for g in return_val])
        except (TypeError, ValueError):
            return  # holds an object that was parsed out of it
        row = (self._space, _digest(prompt, llm_string), reply)
        try:
            self._run("INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", row)
        except ReplyCacheError as error:
            warnings.warn(
                f"a reply could not be stored ({error}): if this run is interrupted, "
                "it will be asked for and paid for again",
                RuntimeWarning,
                stacklevel=2,
            )

    def clear(self, **kwargs: Any) -> None:
        """Forget all replies of this namespace."""
        self._run("DELETE FROM replies WHERE space = ?", (self._space,))

    def __len__(self) -> int:
        """Count the replies of this namespace."""
        count = "SELECT count(*) FROM replies WHERE space = ?"
        found = self._run(count, (self._space,))
        return int(found[0][0]) if found else 0

    def __bool__(self) -> bool:
        """Be true when empty, too: LangChain asks whether there is a cache."""
        return True

    def __repr__(self) -> str:
        return f"ReplyCache({str(self.path)!r})"

    def _run(self, statement: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        # Only keeping makes a file: reading works where nothing can be written.
        writes = statement.startswith("INSERT")
        if not writes and not self.path.exists():
            return []
        try:
            if writes:
                self.path.parent.mkdir(parents=True, exist_ok=True)
            # A connection a call: it may cross threads and forks, and none stays open.
            connection = sqlite3.connect(self.path, timeout=PATIENCE)
            with closing(connection) as database, database:
                if writes:
                    database.execute(TABLE)
                return database.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            if "no such table" in str(error):  # another is just making the file
                return []
            raise self._error(str(error)) from error

    def _error(self, cause: str) -> ReplyCacheError:
        return ReplyCacheError(
            f"the reply cache {self.path} can't be used ({cause}): free its disk if it "
            "is full, delete the file if it is damaged, or name another folder with "
            "CHAPTERLIB_CACHE"
        )


def _digest(*parts: str) -> bytes:
    joined = json.dumps(parts).encode()
    return hashlib.blake2b(joined, digest_size=16).digest()


def _is_reply(generation: Any) -> bool:
    message = getattr(generation, "message", None)
    if not isinstance(message, AIMessage):
        return False
    info = {**(generation.generation_info or {}), **message.response_metadata}
    return says_something(message) and info.get("finish_reason") in KEPT


def says_something(message: Any) -> bool:
    """Whether a message holds an answer: words, a call of a tool, or a refusal."""
    refusal = message.additional_kwargs.get("refusal")
    return bool(str(message.text).strip() or message.tool_calls or refusal)


def _as_json(generation: Any) -> dict[str, Any]:
    message = generation.message
    kept = {name: getattr(message, name) for name in FIELDS}
    return {"message": kept, "info": generation.generation_info}


def _from_json(kept: dict[str, Any]) -> ChatGeneration:
    fields = kept["message"]
    metadata = {**fields["response_metadata"], "cached": True}
    message = AIMessage(**{**fields, "response_metadata": metadata})
    return ChatGeneration(message=message, generation_info=kept["info"])
