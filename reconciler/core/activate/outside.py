"""A program of the host's, started in the mount namespace that this process has left; a program (core/afresh.py).

An agent works in a mount namespace of its own, and what it mounts there nobody else sees: what a host's own program
mounts has to be seen. A process with several threads cannot go back (setns(2)), so this one is started for it.
"""

from __future__ import annotations

import ctypes
import os
import sys

_CLONE_NEWNS = 0x00020000


def main(spec):  # type: ignore[no-untyped-def]  # what is sent says its types, in nixos_program.py
    if spec["namespace"] is not None:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(spec["namespace"], _CLONE_NEWNS) != 0:
            sys.exit(f"entering the host's mount namespace: {os.strerror(ctypes.get_errno())}")
    if spec["root"] != "/":
        os.chroot(spec["root"])
    os.chdir("/")
    os.setsid()
    try:
        os.execve(spec["command"][0], spec["command"], spec["environment"])  # noqa: S606 - no shell is wanted
    except OSError as error:
        sys.exit(f"{spec['command'][0]}: {error.strerror}")
