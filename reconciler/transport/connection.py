"""One Protocol for a way to a host, and the function that opens one.

A Connection starts programs; a Channel is one program's three streams. Neither knows of frames or verbs, and what
speaks through them (`client.AgentClient`) knows nothing of SSH.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from reconciler.core.errors import UsageError
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.elevation import Elevation


class Stream(enum.Enum):
    """Which of a program's outputs a piece came from. END is said once, after the last piece of either."""

    OUT = "stdout"
    ERR = "stderr"
    END = "end"


@dataclass(frozen=True)
class ConnectOptions:
    """What the command line, not the inventory, says of every login.

    `user` wins over the inventory's (`-u`). `become_password` was asked once, before (`-K`); it is given to sudo on
    the agent's channel and nowhere else. `ask_password` is asked for the passphrase of a private key that no ssh agent
    holds, with a prompt; None, or an answer of None, leaves such a key out. `ssh_config` replaces ~/.ssh/config and
    /etc/ssh/ssh_config. `retries` bounds how often a dropped connection (MaxStartups) is dialled again.
    """

    user: str | None = None
    become_password: str | None = None
    ask_password: Callable[[str], str | None] | None = None
    ssh_config: Path | None = None
    retries: int = 7

    def __repr__(self) -> str:
        # A password must not reach a log by way of a traceback or an assertion.
        return f"ConnectOptions(user={self.user!r}, become_password={'***' if self.become_password else None!r})"


class Channel(Protocol):
    """A running program: bytes in, bytes out. One thread reads; any thread writes, one at a time."""

    elevation: Elevation | None

    def read(self, timeout: float) -> tuple[Stream, bytes] | None:
        """The next piece of either output, at most 64 KiB; None when `timeout` seconds brought none.

        (Stream.END, b"") when both are closed, also when the connection broke.
        """

    def write(self, data: bytes | memoryview, timeout: float) -> None:
        """Send all of `data`. LinkLostError when the program or the connection is gone, or `timeout` seconds pass
        without a byte accepted."""

    def writable(self) -> bool:
        """Whether a small write would not block."""

    def end_input(self) -> None:
        """Close the program's stdin."""

    def exit_status(self, timeout: float) -> int | None:
        """How the program ended; None when that is not known within `timeout` seconds."""

    def close(self) -> None: ...


class Connection(Protocol):
    """A login. `description` is what an error message calls it (`ssh deployer@web01`)."""

    description: str

    def start(self, argv: Sequence[str], as_root: bool) -> Channel:
        """Start a program, `as_root` through sudo where the login is not root's already."""

    def close(self) -> None: ...


def connect(settings: ConnectionSettings, options: ConnectOptions | None = None) -> Connection:
    """Log in to a host. UnreachableError, with a class of its own for each cause, when that fails."""
    options = options or ConnectOptions()
    if settings.connection == "local":
        from reconciler.transport.local import LocalConnection

        return LocalConnection(settings, options)
    if settings.connection in ("ssh", "paramiko", "smart"):
        from reconciler.transport.ssh import open_ssh

        return open_ssh(settings, options)
    raise UsageError(f"connection '{settings.connection}' is not known", "ansible_connection: ssh, or local")
