"""A command of a lab host's user, between a channel and a process: what sshd's session does.

Nothing of SSH is known here: a channel is something that receives and sends bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pwd
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

_CHUNK = 32 * 1024

# A shell that leads a new session and opens a terminal gets it as its controlling terminal; no code of ours has to run
# between fork and exec of a process with threads.
_ON_TERMINAL = 'exec <>"$0" >&0 2>&0; exec "$@"'


class Stream(Protocol):
    """The client's end: `receive` returns b"" at its end; the senders raise OSError when it is gone."""

    def receive(self) -> bytes: ...

    def send(self, data: bytes) -> None: ...

    def send_error(self, data: bytes) -> None: ...


@dataclass(frozen=True)
class Size:
    """Of a terminal, in characters."""

    columns: int
    rows: int


@dataclass
class Terminal:
    """A pseudo-terminal asked for by the client."""

    kind: str
    size: Size
    master: int = field(init=False)
    slave: int = field(init=False)

    def __post_init__(self) -> None:
        self.master, self.slave = os.openpty()
        self.resize(self.size)

    @property
    def path(self) -> str:
        return os.ttyname(self.slave)

    def resize(self, size: Size) -> None:
        with contextlib.suppress(OSError):
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", size.rows, size.columns, 0, 0))


@dataclass(frozen=True)
class Login:
    """Who logged in, from where, on a host with this PATH."""

    user: str
    path: str
    client: tuple[str, int]
    server: tuple[str, int]

    def environment(self, account: pwd.struct_passwd) -> dict[str, str]:
        """As sshd with pam_env makes it."""
        return {
            "PATH": self.path,
            **_etc_environment(),
            "HOME": account.pw_dir,
            "LOGNAME": self.user,
            "SHELL": account.pw_shell,
            "SSH_CLIENT": f"{self.client[0]} {self.client[1]} {self.server[1]}",
            "SSH_CONNECTION": f"{self.client[0]} {self.client[1]} {self.server[0]} {self.server[1]}",
            "USER": self.user,
        }


def _etc_environment() -> dict[str, str]:
    try:
        lines = Path("/etc/environment").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.removeprefix("export ").partition("=") for line in lines if "=" in line and line[:1] != "#")
    return {name.strip(): value.strip().strip("\"'") for name, _, value in pairs}


def run(stream: Stream, login: Login, command: str | None, terminal: Terminal | None, asked: Mapping[str, str]) -> int:
    """Run `command`, or a login shell when it is None, until it ends and its output is sent.

    Returns the exit status, or minus the number of the signal that ended it.
    """
    account = pwd.getpwnam(login.user)
    environment = {**login.environment(account), **asked}
    argv = [account.pw_shell, "-l"] if command is None else [account.pw_shell, "-c", command]
    if terminal is not None:
        environment |= {"TERM": terminal.kind, "SSH_TTY": terminal.path}
        return _run_on_terminal(stream, argv, account, environment, terminal)
    return _run_on_pipes(stream, argv, account, environment)


def _start(
    argv: list[str], account: pwd.struct_passwd, environment: Mapping[str, str], standard: int
) -> subprocess.Popen[bytes]:
    """Start as that user in the user's home; in a host with one id there is nobody to become."""
    becomes = account.pw_uid != os.geteuid()
    return subprocess.Popen(
        argv,
        stdin=standard,
        stdout=standard,
        stderr=standard,
        cwd=account.pw_dir if Path(account.pw_dir).is_dir() else "/",
        env=dict(environment),
        start_new_session=True,
        user=account.pw_uid if becomes else None,
        group=account.pw_gid if becomes else None,
        extra_groups=os.getgrouplist(account.pw_name, account.pw_gid) if becomes else None,
        bufsize=0,
    )


def _run_on_pipes(stream: Stream, argv: list[str], account: pwd.struct_passwd, environment: Mapping[str, str]) -> int:
    process = _start(argv, account, environment, subprocess.PIPE)
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError
    # From here on each descriptor belongs to one pump, which closes it.
    stdin, stdout, stderr = (os.dup(pipe.fileno()) for pipe in (process.stdin, process.stdout, process.stderr))
    for pipe in (process.stdin, process.stdout, process.stderr):
        pipe.close()
    _thread(_pump_in, stream, stdin)
    pumps = [_thread(_pump_out, stdout, stream.send), _thread(_pump_out, stderr, stream.send_error)]
    status = process.wait()
    for pump in pumps:
        pump.join()
    return status


def _run_on_terminal(
    stream: Stream, argv: list[str], account: pwd.struct_passwd, environment: Mapping[str, str], terminal: Terminal
) -> int:
    if account.pw_uid != os.geteuid():
        os.fchown(terminal.slave, account.pw_uid, account.pw_gid)
    wrapped = ["/bin/sh", "-c", _ON_TERMINAL, terminal.path, *argv]
    process = _start(wrapped, account, environment, subprocess.DEVNULL)
    reader = os.dup(terminal.master)
    pump = _thread(_pump_out, reader, stream.send)
    _thread(_pump_in, stream, terminal.master)
    status = process.wait()
    os.close(terminal.slave)
    # What is still buffered is read at once; a background process may hold the terminal open for ever.
    pump.join(timeout=0.2)
    return status


def _thread(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _pump_out(descriptor: int, send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError):
        while data := os.read(descriptor, _CHUNK):
            send(data)
    os.close(descriptor)


def _pump_in(stream: Stream, descriptor: int) -> None:
    """Pass the client's bytes on; what nobody reads any more is thrown away, so that the client is never stopped."""
    gone = False
    with contextlib.suppress(OSError):
        while data := stream.receive():
            try:
                while data and not gone:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                gone = True
    os.close(descriptor)
