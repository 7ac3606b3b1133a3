"""Garbage collection: what no root keeps is deleted, by the protocol of Nix's own collector.

1. gc.lock is taken exclusively (another collection is waited for), and roots are heard of over the socket from then on.
2. Roots are found, and what they keep (`live`, `gc_mark`).
3. The rest goes in batches, referrers before what they refer to. What is rooted meanwhile, or has become a reference
   of something new, is left. First the rows of a batch, in one durable transaction; then the files, path by path.
   Whoever roots a path of the batch is answered when its files are gone, and then finds it not valid.
4. Entries of `.links` that nothing shares any more go too.

Killed at any step it leaves valid paths whole, and files that are registered nowhere to the next collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Callable, Optional

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.store import gc_mark, gc_socket
from reconciler.core.store.gc_files import Deleter, check_writable, measure
from reconciler.core.store.gc_mark import Marked
from reconciler.core.store.gc_socket import Kept
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.store.store import Store

_AT_ONCE = 256  # paths whose rows go in one transaction
_BYTES_AT_ONCE = 1 << 30  # and not more than this to delete, for whoever waits for one of them
# Nix keeps so much of the disk taken, and frees it when it collects: a full disk could not be cleared otherwise.
_RESERVED = 8 << 20


@value
class GcOptions:
    """What a collection deletes.

    `max_freed`: stop once more than so many bytes are freed. `keep_derivations`: a live path keeps the derivation that
    made it. `keep_outputs`: a live derivation keeps what it makes. `without`: only in a dry run, names of roots (as
    `find_roots` has them) that are taken to be gone.
    """

    dry_run: bool = False
    max_freed: int | None = None
    keep_derivations: bool = True
    keep_outputs: bool = False
    without: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.without and not self.dry_run:
            raise ValueError("roots can be passed over in a dry run only")


@value
class GcResult:
    """What a collection deleted, or in a dry run would delete.

    `deleted` are base names in the order of deletion. `freed` is in bytes of file contents; a file with other names
    that stay frees nothing. `kept` is the number of live paths.
    """

    deleted: tuple[str, ...]
    freed: int
    kept: int


@value
class GcEvent:
    """One step of a collection; `path` is a base name, `freed` the bytes that this step freed.

    `waiting` (for another collection; `path` is the lock), `deleted` (in a dry run: would be), `kept` (it was garbage,
    and has become needed meanwhile), `failed` (its files cannot be removed).
    """

    kind: str
    path: str
    freed: int = 0


OnGcEvent = Optional[Callable[[GcEvent], None]]


def collect(store: Store, options: GcOptions, on_event: OnGcEvent = None) -> GcResult:
    """Delete what no root keeps, and say what that was.

    Waits while another collection runs. StoreError when the store cannot be written to; and at the end, when files of
    dead paths could not be removed: those are registered no more, and all else is done.
    """
    tell = on_event or _ignore
    with _disk(store):
        reserved = os.path.join(store.state_dir, "db/reserved")
        if not options.dry_run:
            # Before any row goes: files that cannot be deleted would all be left behind.
            check_writable(store.store_dir)
            with contextlib.suppress(FileNotFoundError):
                os.unlink(reserved)
        with _alone(store, tell) as kept:
            marked, temporary = gc_mark.mark(
                store, options.keep_derivations, options.keep_outputs, not options.dry_run, options.without
            )
            for part in temporary:
                kept.root(part)
            if options.dry_run:
                return _told(store, marked, tell)
            result, failed = _Sweep(store, marked, kept, options.max_freed, tell).run()
        _reserve(reserved)
    if failed:
        others = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise StoreError(
            f"{store.store_dir}/{failed[0]}{others}: not removed (but {len(result.deleted)} others were)",
            "they are not valid any more; `lsattr -R` shows immutable files, `findmnt -R` what is mounted inside",
        )
    return result


def _ignore(_: GcEvent) -> None:
    pass


@contextlib.contextmanager
def _disk(store: Store) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{error.filename or store.store_dir}: {error.strerror or error}") from error


@contextlib.contextmanager
def _alone(store: Store, tell: Callable[[GcEvent], None]) -> Iterator[Kept]:
    """Be the only collection; new temporary roots are in what this gives."""
    gc_socket.prepare(store.state_dir)
    lock = fs.FileLock(os.path.join(store.state_dir, "gc.lock"))
    if not lock.acquire(wait=False):
        tell(GcEvent("waiting", lock.path))
        lock.acquire()
    kept = Kept()
    with lock, gc_socket.listening(store.state_dir, kept):
        yield kept


def _reserve(file: str) -> None:
    """Take the room again that the collection had let go; it is no fault when there is none."""
    with contextlib.suppress(OSError):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, _RESERVED)
        finally:
            os.close(fd)


def _told(store: Store, marked: Marked, tell: Callable[[GcEvent], None]) -> GcResult:
    freed = 0
    with store.directory() as store_fd:
        for name, size in measure(marked.dead, store_fd):
            freed += size
            tell(GcEvent("deleted", name, size))
    return GcResult(tuple(marked.dead), freed, len(marked.alive))


class _Sweep:
    def __init__(
        self, store: Store, marked: Marked, kept: Kept, max_freed: int | None, tell: Callable[[GcEvent], None]
    ) -> None:
        self._store = store
        self._marked = marked
        self._kept = kept
        self._max_freed = max_freed
        self._tell = tell
        self._deleted: list[str] = []
        self._failed: list[str] = []

    def run(self) -> tuple[GcResult, list[str]]:
        with self._store.directory() as store_fd:
            deleter = Deleter(store_fd)
            for names in (self._marked.unregistered, self._marked.registered):
                for batch in self._batches(names, deleter):
                    self._batch(batch, deleter)
            deleter.remove_unused_links()
        return GcResult(tuple(self._deleted), deleter.freed, len(self._marked.alive)), self._failed

    def _batch(self, batch: list[str], deleter: Deleter) -> None:
        claimed, news = self._kept.claim(batch)
        waiting = set(claimed)
        try:
            revived = self._spare(self._marked.revive(news), waiting)
            gone = self._unregister([name for name in claimed if name not in revived])
            self._spare(self._marked.keep(waiting - set(gone)), waiting)
            for name in gone:
                self._marked.gone.add(name)
                self._delete(name, deleter)
                self._release(name, waiting)
        finally:
            for name in list(waiting):
                self._release(name, waiting)

    def _batches(self, dead: list[str], deleter: Deleter) -> Iterator[list[str]]:
        """What is still dead, a batch at a time; never more than may be freed yet, as far as can be told before."""
        start = 0
        while start < len(dead):
            room = _BYTES_AT_ONCE
            if self._max_freed is not None:
                room = min(room, self._max_freed - deleter.freed)
                if room < 0 or self._max_freed == 0:
                    return
            batch: list[str] = []
            while start < len(dead) and len(batch) < _AT_ONCE and (not batch or room > 0):
                name = dead[start]
                # The size of what is not registered is not known.
                room -= self._marked.keeping.sizes.get(name, 0 if self._max_freed is None else room + 1)
                if batch and room < 0:
                    break
                start += 1
                if name not in self._marked.alive:
                    batch.append(name)
            yield batch

    def _spare(self, revived: set[str], waiting: set[str]) -> set[str]:
        """Leave what has become needed."""
        for name in sorted(revived):
            self._tell(GcEvent("kept", name))
            self._release(name, waiting)
        return revived

    def _release(self, name: str, waiting: set[str]) -> None:
        if name in waiting:
            waiting.discard(name)
            self._kept.done(name)

    def _unregister(self, names: Sequence[str]) -> list[str]:
        """Of `names`, those that are not valid afterwards. The transaction is durable when this returns."""
        sizes = self._marked.keeping.sizes
        # A name with other characters, which need not be text at all, cannot be that of a valid path.
        full = {name: f"{STORE_DIR}/{name}" for name in names if name.isascii()}
        valid = [path for name, path in full.items() if name in sizes]
        gone = self._store.unregister(valid, [path for name, path in full.items() if name not in sizes])
        return [name for name in names if full.get(name) in gone or name not in full]

    def _delete(self, name: str, deleter: Deleter) -> None:
        before = deleter.freed
        try:
            if not deleter.delete(name):
                return
        except OSError as error:
            self._failed.append(f"{name}: {error.strerror or error}")
            self._tell(GcEvent("failed", name, deleter.freed - before))
            return
        self._deleted.append(name)
        self._tell(GcEvent("deleted", name, deleter.freed - before))
