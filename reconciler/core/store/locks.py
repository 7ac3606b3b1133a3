"""Nix's lock of one store path: a flock on `<path>.lock`.

Whoever is done unlinks the file and writes a byte into it, so that one who opened it before the unlink, and gets the
lock after it, sees by the size that this file locks nothing any more, and begins again.
"""

from __future__ import annotations

import contextlib
import os
import threading
from types import TracebackType

from reconciler.core import fs


class PathLock:
    """The lock of the store path that lies at `real_path`. A context manager that waits for it."""

    def __init__(self, real_path: str) -> None:
        self._file = f"{real_path}.lock"
        self._fd = -1
        self._owner = 0

    @property
    def held(self) -> bool:
        return self._fd >= 0

    @property
    def held_here(self) -> bool:
        """Whether it was taken by the thread that asks."""
        return self.held and self._owner == threading.get_ident()

    def acquire(self, wait: bool = True) -> bool:
        """Take it; False when `wait` is off and another has it."""
        while not self.held:
            fd = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                taken = fs.flock(fd, exclusive=True, wait=wait)
                stale = taken and os.fstat(fd).st_size != 0
            except BaseException:
                os.close(fd)
                raise
            if taken and not stale:
                self._fd, self._owner = fd, threading.get_ident()
                continue
            os.close(fd)
            if not taken:
                return False
        return True

    def release(self) -> None:
        """Free it, and remove its file."""
        if not self.held:
            return
        fd, self._fd = self._fd, -1
        try:
            # A lock file that stays is harmless, and a full disk must not make a finished change fail.
            with contextlib.suppress(OSError):
                os.unlink(self._file)
                os.write(fd, b"d")
        finally:
            os.close(fd)

    def __enter__(self) -> PathLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
