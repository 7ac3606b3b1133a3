"""What several tests of the store need."""

from __future__ import annotations

import io
import os
import stat
import threading
from pathlib import Path


class Halting:
    """A Reader that waits in the middle of an archive."""

    def __init__(self, data: bytes) -> None:
        self._stream = io.BytesIO(data)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(min(size, 40))
        if self._stream.tell() > 200 and not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(30)
        return data


def bytes_of(root: Path) -> int:
    """What the files of a store take, each counted once."""
    found = {}
    for directory, names, files in os.walk(root / "nix/store"):
        for name in (*names, *files):
            status = os.lstat(os.path.join(directory, name))
            if not stat.S_ISDIR(status.st_mode):
                found[status.st_ino] = status.st_size
    return sum(found.values())
