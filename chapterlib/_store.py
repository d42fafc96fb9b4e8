"""A store of vectors on disk, shared by processes and safe against being killed."""

from __future__ import annotations

import hashlib
import sqlite3
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import numpy.typing as npt

Row = tuple[str, str, npt.NDArray[np.float32]]
# SQLite binds at most 999 values a statement in its oldest supported builds.
CHUNK = 900
# Computed rows go to disk at least this often: a kill costs no more.
FLUSH_SECONDS = 5.0
TABLE = (
    "CREATE TABLE IF NOT EXISTS vectors ("
    "text BLOB, kind TEXT, vector BLOB, PRIMARY KEY (text, kind))"
)


class StoreError(RuntimeError):
    """The file of a store can't be used."""


class VectorStore:
    """Vectors by text and kind, in one SQLite file that is made on first use.

    Each `put` is one transaction: after a kill the file holds every row of the calls
    that returned. Two processes may write at once. StoreError if the file is damaged;
    where it can't be written, one RuntimeWarning.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.writable = Path(path), True

    def get(
        self, texts: Sequence[str], kind: str
    ) -> dict[str, npt.NDArray[np.float32]]:
        """Vectors of one kind for those of the texts that are stored."""
        if not self.path.exists():
            return {}
        by_key = {_key(text): text for text in texts}
        keys = list(by_key)
        found = {}
        for start in range(0, len(keys), CHUNK):
            chunk = keys[start : start + CHUNK]
            marks = ",".join("?" * len(chunk))
            query = (
                f"SELECT text, vector FROM vectors WHERE kind=? AND text IN ({marks})"
            )
            rows = self._run(query, [(kind, *chunk)])
            found.update({by_key[key]: np.frombuffer(v, np.float32) for key, v in rows})
        return found

    def put(self, rows: Iterable[Row]) -> None:
        """Store (text, kind, vector) rows; rows that are there already stay."""
        values = [
            (_key(text), kind, np.asarray(vector, np.float32).tobytes())
            for text, kind, vector in rows
        ]
        if not self.writable:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._run(TABLE)
            self._run("INSERT OR IGNORE INTO vectors VALUES (?, ?, ?)", values)
        except (OSError, StoreError) as error:
            # Damaged is another matter than full, locked or read-only.
            if not isinstance(
                error.__cause__ or error, (OSError, sqlite3.OperationalError)
            ):
                raise
            self.writable = False
            warnings.warn(
                f"{self.path.parent} can't be written ({error}), so that what is "
                "computed now will be computed again next time: make room on its disk, "
                "or name another folder with CHAPTERLIB_CACHE",
                RuntimeWarning,
                stacklevel=2,
            )

    def keep(self, batches: Iterable[list[Row]]) -> Iterator[list[Row]]:
        """Pass batches of rows on, and `put` them every few seconds.

        What was passed on is stored also where the reader interrupts the work.
        """
        waiting: list[Row] = []
        written = time.monotonic()
        try:
            for rows in batches:
                waiting += rows
                if time.monotonic() - written > FLUSH_SECONDS:
                    self.put(waiting)
                    waiting, written = [], time.monotonic()
                yield rows
        finally:
            if waiting:
                self.put(waiting)

    def _run(
        self, statement: str, values: Sequence[tuple[object, ...]] = ((),)
    ) -> list[tuple[bytes, bytes]]:
        try:
            # A connection a call: it may cross threads and forks, and none stays open.
            with closing(sqlite3.connect(self.path, timeout=120)) as database, database:
                if statement.startswith("INSERT"):
                    database.executemany(statement, values)
                    return []
                return database.execute(statement, values[0]).fetchall()
        except sqlite3.Error as error:
            if "no such table" in str(error):  # of a file that was just made
                return []
            raise StoreError(
                f"the store {self.path} can't be used ({error}): if it is damaged, "
                "delete it, and it is computed anew"
            ) from error


def _key(text: str) -> bytes:
    data = text.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=16).digest()
