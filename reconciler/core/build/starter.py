"""The process that starts the builds of a run, and process 1 of each as we see it; inside.py is what they do.

A fork of ours would not do: we may have threads, and a user namespace is entered only by a process that has one. An
interpreter of its own for each build would: but its start takes longer than all the rest of a small build's sandbox.
So one is started for all builds of a run, at the first of them, with nothing of ours open but the socket on which it
is asked for builds. It ends when that socket is closed.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from reconciler.core import afresh
from reconciler.core.errors import InternalError

if TYPE_CHECKING:
    import socket

_INSIDE = "reconciler.core.build.inside"
_READ_SIZE = 65536


class Helper:
    """Process 1 of one build, which makes its sandbox and becomes the builder. A context manager: at its end the build
    is let go of."""

    def __init__(self, channel: socket.socket, pid: int) -> None:
        self._channel = channel
        self._shut = False
        self.pid = pid

    def tell(self, spec: dict[str, Any]) -> None:
        """Say what to build."""
        data = marshal.dumps(spec)
        with contextlib.suppress(OSError):  # its end is told by what it reports
            self._channel.sendall(len(data).to_bytes(8, "little") + data)

    def kill(self) -> None:
        """End the build; the report is still to be read."""
        if not self._shut:
            self._shut = True
            with contextlib.suppress(OSError):
                self._channel.shutdown(1)  # SHUT_WR: the leash

    def report(self) -> bytes:
        """What is said when the build has ended; empty when the starter was killed."""
        parts = []
        with contextlib.suppress(OSError):
            while part := self._channel.recv(_READ_SIZE):
                parts.append(part)
        return b"".join(parts)

    def __enter__(self) -> Helper:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()


class Starter:
    """The starter of one run, for all its threads; a process of its own from `start`, or a build, to `close`."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: socket.socket | None = None

    def start(self) -> None:
        """Have the process ready, or on its way, when the first helper is wanted."""
        with self._guard:
            if self._requests is None:
                self._requests = self._start()

    def helper(self, log: int, single: bool) -> Helper:
        """Process 1 of a build that writes to the descriptor `log`. `single`: only our own uid can be mapped.
        InternalError when there can be none."""
        import socket

        ours, its = socket.socketpair()
        try:
            self.start()
            assert self._requests is not None
            with its, self._guard, contextlib.suppress(BrokenPipeError):
                socket.send_fds(self._requests, [b"s" if single else b"u"], [log, its.fileno()])
            pid = _read_pid(ours)
        except BaseException:
            ours.close()
            raise
        if pid:
            return Helper(ours, pid)
        ours.close()
        raise self.lost("no process could be started for a build")

    def _start(self) -> socket.socket:
        import socket

        ours, its = socket.socketpair()
        with its:
            self._process = subprocess.Popen(
                afresh.command(),
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(its.fileno(),),
                env={},
            )
            assert self._process.stdin is not None
            with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
                stdin.write(afresh.message(_INSIDE, {"requests": its.fileno()}))
        return ours

    def lost(self, what: str) -> InternalError:
        """The error of a process that is gone, with the last that the starter said."""
        said = b""
        if self._process is not None and self._process.stderr is not None:
            fd = self._process.stderr.fileno()
            os.set_blocking(fd, False)
            with contextlib.suppress(BlockingIOError):
                said = os.read(fd, _READ_SIZE)
        text = said.decode(errors="replace").strip().rsplit("\n", 1)[-1]
        return InternalError(f"{what}: {text or 'it said nothing'}")

    def close(self) -> None:
        """End it. No build may be under way."""
        if self._requests is not None:
            self._requests.close()
        if self._process is not None:
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process.wait()

    def __enter__(self) -> Starter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _read_pid(channel: socket.socket) -> int:
    """The process number, the first thing that is said of a build; 0 when the starter ended before that."""
    with contextlib.suppress(OSError):
        data = channel.recv(4)
        if len(data) == 4:
            return int.from_bytes(data, "little")
    return 0
