"""Temporary roots: what a living process needs of a store is kept by every garbage collection, Nix's and ours.

A process has one file, temproots/<pid>, which it holds locked; each root in it is `path NUL`. A collector that gets the
write lock knows that the process is gone. A root is added while gc.lock is held shared; where that is refused a
collection is running, and is told of the root over its socket.

Ours keeps what it was told of, always. Nix's (2.5 and later; an older one has no socket) keeps it unless it has looked
at the path already and is about to delete what refers to it: it then answers, and deletes the path all the same
(libstore's gc.cc remembers one path as `pending`, the last it looked at). So we tell it, and wait until it is done.
"""

from __future__ import annotations

import contextlib
import enum
import os
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix.store_path import StorePath

if TYPE_CHECKING:
    import socket

_RETRY = 0.01  # seconds; between two collections of Nix's there are not many
_PATIENCE = 600.0  # seconds that a collection may take before we give up
_MAX_SOCKET_PATH = 107
BOUND_AS = ".socket"  # what our collections call their socket before they put it in its place (gc_socket)


class _Told(enum.Enum):
    """What came of telling a collection."""

    NOT = "nobody heard it"
    NOTED = "it is noted"
    KEPT = "it is kept"


class TempRoots:
    """The roots of this process in one store. Safe for several threads; a forked child gets a file of its own."""

    def __init__(self, state_dir: str) -> None:
        self._directory = os.path.join(state_dir, "temproots")
        self._gc_lock = os.path.join(state_dir, "gc.lock")
        self._socket = os.path.join(state_dir, "gc-socket", "socket")
        self._guard = threading.Lock()
        self._users = 0
        self._reset()

    def _reset(self) -> None:
        self._process = os.getpid()
        self._fd = -1
        self._file = ""
        self._roots: set[StorePath] = set()

    def add(self, paths: Iterable[StorePath]) -> None:
        """Keep `paths` from now on. Whoever saw one valid before this must look again afterwards."""
        with self._guard:
            if self._process != os.getpid():
                if self._fd >= 0:
                    os.close(self._fd)  # the parent's descriptor and lock live on in the parent
                self._reset()
            new = sorted(set(paths) - self._roots)
            if not new:
                return
            if self._fd < 0:
                self._create()
            self._announce(new)
            self._roots.update(new)

    def close(self) -> None:
        """Let go of every root."""
        with self._guard:
            if self._fd >= 0:
                if self._process == os.getpid():
                    self._hand_over()
                    with contextlib.suppress(OSError):
                        os.unlink(self._file)
                os.close(self._fd)
            self._reset()

    def _create(self) -> None:
        """Open and lock a file that no collector has removed. Another process with our number (in another PID
        namespace) keeps its own: ours then gets a longer name, which Nix reads as well."""
        name, number = str(os.getpid()), 0
        while True:
            file = os.path.join(self._directory, name)
            fd = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            # Exclusively at first, which shows that nobody else uses it. Then shared: collectors up to Nix 2.4 wait for
            # a read lock before they read it, all others only try for a write lock.
            if not fs.flock(fd, exclusive=True, wait=False):
                os.close(fd)
                number += 1
                name = f"{os.getpid()}.{number}"
                continue
            status = os.fstat(fd)
            if status.st_nlink == 0 or status.st_size != 0:
                with contextlib.suppress(FileNotFoundError):
                    if status.st_nlink:
                        os.unlink(file)
                os.close(fd)
                continue
            fs.flock(fd, exclusive=False)
            if os.fstat(fd).st_nlink == 0:  # changing how a lock is held lets others in between
                os.close(fd)
                continue
            self._fd, self._file = fd, file
            return

    def _announce(self, paths: list[StorePath]) -> None:
        text = b"".join(str(path).encode() + b"\0" for path in paths)
        deadline = time.monotonic() + _PATIENCE
        lock = fs.FileLock(self._gc_lock)
        told = _Told.NOT
        while True:
            if lock.acquire(exclusive=False, wait=False):
                try:
                    fs.write_all(self._fd, text)
                finally:
                    lock.release()
                return
            if told is _Told.NOT:
                told = self._tell_collector(paths)
            if told is _Told.KEPT:
                fs.write_all(self._fd, text)
                return
            if time.monotonic() > deadline:
                raise StoreError(
                    f"{self._gc_lock}: a garbage collection has held it for {_PATIENCE:.0f} seconds",
                    "do this again when it is done",
                )
            time.sleep(_RETRY)

    def _hand_over(self) -> None:
        """Tell a collection that is running of every root once more.

        It may have read the permanent roots before ours were made, and reads the temporary ones when they are gone.
        """
        deadline = time.monotonic() + _PATIENCE
        lock = fs.FileLock(self._gc_lock)
        while time.monotonic() < deadline:
            if lock.acquire(exclusive=False, wait=False):
                lock.release()  # none is running, and the next one reads the permanent roots afresh
                return
            if self._tell_collector(sorted(self._roots)) is not _Told.NOT:
                return
            time.sleep(_RETRY)

    def _tell_collector(self, paths: list[StorePath]) -> _Told:
        """Tell the running collection of every path."""
        import socket

        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
                client.settimeout(_PATIENCE)
                self._connect(client)
                ours = is_ours(client)
                for path in paths:
                    client.sendall(f"{path}\n".encode())
                    if client.recv(1) != b"1":
                        return _Told.NOT
        except (ConnectionError, FileNotFoundError, socket.timeout):
            return _Told.NOT
        return _Told.KEPT if ours else _Told.NOTED

    def _connect(self, client: socket.socket) -> None:
        if len(os.fsencode(self._socket)) <= _MAX_SOCKET_PATH:
            client.connect(self._socket)
            return
        fd = os.open(os.path.dirname(self._socket), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            client.connect(f"/proc/self/fd/{fd}/socket")
        finally:
            os.close(fd)


def is_ours(client: socket.socket) -> bool:
    """Whether a collection of ours listens at the other end: by the name that its socket was made under, which whoever
    listens cannot change, and nobody else uses."""
    name = client.getpeername()
    return isinstance(name, str) and os.path.basename(name) == BOUND_AS


_shared: dict[str, TempRoots] = {}
_shared_guard = threading.Lock()


def attach(state_dir: str) -> TempRoots:
    """This process's roots in a store, shared by all who attach; `detach` as often."""
    with _shared_guard:
        roots = _shared.setdefault(state_dir, TempRoots(state_dir))
        roots._users += 1
        return roots


def detach(state_dir: str) -> None:
    """The last one to detach lets go of the roots."""
    with _shared_guard:
        roots = _shared.get(state_dir)
        if roots is None:
            return
        roots._users -= 1
        if roots._users <= 0:
            del _shared[state_dir]
            roots.close()


def end() -> None:
    """Let go of all roots in all stores, for a process that ends without closing its stores."""
    with _shared_guard:
        for roots in _shared.values():
            roots.close()
        _shared.clear()
