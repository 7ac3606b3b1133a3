"""Fill a store from binary caches: whole closures, in parallel.

What the caches have is asked first, of the whole closure, so that nothing is fetched of what cannot be had whole. Then
paths are fetched and unpacked side by side, each begun after its references were, and made valid in groups: a path
when its references are, with one sync for all that are ready. Whoever is killed leaves valid paths with valid closures,
and files that are registered nowhere, which the next one takes over where they are whole.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Callable

from reconciler.core import fs
from reconciler.core.errors import FormatError, ReconcilerError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.batch import Batch
from reconciler.core.store.binary_cache import Archive, Caches
from reconciler.core.store.order import topological
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import value

JOBS = 8
LOOKUPS = 16  # questions to caches at a time
# So much, in paths and in bytes, is made valid with one sync; what was not is fetched again after a crash.
GROUP_PATHS = 64
GROUP_BYTES = 64 * 1024 * 1024
# What is ready is locked: it is not held for longer, so that two who want each other's paths do not wait in a circle.
COMMIT_SECONDS = 1.0


@value
class SubstituteEvent:
    """`kind`: `plan` (what is to be fetched is known), `bytes` (more has come), `done` (`path` is unpacked). `done` of
    `total` bytes of archives, as they are unpacked. Told from several threads."""

    kind: str
    path: str
    done: int
    total: int


@value
class SubstituteResult:
    """`fetched`: the paths that were added, references first; `nar_size`: the bytes of their archives."""

    fetched: tuple[StorePath, ...]
    nar_size: int


@value
class KnownResult:
    """`fetched`: the paths that were added; `nar_size`: the bytes of their archives. `failed`: why others could not be
    had. What is in neither waits for one that failed: its files are there, and not registered."""

    fetched: tuple[StorePath, ...]
    nar_size: int
    failed: Mapping[StorePath, ReconcilerError]


Heard = Callable[[SubstituteEvent], None]


def substitute(
    store: Store,
    caches: Caches,
    paths: Iterable[StorePath],
    jobs: int = JOBS,
    on_event: Heard | None = None,
) -> SubstituteResult:
    """Make `paths` and all that they refer to valid in `store`; they are temporary roots of it from the beginning.

    StoreError, with nothing fetched, when a part of the closure is in no cache that is trusted with it. Errors while
    fetching end it; what was complete by then is valid.
    """
    wanted = plan(store, caches, paths)
    order = topological({path: set(info.other_references) & wanted.keys() for path, info in wanted.items()})
    total = sum(info.nar_size for info in wanted.values())
    tell = on_event or _nobody
    tell(SubstituteEvent("plan", "", 0, total))
    _Run(store, caches, wanted, tell).fetch(order, jobs)
    return SubstituteResult(tuple(order), total)


def substitute_known(
    store: Store, caches: Caches, infos: Iterable[PathInfo], jobs: int = JOBS, on_event: Heard | None = None
) -> KnownResult:
    """Make paths valid of which somebody else has said what they are: a cache that says otherwise is not believed.

    One that cannot be had keeps only those that need it from being valid. The paths are temporary roots from the
    beginning; what they refer to is to be among them, or valid, or comes later.
    """
    wanted = {info.path: info for info in infos}
    store.add_temp_roots(wanted)
    there = store.valid(wanted)
    lacking = {path: info for path, info in wanted.items() if path not in there}
    order = topological({path: set(info.other_references) & lacking.keys() for path, info in lacking.items()})
    tell = on_event or _nobody
    tell(SubstituteEvent("plan", "", 0, sum(info.nar_size for info in lacking.values())))
    run = _KnownRun(store, caches, lacking, tell)
    run.fetch(order, jobs)
    valid = store.valid(lacking)
    fetched = tuple(path for path in order if path in valid)
    return KnownResult(fetched, sum(lacking[path].nar_size for path in fetched), run.failed)


def _nobody(_: SubstituteEvent) -> None: ...


def plan(store: Store, caches: Caches, paths: Iterable[StorePath]) -> Mapping[StorePath, PathInfo]:
    """What `store` lacks of the closure of `paths`, as the caches describe it; StoreError when a part is nowhere."""
    found: dict[StorePath, PathInfo] = {}
    fresh = set(paths)
    with ThreadPoolExecutor(LOOKUPS, "caches") as pool:
        while fresh:
            # Rooted before it is asked whether they are valid: a collection between the two would else take them.
            store.add_temp_roots(fresh)
            lacking = sorted(fresh - store.valid(fresh))
            infos = list(pool.map(lambda path: _info(caches, path), lacking))
            found.update(zip(lacking, infos))
            fresh = {path for info in infos for path in info.other_references} - found.keys()
    return found


def _info(caches: Caches, path: StorePath) -> PathInfo:
    offer = caches.find(path)
    if offer is None:
        raise StoreError(f"{path}: it is not in the store, and no cache has it")
    return offer.info


class _StoppedError(ReconcilerError):
    """The run ends because of another path; no other cache is to be tried."""


class _Run:
    """Fetching what was planned. `_commit` runs in the thread that called; all else in those of the pool."""

    def __init__(self, store: Store, caches: Caches, wanted: Mapping[StorePath, PathInfo], tell: Heard) -> None:
        self._store = store
        self._caches = caches
        self._wanted = wanted
        self._tell = tell
        self._total = sum(info.nar_size for info in wanted.values())
        self._done = 0
        self._guard = threading.Lock()
        self._stopped = False
        # Unpacked and not yet valid: each in a batch of its own, which holds its lock.
        self._ready: dict[StorePath, tuple[Batch, PathInfo | None]] = {}

    def fetch(self, order: list[StorePath], jobs: int) -> None:
        """Fetch all of `order`, `jobs` at a time."""
        rest = iter(order)
        running: dict[Future[PathInfo | None], tuple[StorePath, Batch]] = {}
        with ThreadPoolExecutor(max(1, jobs), "substitute") as pool:
            try:
                while True:
                    self._start(pool, rest, running, jobs)
                    if not running:
                        break
                    done, _ = wait(running, COMMIT_SECONDS, FIRST_COMPLETED)
                    for future in done:
                        path, batch = running.pop(future)
                        self._take(path, batch, future)
                    self._commit(least=not (running and done))
                self._commit(least=True)
            finally:
                self._stopped = True
                wait(running)
                self._finish(running)

    def _take(self, path: StorePath, batch: Batch, future: Future[PathInfo | None]) -> None:
        """What became of one path. An error ends the run."""
        self._ready[path] = batch, future.result()

    def _start(
        self,
        pool: ThreadPoolExecutor,
        rest: Iterable[StorePath],
        running: dict[Future[PathInfo | None], tuple[StorePath, Batch]],
        jobs: int,
    ) -> None:
        while len(running) < max(1, jobs):
            path = next(iter(rest), None)
            if path is None:
                return
            batch = self._store.batch()
            running[pool.submit(self._one, path, batch)] = path, batch

    def _finish(self, running: Mapping[Future[PathInfo | None], tuple[StorePath, Batch]]) -> None:
        """After an error: what is unpacked, and has its references, becomes valid; locks are let go of."""
        for future, (path, batch) in running.items():
            if future.exception() is None:
                self._ready[path] = batch, future.result()
            else:
                batch.abandon()
        try:
            self._commit(least=True)
        finally:
            for batch, _ in self._ready.values():
                batch.abandon()

    def _one(self, path: StorePath, batch: Batch) -> PathInfo | None:
        """Unpack one path; what is to be registered of it, or None when it was there."""
        planned = self._wanted[path]
        if batch.adopt(planned):
            self._count(planned.nar_size, path)
            return None if self._store.is_valid(path) else planned
        return self._caches.fetch(path, lambda info, archive: self._unpack(info, archive, batch))

    def _unpack(self, info: PathInfo, archive: Archive, batch: Batch) -> PathInfo | None:
        unknown = [reference for reference in info.other_references if reference not in self._wanted]
        if unknown and len(self._store.valid(unknown)) < len(set(unknown)):
            raise StoreError(f"{info.path}: References: {unknown[0]} is not among those of the other cache")
        return self._add(info, archive, batch)

    def _add(self, info: PathInfo, archive: Archive, batch: Batch) -> PathInfo | None:
        counting = _Counting(archive, self)
        try:
            added = batch.add_nar(info, counting, archive.nar_hash)
        except BaseException:
            self._count(-counting.done)
            raise
        self._count(0, info.path)
        return info if added else None

    def _count(self, size: int, path: StorePath | None = None) -> None:
        if self._stopped:
            raise _StoppedError("another path could not be had")
        with self._guard:
            self._done += size
            done = self._done
        self._tell(SubstituteEvent("done" if path else "bytes", str(path or ""), done, self._total))

    def counted(self, size: int) -> None:
        self._count(size)

    def _commit(self, least: bool) -> None:
        """Make valid what is ready and has its references: when there is enough of it, or with `least` whatever
        there is."""
        group = self._complete()
        size = sum(info.nar_size for _, info in group.values() if info is not None)
        if not group or not (least or len(group) >= GROUP_PATHS or size >= GROUP_BYTES):
            return
        infos = [info for _, info in group.values() if info is not None]
        if infos:
            try:
                with self._store.directory() as store_fd:
                    fs.syncfs(store_fd)
            except OSError as error:
                raise StoreError(f"{self._store.store_dir}: {error.strerror or error}") from error
            self._store.register(infos)
        for path, (batch, _) in group.items():
            del self._ready[path]
            batch.abandon()

    def _complete(self) -> dict[StorePath, tuple[Batch, PathInfo | None]]:
        """Those that are ready, less those that refer to what is neither valid nor ready."""
        group = dict(self._ready)
        needed = {path for _, info in group.values() if info for path in info.other_references} - group.keys()
        valid = self._store.valid(needed)
        while True:
            waiting = [
                path
                for path, (_, info) in group.items()
                if info and not all(each in valid or each in group for each in info.other_references)
            ]
            if not waiting:
                return group
            for path in waiting:
                del group[path]


class _KnownRun(_Run):
    """Fetching what somebody else has described. What cannot be had is noted in `failed`, and the rest goes on."""

    def __init__(self, store: Store, caches: Caches, wanted: Mapping[StorePath, PathInfo], tell: Heard) -> None:
        super().__init__(store, caches, wanted, tell)
        self.failed: dict[StorePath, ReconcilerError] = {}

    def _take(self, path: StorePath, batch: Batch, future: Future[PathInfo | None]) -> None:
        error = future.exception()
        if isinstance(error, (StoreError, FormatError)):
            batch.abandon()
            self.failed[path] = error
        else:
            super()._take(path, batch, future)

    def _unpack(self, info: PathInfo, archive: Archive, batch: Batch) -> PathInfo | None:
        known = self._wanted[info.path]
        for field, said, wanted in (
            ("NarHash", info.nar_hash, known.nar_hash),
            ("NarSize", info.nar_size, known.nar_size),
            ("References", frozenset(info.references), frozenset(known.references)),
        ):
            if said != wanted:
                raise StoreError(f"{info.path}: {field}: the cache says something else here than to the controller")
        return self._add(known, archive, batch)


class _Counting:
    """A Reader that tells how much has come."""

    def __init__(self, archive: Archive, run: _Run) -> None:
        self._archive = archive
        self._run = run
        self.done = 0

    def read(self, size: int, /) -> bytes:
        data = self._archive.read(size)
        self.done += len(data)
        self._run.counted(len(data))
        return data
