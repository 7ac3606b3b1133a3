"""The lock of an inventory: what is new in it, what has moved, what could move."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.core import fs
from reconciler.core.errors import UsageError
from reconciler.fleet.project import Project, who
from reconciler.fleet.targets import resolve
from reconciler.inventory.names import did_you_mean
from reconciler.packages import lock as locks
from reconciler.packages.lock import Lock, LockEntry
from reconciler.packages.resolver import Resolver

_AT = "%Y-%m-%dT%H:%MZ"


@dataclass(frozen=True)
class Move:
    """What one reference was locked at, and what it would mean, or means, without that: None where there is none."""

    before: LockEntry | None
    after: LockEntry | None

    @property
    def entry(self) -> LockEntry:
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def moves(self) -> bool:
        """Whether it means something else, and not only since it was written at another time."""
        return _meaning(self.before) != _meaning(self.after)


@dataclass(frozen=True)
class Changes:
    """What would change in a lock."""

    moves: tuple[Move, ...]

    def __bool__(self) -> bool:
        return bool(self.moves)


def require_locked(project: Project) -> None:
    """`--locked`: UsageError when a reference that was resolved is not in the lock."""
    new = project.resolver.unlocked()
    if new:
        names = ", ".join(dict.fromkeys(entry.reference for entry in new))
        raise UsageError(
            f"{locks.FILE} does not have {names}, and --locked allows nothing new",
            "run `reconciler lock`, and keep the file with the inventory",
        )


def lock_new(project: Project) -> tuple[LockEntry, ...]:
    """Write what was resolved and is not locked yet into the lock; those entries. What is locked stays as it is, also
    what another run has locked meanwhile."""
    new = _stamped(project.resolver.unlocked())
    if not new:
        return ()
    with _held(project):
        present = locks.load(project.lock_file, str(project.lock_file))
        fresh = tuple(entry for entry in new if entry.key not in present.entries)
        if fresh:
            locks.save(present.with_entries(fresh), project.lock_file)
    return fresh


def complete(project: Project) -> Changes:
    """The lock with every reference of the whole inventory, and with no other."""
    resolver = _resolved(project, project.resolver)
    used = {entry.key: entry for entry in resolver.used()}
    new = _stamped(resolver.unlocked())
    gone = [entry for key, entry in sorted(project.lock.entries.items()) if key not in used]
    moves = [Move(None, entry) for entry in new] + [Move(entry, None) for entry in gone]
    return Changes(_sorted(moves))


def update(project: Project, names: Iterable[str]) -> Changes:
    """The lock with the references of the packages `names` (as they stand in it, or by their name alone; none: all of
    them) as they are found now."""
    keys = _keys(project.lock, tuple(names))
    resolver = _resolved(project, project.resolver_with(project.lock.without(keys)))
    found = {entry.key: entry for entry in resolver.used()}
    moves = tuple(Move(project.lock.entries[key], found.get(key)) for key in sorted(keys))
    moving = tuple(move for move in moves if move.moves)
    after = _stamped(move.after for move in moving if move.after is not None)
    stamped = {entry.key: entry for entry in after}
    told = tuple(Move(move.before, stamped.get(move.entry.key)) for move in moving)
    others = _stamped(entry for entry in resolver.unlocked() if entry.key not in keys)
    return Changes(_sorted([*told, *(Move(None, entry) for entry in others)]))


def outdated(project: Project) -> tuple[Move, ...]:
    """The entries that `update` would move; nothing is written."""
    return tuple(move for move in update(project, ()).moves if move.before is not None)


def write(project: Project, changes: Changes) -> None:
    """Make the changes in the lock as it is now: what another run has locked meanwhile stays."""
    if not changes:
        return
    with _held(project):
        present = locks.load(project.lock_file, str(project.lock_file))
        gone = [move.before.key for move in changes.moves if move.before is not None and move.after is None]
        entries = [move.after for move in changes.moves if move.after is not None]
        locks.save(present.without(gone).with_entries(entries), project.lock_file)


@contextlib.contextmanager
def _held(project: Project) -> Iterator[None]:
    """One run at a time reads the lock and writes it. What is held is its directory: nothing is left beside it, and
    another user can hold it too."""
    fd = os.open(project.lock_file.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fs.flock(fd, exclusive=True)
        yield
    finally:
        os.close(fd)


def _resolved(project: Project, resolver: Resolver) -> Resolver:
    resolve(project.inventory, resolver, tuple(project.inventory.hosts))
    python = project.settings.python
    for reference, system in project.lock.entries:
        # No host of the inventory wants it; it was locked when it was brought to one (bringing.py).
        if reference == python:
            with contextlib.suppress(UsageError):
                resolver.resolve(reference, system)
    return resolver


def _stamped(entries: Iterable[LockEntry]) -> tuple[LockEntry, ...]:
    at, by = time.strftime(_AT, time.gmtime()), who()
    return tuple(dataclasses.replace(entry, at=at, by=by) for entry in entries)


def _keys(lock: Lock, names: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    known = {reference for reference, _ in lock.entries}
    for name in names:
        if not any(name in (reference, _name(reference)) for reference in known):
            near = did_you_mean(name, sorted(known | {_name(reference) for reference in known}))
            raise UsageError(f"{locks.FILE} has no '{name}'", near or "reconciler lock --json lists what it has")
    return tuple(key for key in lock.entries if not names or {key[0], _name(key[0])} & set(names))


def _name(reference: str) -> str:
    if reference.startswith("git+"):
        return reference.rpartition("#")[0].rstrip("/").rpartition("/")[2].removesuffix(".git")
    return reference.rpartition(":")[2].partition("@")[0]


def _meaning(entry: LockEntry | None) -> tuple[object, ...]:
    return () if entry is None else (entry.set, entry.version, entry.path, entry.also)


def _sorted(moves: Iterable[Move]) -> tuple[Move, ...]:
    return tuple(sorted(moves, key=lambda move: move.entry.key))
