"""Real nix-daemons, each serving a store below a directory of its own to clients that it does not trust."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.oracle import RealNix, program

# What a daemon that trusts nobody checks, root too, as one on a host does for its users.
UNTRUSTED = "trusted-users = nobody\nbuild-users-group =\nsandbox = false\nsubstitute = false\n"


@contextlib.contextmanager
def real_daemon(root: Path, config: str = "") -> Iterator[Path]:
    """A daemon of the store below `root`; the socket where a client looks for it there."""
    nix = RealNix(root, config=f"{UNTRUSTED}{config}")
    nix.run("nix-store", "--init")
    place = root / "nix/var/nix/daemon-socket/socket"
    place.parent.mkdir()
    environment = {**nix.environment, "NIX_REMOTE": str(nix.root), "NIX_DAEMON_SOCKET_PATH": str(place)}
    process = subprocess.Popen(
        [program("nix-daemon")],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until = time.monotonic() + 30
        while not _answers(place):
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.005)
        yield place
    finally:
        process.kill()
        process.wait()


def _answers(place: Path) -> bool:
    """Whether somebody listens: a socket has a name a moment earlier. By a descriptor, since its path may be long."""
    directory = os.open(place.parent, os.O_PATH)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/fd/{directory}/{place.name}")
    except OSError:
        return False
    finally:
        os.close(directory)
    return True


@contextlib.contextmanager
def fake_daemon(directory: Path, serve: Callable[[socket.socket], None]) -> Iterator[Path]:
    """One connection at a socket, whose other side is `serve`."""
    directory.mkdir(exist_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    before = os.getcwd()
    os.chdir(directory)
    try:
        listening.bind("socket")
    finally:
        os.chdir(before)
    listening.listen()

    def run() -> None:
        with contextlib.suppress(OSError):
            connection, _ = listening.accept()
            with connection:
                serve(connection)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield directory / "socket"
    finally:
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)  # ends a wait for somebody who never came
        listening.close()
        thread.join(10)
