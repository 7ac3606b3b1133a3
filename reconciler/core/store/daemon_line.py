"""The bytes to and from Nix's daemon, over its socket: bounded, with a deadline, and never waiting for each other.

Both sides may talk at a time: what the daemon says while we write is taken in, so that neither waits for the other to
read. What may wait here unread is limited by MAX_UNREAD.
"""

from __future__ import annotations

import os
import select
import socket
import time
from typing import Callable

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix.wire import Decoder

MAX_UNREAD = 4 * 1024 * 1024
_PIECE = 128 * 1024
# How often `waiting` is asked, in seconds.
_PAUSE = 0.5
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL


def _go_on() -> None:
    pass


class Line(Decoder):
    """A connected socket. `until`: when the answer must be there (monotonic). `waiting` is called again and again while
    nothing happens; what it raises ends the wait."""

    def __init__(self, connected: socket.socket) -> None:
        self.until = 0.0
        self.waiting: Callable[[], None] = _go_on
        self._socket = connected
        self._socket.setblocking(False)
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        self._got = bytearray()
        self._ended = False  # nothing more comes
        self._deaf = False  # nobody reads what we write

    @classmethod
    def to(cls, path: str) -> Line:
        """Connect to the socket at `path`, however long that is. OSError as the kernel gives it."""
        parent, name = os.path.split(path)
        directory = os.open(parent, fs.OPEN_DIRECTORY)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.connect(f"/proc/self/fd/{directory}/{name}")
        except BaseException:
            made.close()
            raise
        finally:
            os.close(directory)
        return cls(made)

    def close(self) -> None:
        self._socket.close()

    def write(self, data: bytes) -> None:
        """Send, and take in what is said meanwhile. Where nobody listens any more nothing is: why, stands in what the
        daemon said before it ended, which is still to be read."""
        left = memoryview(data)
        while left and not (self._ended or self._deaf):
            happened = self._wait(select.POLLIN | select.POLLOUT)
            if happened & (select.POLLIN | _GONE):
                self._take()
            if happened & select.POLLOUT:
                left = left[self._send(left) :]

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data[:_PIECE])
        except BlockingIOError:
            return 0
        except ConnectionError:
            self._deaf = True
            return 0

    def _exactly(self, size: int) -> bytes:
        while len(self._got) < size:
            if self._ended:
                raise StoreError("the Nix daemon ended the connection")
            self._wait(select.POLLIN)
            self._take()
        piece = bytes(self._got[:size])
        del self._got[:size]
        return piece

    def _take(self) -> None:
        try:
            piece = self._socket.recv(_PIECE)
        except BlockingIOError:
            return
        except ConnectionError:
            piece = b""
        self._ended = self._ended or not piece
        self._got += piece
        if len(self._got) > MAX_UNREAD:
            raise FormatError(f"more than {MAX_UNREAD // 2**20} MiB of answers to what was not asked yet")

    def _wait(self, wanted: int) -> int:
        """What has happened of `wanted`; StoreError when nothing has until the deadline."""
        self._poll.modify(self._socket, wanted)
        while True:
            self.waiting()
            left = self.until - time.monotonic()
            if left <= 0:
                raise StoreError("the Nix daemon did not answer in time")
            for _, happened in self._poll.poll(min(left, _PAUSE) * 1000):
                return happened
