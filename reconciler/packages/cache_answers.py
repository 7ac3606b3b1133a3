"""What web servers' caches said of store paths, kept from one run to the next.

    $XDG_CACHE_HOME/reconciler/narinfos-1.sqlite      1: the format's number, also in `user_version`
      answers(cache, hash_part, asked, narinfo)       asked: seconds since the epoch; narinfo: NULL for "not there"

An answer counts for 30 days, a "not there" for an hour, as Nix has it; the oldest go when there is more than
MOST_BYTES. Several programs may read and write at once. It is a convenience: where the disk refuses, another program
holds it for too long, or the file is damaged, caches are asked as if there were none; a damaged one is made anew.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from reconciler.core.store.cache_memory import Remembered

FORMAT = 1
POSITIVE_SECONDS = 30 * 86_400
NEGATIVE_SECONDS = 3_600
LARGEST = 256 * 1024  # bytes of one narinfo that is kept
MOST_BYTES = 64 * 1024 * 1024
_ROW_BYTES = 100  # what a row takes beside the narinfo, about
_PATIENCE = 2.0  # seconds for another program's write
_GROUP = 64  # answers that are written together

_SCHEMA = """
create table if not exists answers (
  cache text not null, hash_part text not null, asked real not null, narinfo blob,
  primary key (cache, hash_part)
) without rowid;
pragma user_version = 1;
"""
_LOOK = "select cache, hash_part, asked, narinfo from answers limit 1"
_RECALL = """
select narinfo from answers where cache = :cache and hash_part = :hash_part
and asked <= :now and asked > :now - case when narinfo is null then :negative else :positive end
"""
_KEEP = "insert or replace into answers values (?, ?, ?, ?)"
# What is of the future is another program's of this moment, unless a clock was wrong.
_FORGET_OLD = """
delete from answers
where asked > :now + :negative or asked <= :now - case when narinfo is null then :negative else :positive end
"""
_FORGET_MOST = """
delete from answers where asked <= (
  select max(asked) from (
    select asked, sum(coalesce(length(narinfo), 0) + :row) over (order by asked desc) as size from answers
  ) where size > :most
)
"""

_Answer = tuple[str, str, float, "bytes | None"]


class CacheAnswers:
    """The answers kept in the controller's cache directory; a `Memory` (core.store.cache_memory). The file is opened at
    the first question."""

    def __init__(self, directory: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file = directory / f"narinfos-{FORMAT}.sqlite"
        self._most_bytes = most_bytes
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._usable = True
        self._waiting: list[_Answer] = []

    def recall(self, cache: str, hash_part: str) -> Remembered | None:
        """See Memory."""
        with self._guard, self._tolerant():
            connection = self._open()
            if connection is not None:
                row = connection.execute(_RECALL, {"cache": cache, "hash_part": hash_part, **_times()}).fetchone()
                return None if row is None else Remembered(row[0])
        return None

    def keep(self, cache: str, hash_part: str, data: bytes | None) -> None:
        """See Memory. Written in groups, the last when the program ends."""
        with self._guard:
            if self._usable and len(data or b"") <= LARGEST:
                self._waiting.append((cache, hash_part, time.time(), data))
                if len(self._waiting) >= _GROUP:
                    self._write()

    def close(self) -> None:
        """Write what waits; if anything was written, forget what is old or too much; let go of the file."""
        with self._guard:
            self._write()
            with self._tolerant():
                if self._connection is not None and self._connection.total_changes:
                    with self._connection:
                        self._connection.execute(_FORGET_OLD, _times())
                        self._connection.execute(_FORGET_MOST, {"row": _ROW_BYTES, "most": self._most_bytes})
            self._disconnect()

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        with self._tolerant():
            connection = self._open() if waiting else None
            if connection is not None:
                with connection:
                    connection.executemany(_KEEP, waiting)

    def _open(self) -> sqlite3.Connection | None:
        if self._connection is None and self._usable:
            atexit.register(self.close)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._connection = _connect(self._file)
            except sqlite3.OperationalError:
                raise  # it is held, or the disk refuses: nothing is wrong with it
            except sqlite3.DatabaseError:
                self._file.unlink(missing_ok=True)
                self._connection = _connect(self._file)
        return self._connection

    @contextlib.contextmanager
    def _tolerant(self) -> Iterator[None]:
        """After an error nothing is asked of the file any more in this run; a damaged one goes."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._usable = False
            self._disconnect()
            if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
                with contextlib.suppress(OSError):
                    self._file.unlink(missing_ok=True)

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            atexit.unregister(self.close)
            with contextlib.suppress(sqlite3.Error):
                connection.close()


def _connect(file: Path) -> sqlite3.Connection:
    """The database, made where there is none. DatabaseError when it is not one of this format."""
    os.close(os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    connection = sqlite3.connect(file, timeout=_PATIENCE, check_same_thread=False)
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    # What a power loss damages is made anew, and nothing is believed because it stands there.
    connection.execute("pragma synchronous = off")
    (version,) = connection.execute("pragma user_version").fetchone()
    if version == 0:
        connection.executescript(_SCHEMA)
    elif version != FORMAT:
        raise sqlite3.DatabaseError(f"format {version}")
    connection.execute(_LOOK).fetchone()


def _times() -> dict[str, float]:
    return {"now": time.time(), "negative": NEGATIVE_SECONDS, "positive": POSITIVE_SECONDS}
