"""Where the right contents of a broken store path can be had: an archive in a file, whose bytes have been checked.

Every source writes into a spool that counts and hashes; what has not the registered hash is never handed on.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from reconciler.core.agent.messages import ExportRequest, ObserveRequest, PathMessage, VerifyRequest
from reconciler.core.errors import LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import Archive as CachedArchive
from reconciler.core.store.binary_cache import Caches
from reconciler.core.store.store import Store
from reconciler.fleet.executor import Executor
from reconciler.fleet.project import Project
from reconciler.fleet.session import Session, close_all
from reconciler.transport.client import AgentClient

CONTROLLER = "this controller's store"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Archive:
    """A whole, right archive in an unnamed file."""

    file: IO[bytes]
    size: int
    source: str

    def chunks(self) -> Iterator[bytes]:
        """Its bytes; by several threads at once, too."""
        for start in range(0, self.size, _CHUNK):
            yield os.pread(self.file.fileno(), _CHUNK, start)


class Spool:
    """Takes the bytes of one archive into an unnamed file."""

    def __init__(self, wanted: PathMessage) -> None:
        self._wanted = wanted
        self._state = hashlib.sha256()
        self._size = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(prefix="reconciler-")  # noqa: SIM115  (closed by its user)

    def reset(self) -> None:
        """Forget what has come: it did not come whole."""
        self._state, self._size = hashlib.sha256(), 0
        self._file.seek(0)
        self._file.truncate()

    def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._wanted.nar_size:
            raise StoreError("it has more bytes than are registered")
        self._state.update(data)
        self._file.write(data)

    def archive(self, source: str) -> Archive:
        """StoreError when it is not the archive that is wanted."""
        found = Hash("sha256", self._state.digest())
        if self._size != self._wanted.nar_size or found != Hash.parse(self._wanted.nar_hash):
            raise StoreError("its contents are not those registered")
        self._file.flush()
        return Archive(self._file, self._size, source)

    def close(self) -> None:
        self._file.close()

    # As the sink of an export.

    def begin(self, path: PathMessage) -> None:
        if (path.path, path.nar_hash) != (self._wanted.path, self._wanted.nar_hash):
            raise StoreError("another path was sent")

    def end(self, path: PathMessage) -> None: ...


class Source(abc.ABC):
    """Somewhere to look for archives. `_fill` writes one into a spool and says where it is from; empty when it has
    none; ReconcilerError when it has a wrong one, or cannot be asked."""

    name = ""

    @contextlib.contextmanager
    def archive(self, wanted: PathMessage, reasons: list[str]) -> Iterator[Archive | None]:
        """The archive for as long as the block lasts; None when it is not to be had here, and `reasons` says why."""
        with contextlib.closing(Spool(wanted)) as spool:
            found = None
            try:
                source = self._fill(wanted, spool)
                found = spool.archive(source) if source else None
                if found is None:
                    reasons.append(f"{self.name}: not there")
            except (ReconcilerError, OSError) as error:
                reasons.append(f"{self.name}: {error}")
            yield found

    @abc.abstractmethod
    def _fill(self, wanted: PathMessage, spool: Spool) -> str: ...


class Controller(Source):
    name = CONTROLLER

    def __init__(self, root: str) -> None:
        self._root = root

    def _fill(self, wanted: PathMessage, spool: Spool) -> str:
        if not os.path.exists(os.path.join(self._root, "nix/var/nix/db/db.sqlite")):
            return ""
        path = StorePath.parse(wanted.path)
        with Store.open(self._root) as store:
            store.add_temp_root(path)
            if not store.is_valid(path):
                return ""
            for chunk in store.nar(path):
                spool.write(chunk)
        return self.name


class Selected(Source):
    """Hosts that are logged in to and were verified."""

    name = "the other hosts selected"

    def __init__(
        self,
        sessions: Mapping[str, Session],
        useless: Callable[[str, str], bool],
        lost: Callable[[str, ReconcilerError], None],
    ) -> None:
        """`useless(host, path)`: that host is not to be asked; `lost(host, error)` is told of one that went away."""
        self._sessions = sessions
        self._useless = useless
        self._lost = lost

    def _fill(self, wanted: PathMessage, spool: Spool) -> str:
        for name, session in self._sessions.items():
            if session.client is None or self._useless(name, wanted.path):
                continue
            try:
                if _exported(session.client, wanted, spool):
                    return f"host {name}"
            except LinkLostError as error:
                self._lost(name, error)
        return ""


class Donors(Source):
    """Hosts of the inventory that were not selected: logged in to once, when nothing nearer helps."""

    name = "the other hosts of the inventory"

    def __init__(self, project: Project, names: Sequence[str], executor: Executor) -> None:
        self._sessions = [Session(name, project.inventory.connection(name), project.connect) for name in names]
        self._executor = executor
        self._asked = False

    def close(self) -> None:
        close_all(self._sessions, self._executor)

    def _fill(self, wanted: PathMessage, spool: Spool) -> str:
        if not self._asked:
            self._executor.run(_log_in, self._sessions)
            self._asked = True
        for session in self._sessions:
            if session.client is None:
                continue
            try:
                if _exported(session.client, wanted, spool):
                    return f"host {session.host}"
            except LinkLostError:
                session.close()
        return ""


def _log_in(session: Session) -> None:
    with contextlib.suppress(ReconcilerError):  # it is no patient: one that does not answer is of no help, no more
        session.probe(ObserveRequest())


def _exported(agent: AgentClient, wanted: PathMessage, spool: Spool) -> bool:
    """Have a host send the path, when it is right there."""
    spool.reset()
    there = agent.verify(VerifyRequest(paths=(wanted.path,), lenient=True))
    if there.checked != 1 or there.found:
        return False
    agent.export(ExportRequest((wanted.path,), alone=True), spool)
    return True


class Cached(Source):
    def __init__(self, caches: Caches) -> None:
        self._caches = caches
        self.name = "the caches"

    def _fill(self, wanted: PathMessage, spool: Spool) -> str:
        for offer in self._caches.offers(StorePath.parse(wanted.path)):
            if offer.info.nar_hash == Hash.parse(wanted.nar_hash):
                offer.read(lambda archive: _fill(archive, spool))
                return f"cache {offer.cache}"
        return ""


def _fill(archive: CachedArchive, spool: Spool) -> None:
    """One attempt: a transfer that failed is begun again from its first byte."""
    spool.reset()
    while chunk := archive.read(_CHUNK):
        spool.write(chunk)
