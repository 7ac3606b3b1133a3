"""Whether a store is what its database says, and the database what SQLite says it should be.

kinds of findings:

    missing        a valid path has no files
    changed        its contents are not those that are registered (or cannot be read)
    mode, owner    its contents are right, but a file has not the form that files in a store have (mode also: times and
                   attributes); the owner is the one of the database
    reference      it refers to a path that is not registered
    unregistered   an entry of the store directory that is no valid path and that nobody is at work on: garbage
    links          an entry of `.links` is not what its name says
    database       a row that cannot be right, a content address that does not hold, outputs of a derivation that do not
                   follow from it, or a file that SQLite finds damaged

Nothing is changed. What looks wrong is looked at again, with the path kept by a temporary root and locked where this
user may do so, before it is told: it may have been deleted, repaired or optimised at that moment. Memory does not grow
with the store, only with the findings.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Callable, TypeVar

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import ModuloCache, with_outputs
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.store import content_address, form, links
from reconciler.core.store.strangers import strangers
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.store.database import Row
    from reconciler.core.store.locks import PathLock
    from reconciler.core.store.path_info import PathInfo
    from reconciler.core.store.store import Store

T = TypeVar("T")
R = TypeVar("R")

MAX_WORKERS = 8
_SETTLE = 0.2  # seconds after which an optimiser is done with a directory
_LOCKED = 5.0  # seconds that we wait for one who is at work on a path
_FORM = ("mode", "owner")


@value(order=True)
class Finding:
    """One thing that is wrong: what lies at `path`, which `kind` of fault, in words, and whether repair can mend it."""

    path: str
    kind: str
    detail: str
    repairable: bool


@value
class VerifyEvent:
    """Progress: `kind` is "path" (one was checked, of `size` bytes), "link" (an entry of .links was), or "finding"."""

    kind: str
    path: str
    size: int = 0


OnVerifyEvent = Callable[[VerifyEvent], None]


@value
class VerifyResult:
    """`checked` paths, whose archives have `bytes` bytes together, and what is wrong, sorted."""

    checked: int
    bytes: int
    findings: tuple[Finding, ...]


def verify(
    store: Store,
    contents: bool = True,
    paths: Iterable[StorePath] | None = None,
    on_event: OnVerifyEvent | None = None,
) -> VerifyResult:
    """What is wrong with the store, or with `paths` alone. StoreError when one of `paths` is not valid.

    Without `contents` nothing is read: only the database, and what is there. A path is hashed by one thread, several
    paths at a time by as many threads as there are processors.
    """
    return _Verification(store, contents, on_event or _tell_nobody).run(paths)


class _Verification:
    def __init__(self, store: Store, contents: bool, tell: OnVerifyEvent) -> None:
        self._store = store
        self._contents = contents
        self._tell = tell
        self._checked = self._bytes = 0
        self._findings: set[Finding] = set()
        self._suspects: dict[str, list[Finding]] = {}
        self._modulo = ModuloCache()
        self._owner = _owner(store)
        self._workers = min(len(os.sched_getaffinity(0)), MAX_WORKERS) if contents else 1

    def run(self, paths: Iterable[StorePath] | None) -> VerifyResult:
        if paths is not None:
            self._check_rows(self._rows_of(list(paths)))
            self._confirm()
        else:
            readable = self._check_database()
            self._confirm()
            if self._contents:
                self._check_links()
            if readable:
                self._found([_garbage(name) for name in strangers(self._store)])
        return VerifyResult(self._checked, self._bytes, tuple(sorted(self._findings)))

    def _rows_of(self, paths: list[StorePath]) -> list[Row]:
        rows = self._store.rows_of(paths)
        missing = {str(path) for path in paths} - {row.path for row in rows}
        if missing:
            raise StoreError(f"{min(missing)} is not valid in {self._store.store_dir}")
        return rows

    def _check_database(self) -> bool:
        """The database and the paths in it; False when it could not be read to its end."""
        file = os.path.join(self._store.state_dir, "db", "db.sqlite")
        try:
            self._found([Finding(file, "database", text, False) for text in self._store.damage()])
            self._check_rows(self._store.rows())
        except StoreError as error:
            self._found([Finding(file, "database", error.message, False)])
            return False
        return True

    def _found(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding not in self._findings:
                self._findings.add(finding)
                self._tell(VerifyEvent("finding", finding.path))

    # --- paths --------------------------------------------------------------------------------------------------------

    def _check_rows(self, rows: Iterable[Row]) -> None:
        for row, (findings, size) in _in_order(self._look, rows, self._workers):
            if findings:
                self._suspects[row.path] = findings
            self._checked += 1
            self._bytes += size
            self._tell(VerifyEvent("path", row.path, size))

    def _confirm(self) -> None:
        """Tell of what is still wrong with the suspects when nobody can be at work on them."""
        self._keep(self._suspects)
        again = {text: self._look_again(text, findings) for text, findings in self._suspects.items()}
        of_form = {text: findings for text, findings in again.items() if any(each.kind in _FORM for each in findings)}
        if of_form:
            time.sleep(_SETTLE)
            again.update((text, self._look_again(text, findings)) for text, findings in of_form.items())
        for findings in again.values():
            self._found(findings)

    def _keep(self, texts: Iterable[str]) -> None:
        paths = [path for path in map(_parsed, texts) if path is not None]
        if not paths:
            return
        with contextlib.suppress(OSError, StoreError):  # whoever may not write to the state directory does without
            self._store.add_temp_roots(paths)

    def _look_again(self, text: str, findings: list[Finding]) -> list[Finding]:
        path = _parsed(text)
        if path is None:
            return findings  # nobody can be at work on what is no path
        with _locked(self._store.path_lock(path)):
            try:
                rows = self._store.rows_of([path])
            except StoreError:
                return findings  # of the database, which is told on its own
            return [finding for row in rows for finding in self._look(row)[0]]

    def _look(self, row: Row) -> tuple[list[Finding], int]:
        """What is wrong with one path, and the size of its archive."""
        try:
            info = row.info()
        except FormatError as error:
            return [Finding(str(row.path), "database", error.message, False)], 0
        found = []
        whole = None not in row.references
        if not whole:
            found.append(Finding(row.path, "reference", "it refers to a path that is not registered", False))
        real = self._store.real(info.path)
        if not os.path.lexists(real):
            return [*found, Finding(row.path, "missing", f"nothing lies at {real}", True)], 0
        if not self._contents:
            return found, info.nar_size
        return [*found, *self._look_inside(info, real, whole)], info.nar_size

    def _look_inside(self, info: PathInfo, real: str, whole: bool) -> Iterator[Finding]:
        """What is wrong with the files; `whole`: the row has all the references that were registered with it."""
        shown = str(info.path)
        try:
            yield from _misfits(shown, real, self._owner)
            found, size = nar.hash_path(real)
        except OSError as error:
            yield Finding(shown, "changed", f"it cannot be read: {error.strerror or error}", True)
        except (StoreError, FormatError) as error:
            yield Finding(shown, "changed", error.message, True)
        else:
            if found != info.nar_hash:
                yield Finding(shown, "changed", f"its hash is {found}, registered is {info.nar_hash}", True)
            elif size != info.nar_size:
                yield Finding(shown, "database", f"its NAR has {size} bytes, registered are {info.nar_size}", False)
            elif whole:
                yield from self._look_at_claims(info, real)

    def _look_at_claims(self, info: PathInfo, real: str) -> Iterator[Finding]:
        """What the row says beyond the contents, which are right."""
        try:
            # Experimental Nix has addresses of git trees; they are not known here.
            if info.ca and not info.ca.startswith("fixed:git:"):
                content_address.check(info, real)
            if info.path.is_derivation:
                self._check_outputs(info.path)
        except OSError as error:
            yield Finding(str(info.path), "changed", f"it cannot be read: {error.strerror or error}", True)
        except (StoreError, FormatError) as error:
            yield Finding(str(info.path), "database", error.message, False)

    def _check_outputs(self, path: StorePath) -> None:
        drv = self._store.read_derivation(path)
        if any(output.path is None for output in drv.outputs.values()):
            return  # experimental: known only when it is built
        right = with_outputs(drv, path.name[: -len(".drv")], self._store.read_derivation, self._modulo)
        if right.outputs != drv.outputs or right.environment != drv.environment:
            raise StoreError(f"{path}: its outputs are not those that follow from it")
        registered = self._store.derivation_outputs(path)
        if registered != drv.output_paths():
            names = ", ".join(f"{name} {output}" for name, output in sorted(registered.items())) or "none"
            raise StoreError(f"{path}: the outputs registered of it ({names}) are not those that follow from it")

    # --- links --------------------------------------------------------------------------------------------------------

    def _check_links(self) -> None:
        def look(name: str) -> str | None:
            return links.fault(self._store, name)

        suspects = []
        for name, fault in _in_order(look, links.names(self._store), self._workers):
            self._tell(VerifyEvent("link", name))
            if fault is not None:
                suspects.append(name)
        for name in suspects:
            fault = look(name)
            if fault is not None:
                self._found([Finding(_entry(f"{links.DIRECTORY}/{name}"), "links", fault, True)])


@contextlib.contextmanager
def _locked(lock: PathLock) -> Iterator[None]:
    """Hold the lock, if it can be had; whoever may not write to the store, or waits too long, goes on without."""
    deadline = time.monotonic() + _LOCKED
    held_before = lock.held_here
    try:
        while not lock.held_here and not lock.acquire(wait=False) and time.monotonic() < deadline:
            time.sleep(_SETTLE)
    except OSError:
        pass
    try:
        yield
    finally:
        if not held_before:
            lock.release()


def _tell_nobody(event: VerifyEvent) -> None:
    pass


def _owner(store: Store) -> int:
    try:
        return os.stat(os.path.join(store.state_dir, "db", "db.sqlite")).st_uid
    except OSError:
        return os.geteuid()


def _garbage(name: str) -> Finding:
    return Finding(_entry(name), "unregistered", "it is not a valid path; a collection removes it", False)


def _entry(name: str) -> str:
    """How an entry of the store directory is told, whatever bytes it is named with."""
    return f"{STORE_DIR}/{os.fsencode(name).decode(errors='backslashreplace')}"


def _misfits(path: str, real: str, owner: int) -> Iterator[Finding]:
    """One finding of each kind: the first file, and how many more there are."""
    first: dict[str, str] = {}
    count: dict[str, int] = {}
    for misfit in form.misfits(real, owner):
        first.setdefault(misfit.kind, misfit.detail)
        count[misfit.kind] = count.get(misfit.kind, 0) + 1
    for kind, detail in first.items():
        more = f", and {count[kind] - 1} more" if count[kind] > 1 else ""
        yield Finding(path, kind, detail + more, True)


def _parsed(text: object) -> StorePath | None:
    try:
        return StorePath.parse(str(text))
    except FormatError:
        return None


def _in_order(function: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[tuple[T, R]]:
    """Each item with what `function` gives for it, by several threads, in the order of the items, few ahead."""
    if workers <= 1:
        for item in items:
            yield item, function(item)
        return
    from concurrent.futures import Future, ThreadPoolExecutor

    waiting: deque[tuple[T, Future[R]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                waiting.append((item, pool.submit(function, item)))
                if len(waiting) >= workers * 4:
                    first, future = waiting.popleft()
                    yield first, future.result()
            for first, future in waiting:
                yield first, future.result()
        finally:
            # Whoever is interrupted waits only for what is being read now.
            for _, future in waiting:
                future.cancel()
