"""Whether a host has Nix, and what else is done there before it has a Python: each is one command of sh."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from reconciler.core.errors import LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.systems import system_of
from reconciler.transport.connection import Connection, Stream
from reconciler.transport.text import Tail

# Where Nix is that sudo's, or a login shell's, PATH does not have: NixOS, a multi-user Nix, root's own.
SEARCH_PATH = "/run/current-system/sw/bin:/nix/var/nix/profiles/default/bin:/root/.nix-profile/bin"
_PATH = f"PATH=$PATH:{SEARCH_PATH}; export PATH"
_SECONDS = 60.0
_MAX_OUTPUT = 64 * 1024
_VERSION = re.compile(r"\(Nix\) ([0-9][0-9A-Za-z.+_-]{0,40})")

_MACHINE = re.compile(r"^machine ([0-9a-z_]{1,20})$", re.MULTILINE)
_USER = re.compile(r"^uid ([0-9]{1,10})$", re.MULTILINE)


@dataclass(frozen=True)
class NixProgram:
    """A host's Nix, and who we are to it. `system`: what the host says that it is; empty where it has no uname."""

    version: str
    uid: int
    system: str


def find_nix(connection: Connection, as_root: bool) -> NixProgram | None:
    """The host's Nix; None when there is none, or it does not say its version. Changes nothing: `nix` is asked, since
    `nix-store` makes directories also when only asked for its version."""
    look = "echo; echo uid $(id -u); echo machine $(uname -m)"
    script = f"{_PATH}; {look}; command -v nix-store >/dev/null && nix --version"
    try:
        said = _run(connection, script, as_root, _SECONDS)
    except StoreError:
        return None
    user, version, machine = _USER.search(said), _VERSION.search(said), _MACHINE.search(said)
    system = system_of(machine[1]) if machine else ""
    return NixProgram(version[1], int(user[1]), system) if user and version else None


def set_root(connection: Connection, as_root: bool, link: str, path: StorePath) -> None:
    """Make `link`, below gcroots/, point at `path`, which is valid there: by one rename, and durably."""
    directory, _, name = link.rpartition("/")
    fresh = f"{directory}/.{name}.new"
    script = f"set -e; sync; mkdir -p {directory}; rm -f {fresh}; ln -s {path} {fresh}; mv -fT {fresh} {link}; sync"
    _run(connection, script, as_root, 10 * _SECONDS)


def _run(connection: Connection, script: str, as_root: bool, seconds: float) -> str:
    """What a script of sh prints; StoreError, with what it said, when it fails."""
    channel = connection.start(["sh", "-c", script], as_root)
    out, errors, until = Tail(_MAX_OUTPUT), Tail(), time.monotonic() + seconds
    try:
        while True:
            left = until - time.monotonic()
            if left <= 0:
                raise LinkLostError(f"{connection.description}: a command did not end within {seconds:.0f} s")
            item = channel.read(left)
            if item is None:
                continue
            stream, data = item
            if stream is Stream.END:
                break
            (out if stream is Stream.OUT else errors).add(data)
            answer = channel.elevation.answer(errors.text) if channel.elevation and stream is Stream.ERR else None
            if answer is not None:
                channel.write(answer, left)
        status = channel.exit_status(5.0)
    finally:
        channel.close()
    if status != 0:
        raise _failed(connection, status, errors, channel.elevation.explain(errors.text) if channel.elevation else None)
    return out.text


def _failed(
    connection: Connection, status: int | None, errors: Tail, explained: ReconcilerError | None
) -> ReconcilerError:
    if explained is not None:
        return explained
    if status is None:
        return LinkLostError(f"{connection.description}: the connection broke")
    return StoreError(f"{connection.description}: exit status {status}: {errors.last_lines(3) or 'nothing was said'}")
