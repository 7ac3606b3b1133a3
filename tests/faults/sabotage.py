"""What is taken out of the program, in the tried process alone, to show that the sweeps see that it is missing."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from reconciler.core import fs
from reconciler.core.profile.generations import Generations
from reconciler.core.store import connection
from reconciler.core.store.batch import Batch
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from tests.faults.child import Operate


def _no_fsync() -> None:
    def nothing(fd: int) -> None:
        pass

    for name in ("fsync", "fdatasync"):
        setattr(os, name, nothing)


def _no_syncfs() -> None:
    def nothing(fd: int) -> None:
        pass

    setattr(fs, "syncfs", nothing)  # noqa: B010  (mypy knows no other way to replace a function)


def _no_database_sync() -> None:
    def careless(database: sqlite3.Connection) -> None:
        database.execute("pragma journal_mode = wal").fetchone()
        database.execute("pragma synchronous = off")
        database.execute("pragma foreign_keys = 1")

    setattr(connection, "_configure", careless)  # noqa: B010


def _no_sync_at_all() -> None:
    _no_fsync()
    _no_syncfs()
    _no_database_sync()


def _rows_first() -> None:
    """Paths are registered before their files are there."""
    add = Batch.add_nar

    def hasty(self: Batch, info: PathInfo, stream: Any) -> bool:
        self._store._database.register([info], {})
        return add(self, info, stream)

    def never(self: Batch, path: object) -> bool:
        return False

    setattr(Batch, "add_nar", hasty)  # noqa: B010
    setattr(Store, "is_valid", never)  # noqa: B010


def _no_rename() -> None:
    """A profile is switched by taking the old link away and making a new one."""

    def careless(self: Generations, target: str) -> None:
        self.remove_link()
        os.symlink(target, self.name, dir_fd=self.directory)

    setattr(Generations, "point_at", careless)  # noqa: B010


def _no_tidying() -> None:
    """A link that cannot be replaced leaves its temporary name behind."""
    unlink = os.unlink

    def careless(path: Any, **where: Any) -> None:
        if not fs._TEMPORARY.fullmatch(os.path.basename(path)):
            unlink(path, **where)

    setattr(os, "unlink", careless)  # noqa: B010


SABOTAGES: Mapping[str, Callable[[], None]] = {
    "fsync": _no_fsync,
    "syncfs": _no_syncfs,
    "database-sync": _no_database_sync,
    "every-sync": _no_sync_at_all,
    "files-before-rows": _rows_first,
    "rename": _no_rename,
    "tidying": _no_tidying,
}


def sabotaged(operate: Operate, names: Iterable[str]) -> Operate:
    """`operate` without what `names` say. To be called in a process that ends with it."""
    chosen = [SABOTAGES[name] for name in names]

    def without(root: str) -> None:
        for take_out in chosen:
            take_out()
        operate(root)

    return without
