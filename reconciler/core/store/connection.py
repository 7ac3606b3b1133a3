"""The connection to a store's database: opened at the first question, one transaction a change, durable when it ends.

Nix's own processes may have it open at the same time (write-ahead log; we wait BUSY seconds for a writer).
"""

from __future__ import annotations

import contextlib
import os
from _thread import RLock  # threading's, without what that imports, for which a probe would wait
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.store import schema

if TYPE_CHECKING:
    import sqlite3

BUSY = 120.0  # seconds


class Connection:
    """One connection, shared by the threads of a process. StoreError for whatever SQLite reports."""

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(state_dir, "db")
        self._file = os.path.join(self._directory, "db.sqlite")
        self._schema = os.path.join(self._directory, "schema")
        self._big_lock = fs.FileLock(os.path.join(self._directory, "big-lock"))
        self._guard = RLock()
        self._connection: sqlite3.Connection | None = None
        self._process = 0

    @property
    def exists(self) -> bool:
        return os.path.exists(self._file)

    def create(self) -> None:
        """Make the tables and the schema file unless they are there."""
        if self.exists and os.path.exists(self._schema):
            return
        with self._guard:
            self._big_lock.acquire(exclusive=True)
            try:
                if not os.path.exists(self._schema):
                    with self.errors(), contextlib.closing(_connect(self._file)) as connection:
                        _configure(connection)
                        connection.executescript(schema.TABLES)
                    fs.remove_temporaries(self._directory, (os.path.basename(self._schema),))
                    fs.replace_file(self._schema, schema.SCHEMA_VERSION)
            finally:
                self._big_lock.release()

    def close(self) -> None:
        with self._guard:
            self._disown()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            self._big_lock.release()

    def _disown(self) -> None:
        """A connection that came along through fork is the parent's: SQLite wants it neither used nor closed here."""
        if self._connection is not None and self._process != os.getpid():
            _inherited.append(self._connection)
            self._connection = None

    def _opened(self) -> sqlite3.Connection:
        self._disown()
        if self._connection is not None:
            return self._connection
        self._check_version()
        try:
            self._big_lock.acquire(exclusive=False)
            connection = _connect(self._file)
            _configure(connection)
        except PermissionError:
            connection = self._read_only()
        self._connection, self._process = connection, os.getpid()
        return connection

    def _check_version(self) -> None:
        try:
            with open(self._schema, "rb") as file:
                version = file.read(32)
        except FileNotFoundError:
            raise StoreError(f"{self._directory}: no store database") from None
        if version == schema.SCHEMA_VERSION:
            return
        if version.isdigit() and int(version) > int(schema.SCHEMA_VERSION):
            raise StoreError(
                f"{self._schema}: the store has schema {int(version)}, which is newer than this program",
                hint=f"schema {schema.SCHEMA_VERSION.decode()} is the newest known",
            )
        raise StoreError(f"{self._schema}: {version!r} is no schema that can be used", hint="Nix can upgrade it")

    def _read_only(self) -> sqlite3.Connection:
        """For whoever may not write: as it is, or, where nobody has it open, as a file that does not change."""
        import sqlite3
        from urllib.parse import quote

        for option in ("mode=ro", "mode=ro&immutable=1"):
            connection = sqlite3.connect(
                f"file:{quote(self._file)}?{option}",
                uri=True,
                timeout=BUSY,
                isolation_level=None,
                check_same_thread=False,
            )
            try:
                connection.execute("select count(*) from sqlite_master").fetchone()
            except sqlite3.OperationalError:
                connection.close()
                continue
            return connection
        raise StoreError(f"{self._file}: cannot be read")

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        import sqlite3

        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(f"{self._file}: {error}") from error

    @contextlib.contextmanager
    def used(self) -> Iterator[sqlite3.Connection]:
        with self._guard, self.errors():
            yield self._opened()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with self.used() as connection:
            connection.execute("begin immediate")
            try:
                yield connection
                connection.execute("commit")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("rollback")
                raise


_inherited: list[sqlite3.Connection] = []


def _connect(file: str) -> sqlite3.Connection:
    import sqlite3

    if os.path.exists(file) and not os.access(file, os.W_OK):
        raise PermissionError(file)
    # Transactions are begun and ended by hand; threads are kept apart by Connection._guard.
    return sqlite3.connect(file, timeout=BUSY, isolation_level=None, check_same_thread=False)


def _configure(connection: sqlite3.Connection) -> None:
    connection.execute("pragma journal_mode = wal").fetchone()
    connection.execute("pragma synchronous = full")
    connection.execute("pragma foreign_keys = 1")
