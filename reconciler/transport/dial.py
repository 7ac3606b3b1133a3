"""To a host's port: a TCP connection, or a ProxyCommand that stands for one. A login's deadline."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

from reconciler.core.errors import UnreachableError
from reconciler.transport.errors import LoginTimeout
from reconciler.transport.sshconfig import Target
from reconciler.transport.text import printable


@dataclass(frozen=True)
class Deadline:
    """When a login must be done."""

    seconds: float
    at: float

    @classmethod
    def within(cls, seconds: float) -> Deadline:
        return cls(seconds, time.monotonic() + seconds)

    @property
    def left(self) -> float:
        left = self.at - time.monotonic()
        if left <= 0:
            raise LoginTimeout(f"ssh: connection timed out after {self.seconds:g} s")
        return left


class _Prompt(socket.socket):
    """Acknowledges at once. sshd holds a small packet back until the one before it is acknowledged, and our kernel
    holds an acknowledgement back in case there is something to send with it: 40 ms in every start of a program."""

    def recv(self, size: int, flags: int = 0) -> bytes:
        data = super().recv(size, flags)
        if hasattr(socket, "TCP_QUICKACK"):
            self.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # holds for the next packets only
        return data


def tcp(target: Target, deadline: Deadline) -> socket.socket:
    """A TCP connection, to the first address that answers."""
    families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}
    where = f"{target.host} port {target.port}"
    try:
        found = socket.getaddrinfo(target.host, target.port, families.get(target.family, 0), socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise UnreachableError(f"ssh: the name {target.host} is not known: {said(error)}") from error
    problem = "no address"
    for family, kind, protocol, _, address in found:
        sock = _Prompt(family, kind, protocol)
        try:
            sock.settimeout(deadline.left)
            sock.connect(address)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            sock.close()
            problem = "timed out"
        except OSError as error:
            sock.close()
            problem = (error.strerror or str(error)).lower()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    if problem == "timed out":
        raise LoginTimeout(f"ssh: connection timed out after {deadline.seconds:g} s")
    raise UnreachableError(f"ssh: {where}: {problem}")


@contextlib.contextmanager
def proxy(command: str) -> Iterator[socket.socket]:
    """A ProxyCommand behind a socket, so that paramiko has real timeouts; run by a shell, as ssh does."""
    ours, theirs = socket.socketpair()
    with tempfile.TemporaryFile() as errors, ours:
        with theirs:
            process = subprocess.Popen(
                ["/bin/sh", "-c", "exec " + command],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=errors,
                start_new_session=True,
            )
        try:
            yield ours
        finally:
            ours.close()
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(2)


def said(error: BaseException) -> str:
    """An error's words, fit to be shown."""
    return printable(str(error) or type(error).__name__)[:300]
