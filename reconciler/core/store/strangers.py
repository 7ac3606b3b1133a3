"""Entries of the store directory that are registered nowhere, and which of them somebody is at work on.

A path that is being added is not registered yet. It is told from garbage as a collector tells it: its process keeps it
by a temporary root, or holds its lock. What a running collection is about to delete has lost its registration already.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import HASH_PART_LENGTH, StorePath
from reconciler.core.store import links

if TYPE_CHECKING:
    from reconciler.core.store.store import Store

_AT_ONCE = 500
_SETTLE = 0.1  # seconds after which a name that is there for a moment (an optimiser's) is gone
_PATIENCE = 5.0  # seconds that a collection may take before its garbage is left to it


def strangers(store: Store) -> list[str]:
    """The names of what lies in the store directory, is registered nowhere and kept by nobody: garbage."""
    suspects = list(_unregistered(store, _entries(store)))
    if not suspects:
        return []
    time.sleep(_SETTLE)
    with _no_collection(store) as none_runs:
        if not none_runs:
            return []
        # In this order: whoever is seen to keep nothing any more has registered what it added.
        live = _temporary_roots(store)
        left = [name for name in suspects if not _is_at_work(store, name, live)]
        return sorted(_unregistered(store, left))


def _entries(store: Store) -> Iterator[str]:
    with os.scandir(store.store_dir) as entries:
        for entry in entries:
            if entry.name != links.DIRECTORY:
                yield entry.name


def _unregistered(store: Store, names: Iterable[str]) -> Iterator[str]:
    """Those of `names` that are not valid paths; asked in groups."""
    group: dict[str, StorePath | None] = {}
    for name in names:
        group[name] = _path(name)
        if len(group) == _AT_ONCE:
            yield from _not_valid(store, group)
            group.clear()
    yield from _not_valid(store, group)


def _not_valid(store: Store, group: dict[str, StorePath | None]) -> list[str]:
    valid = store.valid(path for path in group.values() if path is not None)
    return [name for name, path in group.items() if path not in valid]


def _path(name: str) -> StorePath | None:
    try:
        return StorePath.from_base_name(name)
    except FormatError:
        return None


@contextlib.contextmanager
def _no_collection(store: Store) -> Iterator[bool]:
    """Keep collections out while this lasts; False when one runs and does not end soon. Who may not lock goes on."""
    lock = fs.FileLock(os.path.join(store.state_dir, "gc.lock"))
    try:
        yield _kept_out(lock)
    finally:
        lock.release()


def _kept_out(lock: fs.FileLock) -> bool:
    deadline = time.monotonic() + _PATIENCE
    try:
        while not lock.acquire(exclusive=False, wait=False):
            if time.monotonic() > deadline:
                return False
            time.sleep(_SETTLE)
    except OSError:
        pass
    return True


def _temporary_roots(store: Store) -> set[str]:
    """The hash parts of what living processes keep. A file that nobody holds locked is a dead process's."""
    directory = os.path.join(store.state_dir, "temproots")
    live: set[str] = set()
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        file = os.path.join(directory, name)
        try:
            if not _is_locked(file):
                continue
            with open(file, "rb") as opened:
                roots = opened.read().split(b"\0")
        except OSError:
            continue
        live.update(os.path.basename(root)[:HASH_PART_LENGTH].decode(errors="replace") for root in roots if root)
    return live


def _is_at_work(store: Store, name: str, live: set[str]) -> bool:
    if name[:HASH_PART_LENGTH] in live:
        return True
    entry = os.path.join(store.store_dir, name)
    # Also when it is gone by now. A build's own directories are locked themselves.
    return not os.path.lexists(entry) or _is_locked(entry) or _is_locked(f"{entry}.lock")


def _is_locked(file: str) -> bool:
    """Whether a process holds the file or directory locked for itself, or, of a temporary root, at all."""
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not fs.flock(fd, exclusive=True, wait=False)
    except OSError:
        return False
    finally:
        os.close(fd)
