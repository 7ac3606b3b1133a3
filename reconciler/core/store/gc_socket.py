"""Where a running collection hears of new temporary roots.

    <state>/gc-socket/socket    one line a root, `/nix/store/<hash part>-<name>\\n`; the answer is the byte `1`

Whoever finds gc.lock held connects and tells of his root before he looks whether the path is there. The answer means
that the path is kept from now on; while its files are being deleted the answer waits until they are gone, so that
nobody begins to make again what is still being removed. Roots are matched by hash part: `.lock` and `.chroot` files
beside a path are kept with it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator

from reconciler.core import fs
from reconciler.core.nix import base32
from reconciler.core.nix.store_path import HASH_PART_LENGTH, STORE_DIR
from reconciler.core.store.temp_roots import BOUND_AS

_MAX_LINE = 4096  # bytes; a store path has at most 255
_MAX_SOCKET_PATH = 107
_BACKLOG = 128
_BREATH = 0.05  # seconds until a connection that could not be had is tried again
_ROOT = re.compile(rf"{STORE_DIR}/([{base32.ALPHABET}]{{{HASH_PART_LENGTH}}})-".encode())


def hash_part(base_name: str) -> str:
    """By what roots are matched: of `<hash part>-<name>`, whatever the name."""
    return base_name[:HASH_PART_LENGTH]


class Kept:
    """The hash parts that temporary roots keep, and those whose paths are being deleted.

    Shared by the collector and the threads that hear of new roots.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._roots: set[str] = set()
        self._news: set[str] = set()
        self._pending: Counter[str] = Counter()

    def root(self, hash_part: str) -> None:
        """Keep it from now on; returns once no path of it is being deleted."""
        with self._changed:
            if hash_part not in self._roots:
                self._roots.add(hash_part)
                self._news.add(hash_part)
            while self._pending[hash_part] > 0:
                self._changed.wait()

    def claim(self, base_names: Iterable[str]) -> tuple[list[str], set[str]]:
        """Begin to delete those that no root keeps.

        Which they are, and the hash parts rooted since this was last called. Each is to be `done` once.
        """
        with self._changed:
            claimed = [name for name in base_names if hash_part(name) not in self._roots]
            self._pending.update(hash_part(name) for name in claimed)
            news, self._news = self._news, set()
            return claimed, news

    def done(self, base_name: str) -> None:
        """The deletion has ended, one way or the other; whoever waited for it is answered."""
        with self._changed:
            self._pending[hash_part(base_name)] -= 1
            self._changed.notify_all()


def prepare(state_dir: str) -> None:
    """Make the socket's file unless it is there. Nobody listens at it, so connecting is refused.

    Nix 2.8 takes a refusal for a collection that begins or ends, and tries again; where there is no file at all it goes
    on untold. So the file is there before the lock is taken, and stays afterwards, as it does with Nix. The lock is
    held shared, for a collector of Nix makes the file anew under the lock.
    """
    directory = os.path.join(state_dir, "gc-socket")
    fs.ensure_directory(directory)
    if os.path.lexists(os.path.join(directory, "socket")):
        return
    lock = fs.FileLock(os.path.join(state_dir, "gc.lock"))
    if lock.acquire(exclusive=False, wait=False):
        with lock, contextlib.suppress(OSError):
            _bind(directory, "socket").close()


@contextlib.contextmanager
def listening(state_dir: str, kept: Kept) -> Iterator[None]:
    """Take note of roots in `kept` until the block ends. gc.lock must be held exclusively.

    Whoever was connected when it ends is answered first.
    """
    directory = os.path.join(state_dir, "gc-socket")
    temporary = os.path.join(directory, BOUND_AS)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(temporary)  # of one that was killed right here
    server = _bind(directory, BOUND_AS)
    try:
        server.listen(_BACKLOG)
        os.rename(temporary, os.path.join(directory, "socket"))
        listener = _Listener(server, kept)
        listener.start()
        try:
            yield
        finally:
            listener.end()
    finally:
        server.close()


def _bind(directory: str, name: str) -> socket.socket:
    """A socket at that place, which everybody may connect to. Its path may be longer than an address can be."""
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = os.path.join(directory, name)
        if len(os.fsencode(path)) <= _MAX_SOCKET_PATH:
            server.bind(path)
        else:
            fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                server.bind(f"/proc/self/fd/{fd}/{name}")
            finally:
                os.close(fd)
        os.chmod(path, 0o666)  # noqa: S103  # any user's process may have roots, as with Nix
    except BaseException:
        server.close()
        raise
    return server


class _Listener(threading.Thread):
    def __init__(self, server: socket.socket, kept: Kept) -> None:
        super().__init__(name="gc-socket", daemon=True)
        self._server = server
        self._kept = kept
        self._guard = threading.Lock()
        self._open: set[socket.socket] = set()
        self._serving: list[threading.Thread] = []

    def run(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError as error:
                # After shutdown, and only when everyone who had connected was accepted.
                if error.errno in (errno.EINVAL, errno.EBADF):
                    return
                time.sleep(_BREATH)  # too many files are open, perhaps
                continue
            with self._guard:
                self._open.add(client)
            thread = threading.Thread(target=self._serve, args=(client,), name="gc-socket-client", daemon=True)
            self._serving = [each for each in self._serving if each.is_alive()]
            self._serving.append(thread)
            thread.start()

    def end(self) -> None:
        """Refuse new connections, answer what was asked on the others, close them."""
        self._server.shutdown(socket.SHUT_RD)
        self.join()
        with self._guard:
            for client in self._open:
                with contextlib.suppress(OSError):
                    client.shutdown(socket.SHUT_RD)
        for thread in self._serving:
            thread.join()

    def _serve(self, client: socket.socket) -> None:
        try:
            with client.makefile("rb") as lines, contextlib.suppress(OSError):
                while (line := lines.readline(_MAX_LINE)).endswith(b"\n"):
                    found = _ROOT.match(line)
                    # What is no store path is answered too, as Nix does: there is nothing of that name to keep.
                    if found:
                        self._kept.root(found.group(1).decode())
                    client.sendall(b"1")
        finally:
            with self._guard:
                self._open.discard(client)
                client.close()
