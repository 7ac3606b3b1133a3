"""This machine as a host: the same agent, the same protocol, a pipe instead of SSH."""

from __future__ import annotations

import getpass
import os
import select
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence

from reconciler.core.errors import LinkLostError, UnreachableError
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.connection import ConnectOptions, Stream
from reconciler.transport.elevation import Elevation

_PIECE = 65536


class LocalConnection:
    """Starts programs here."""

    def __init__(self, settings: ConnectionSettings, options: ConnectOptions) -> None:
        self._settings = settings
        self._options = options
        self._channels: list[LocalChannel] = []
        self.description = f"local {_user()}"

    def start(self, argv: Sequence[str], as_root: bool) -> LocalChannel:
        elevation = None
        words = ["env", *argv]  # env says what is missing, Popen would raise it
        if as_root and os.geteuid() != 0:
            elevation = Elevation(
                self._settings.become_user,
                self._settings.become_method,
                self._options.become_password,
                self._settings.host,
            )
            words = elevation.wrap(argv)
        channel = LocalChannel(words, elevation)
        self._channels.append(channel)
        return channel

    def close(self) -> None:
        for channel in self._channels:
            channel.close()


class LocalChannel:
    """A child process and its three pipes."""

    def __init__(self, argv: Sequence[str], elevation: Elevation | None) -> None:
        self.elevation = elevation
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd="/",
                # Ctrl-C is the controller's to handle; the agent ends when its input does.
                start_new_session=True,
            )
        except OSError as error:
            raise UnreachableError(f"cannot start the agent here: {error.strerror}") from error
        assert self._process.stdin
        assert self._process.stdout
        assert self._process.stderr
        self._stdin = self._process.stdin.fileno()
        os.set_blocking(self._stdin, False)
        self._open = {self._process.stdout.fileno(): Stream.OUT, self._process.stderr.fileno(): Stream.ERR}
        self._wake, self._waker = os.pipe()
        self._reading = threading.Lock()
        self._input_ended = False
        self._closed = False

    def read(self, timeout: float) -> tuple[Stream, bytes] | None:
        with self._reading:
            until = time.monotonic() + timeout
            while self._open and not self._closed:
                ready = _ready([*self._open, self._wake], [], max(0.0, until - time.monotonic()))
                if self._wake in ready:
                    break
                if not ready:
                    return None
                data = os.read(ready[0], _PIECE)
                if data:
                    return self._open[ready[0]], data
                del self._open[ready[0]]
            return Stream.END, b""

    def write(self, data: bytes | memoryview, timeout: float) -> None:
        view = memoryview(data)
        while view:
            if self._closed or self._input_ended:
                raise LinkLostError("the agent is gone")
            if self._stdin not in _ready([self._wake], [self._stdin], timeout):
                raise LinkLostError(f"the agent took nothing for {timeout:.0f} s")
            try:
                view = view[os.write(self._stdin, view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise LinkLostError(f"the agent is gone: {error.strerror}") from error

    def writable(self) -> bool:
        if self._closed or self._input_ended:
            return False
        return bool(_ready([], [self._stdin], 0))

    def end_input(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            assert self._process.stdin
            self._process.stdin.close()

    def exit_status(self, timeout: float) -> int | None:
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def close(self) -> None:
        """Hang up. The agent stops at its next step; it is not killed, and not waited for beyond a moment."""
        if self._closed:
            return
        self._closed = True
        os.write(self._waker, b"x")
        self.end_input()
        with self._reading:  # whoever reads has been woken, and leaves
            for output in (self._process.stdout, self._process.stderr):
                if output is not None:
                    output.close()
            self._open.clear()
        if self.exit_status(0.5) is None:
            threading.Thread(target=self._process.wait, name="the agent's last step", daemon=True).start()

    def kill(self) -> None:
        """End the program at once."""
        self._process.kill()

    def __del__(self) -> None:
        for descriptor in (self._wake, self._waker) if hasattr(self, "_waker") else ():
            os.close(descriptor)


def _ready(readable: Iterable[int], writable: Iterable[int], timeout: float) -> list[int]:
    """Which of these can be read or written, or have ended, within `timeout` seconds. Unlike select, poll takes any
    descriptor: the logins of a large fleet have the low ones."""
    waiting = select.poll()
    for descriptor in readable:
        waiting.register(descriptor, select.POLLIN)
    for descriptor in writable:
        waiting.register(descriptor, select.POLLOUT)
    return [descriptor for descriptor, _ in waiting.poll(timeout * 1000)]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.geteuid()}"
