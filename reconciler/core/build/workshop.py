"""Where builds are made: <state>/builds/<name>/<number>, private to us.

`<name>.lock` beside it is flocked for as long as the run lives; a directory whose lock is free was left by a run that
was killed, and is removed by the next one. What `keep_failed` keeps is moved to <state>/builds/failed-…, out of reach
of that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from types import TracebackType

from reconciler.core import fs
from reconciler.core.nix.store_path import StorePath

_LOCK = ".lock"


class Workshop:
    """The build directories of one run. A context manager: everything in it is removed at the end."""

    def __init__(self, state_dir: str) -> None:
        self._top = os.path.realpath(os.path.join(state_dir, "builds"))
        self._name = ""
        self._lock: fs.FileLock | None = None
        self._numbers = itertools.count(1)

    def __enter__(self) -> Workshop:
        fs.ensure_directory(self._top)
        self._sweep()
        while self._lock is None:
            name = f"reconciler-{os.getpid()}-{os.urandom(4).hex()}"
            lock = fs.FileLock(os.path.join(self._top, name + _LOCK))
            lock.acquire()
            if os.fstat(lock.fd).st_nlink:  # else another run has swept it between open and flock
                self._name, self._lock = name, lock
        os.mkdir(self.directory, 0o700)
        return self

    @property
    def directory(self) -> str:
        return os.path.join(self._top, self._name)

    def new(self) -> str:
        """A new empty directory for one build."""
        path = os.path.join(self.directory, str(next(self._numbers)))
        os.mkdir(path, 0o700)
        return path

    def remove(self, directory: str) -> None:
        """Remove the directory of one build, whatever the build left in it."""
        with self._opened(os.path.dirname(directory)) as parent:
            fs.remove_tree(os.path.basename(directory), parent)

    def keep(self, directory: str, derivation: StorePath) -> str:
        """Move the directory of a failed build to where it stays; its new path."""
        kept = os.path.join(self._top, f"failed-{derivation.name[:100]}-{os.urandom(4).hex()}")
        os.rename(directory, kept)
        return kept

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._lock is not None
        with self._opened(self._top) as top:
            fs.remove_tree(self._name, top)
            os.unlink(self._name + _LOCK, dir_fd=top)
        self._lock.release()

    @staticmethod
    @contextlib.contextmanager
    def _opened(path: str) -> Iterator[int]:
        fd = os.open(path, fs.OPEN_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def _sweep(self) -> None:
        """Remove what killed runs left."""
        with self._opened(self._top) as top:
            for entry in os.listdir(top):
                if not entry.endswith(_LOCK):
                    continue
                lock = fs.FileLock(os.path.join(self._top, entry))
                try:
                    if not lock.acquire(wait=False):
                        continue
                except OSError:
                    continue  # another user's
                fs.remove_tree(entry[: -len(_LOCK)], top)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry, dir_fd=top)
                lock.release()
