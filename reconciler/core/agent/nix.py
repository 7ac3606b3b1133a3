"""The version of a real Nix on the host, found cheaply.

From the name of its store path where it lies in the store. A distribution's own is asked once, at the first deployment
or when it has changed, and the answer kept in /nix/var/reconciler/nix-version:

    reconciler-nix-version 1
    <path>:<size>:<mtime in ns>
    <version>
"""

from __future__ import annotations

import os
import re

from reconciler.core import fs
from reconciler.core.agent.host import Host

_HEADER = "reconciler-nix-version 1"
_PLACES = (
    "/nix/var/nix/profiles/default/bin/nix-store",
    "/run/current-system/sw/bin/nix-store",
    "/root/.nix-profile/bin/nix-store",
    "/usr/local/bin/nix-store",
    "/usr/bin/nix-store",
)
_IN_STORE = re.compile(r"/nix/store/[0-9a-z]{32}-nix-([0-9][^/]*)/")
_ANSWER = re.compile(r"\(Nix\) ([0-9][^\s]*)")


def version(host: Host) -> str:
    """The version of the host's Nix, empty when there is none. Leaves nothing behind."""
    program = _program(host)
    if not program:
        return ""
    in_store = _IN_STORE.match(program)
    if in_store:
        return in_store[1]
    return _kept(host, _key(program)) or _ask(program)


def in_store(host: Host) -> bool:
    """Whether a Nix lives in the store itself; one of the distribution's does not, and makes /nix when it needs it."""
    return bool(_IN_STORE.search(_program(host)))


def keep_version(host: Host) -> None:
    """Write down the version of a Nix that has to be asked, for later probes."""
    program = _program(host)
    if not program or _IN_STORE.match(program):
        return
    key = _key(program)
    if not _kept(host, key):
        text = f"{_HEADER}\n{key}\n{_ask(program)}\n"
        fs.replace_file(host.nix_version, text.encode(), durable=False)


def _program(host: Host) -> str:
    for place in _PLACES:
        found = os.path.realpath(host.path(place))
        if os.path.isfile(found):
            return found
    return ""


def _key(program: str) -> str:
    status = os.stat(program)
    return f"{program}:{status.st_size}:{status.st_mtime_ns}"


def _kept(host: Host, key: str) -> str:
    try:
        with open(host.nix_version, encoding="utf-8") as file:
            lines = file.read(4096).split("\n")
    except (OSError, ValueError):
        return ""
    return lines[2] if len(lines) > 2 and lines[:2] == [_HEADER, key] else ""


def _ask(program: str) -> str:
    import subprocess

    # Every program of Nix is a link to `nix`, which goes by the name it was called; nix-store and nix-env make
    # directories in /nix even when only asked for their version.
    argv = ["nix", "--version"]
    try:
        answer = subprocess.run(
            argv, executable=program, capture_output=True, text=True, timeout=10, check=False, stdin=subprocess.DEVNULL
        ).stdout
    except (OSError, subprocess.SubprocessError, ValueError):
        return ""
    found = _ANSWER.search(answer)
    return found[1] if found else ""
