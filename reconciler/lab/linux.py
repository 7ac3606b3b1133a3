"""The calls of the kernel that the lab needs and Python 3.11 does not offer: namespaces, mounts, parent death.

Each raises OSError with the path in it. Numbers are those of <sched.h>, <sys/mount.h> and <linux/prctl.h>.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000

MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_REMOUNT = 32
MS_NOATIME = 1024
MS_NODIRATIME = 2048
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_RELATIME = 1 << 21

MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24

# The options of a mount that a user namespace may not take away; a remount has to repeat them.
_KEPT_OPTIONS = {
    "ro": MS_RDONLY,
    "nosuid": MS_NOSUID,
    "nodev": MS_NODEV,
    "noexec": MS_NOEXEC,
    "noatime": MS_NOATIME,
    "nodiratime": MS_NODIRATIME,
    "relatime": MS_RELATIME,
}

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def unshare(flags: int) -> None:
    """Leave the namespaces named by `flags` for new ones; the caller has one thread."""
    _check(_libc.unshare(flags), "unshare")


def mount(source: str, target: str, kind: str | None, flags: int = 0, options: str | None = None) -> None:
    """mount(2); `kind` is None for binds and remounts."""
    encoded = (
        os.fsencode(source),
        os.fsencode(target),
        None if kind is None else kind.encode(),
        ctypes.c_ulong(flags),
        None if options is None else options.encode(),
    )
    _check(_libc.mount(*encoded), target)


def unmount(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    _check(_libc.umount2(os.fsencode(target), flags), target)


def pivot_into(directory: str) -> None:
    """Make `directory`, a mount point, the root of this mount namespace; the old root is gone afterwards."""
    os.chdir(directory)
    # Old and new root at one place: the old one ends up on top and is taken off again.
    _check(_libc.pivot_root(b".", b"."), directory)
    unmount(".", MNT_DETACH)
    os.chdir("/")


def die_with_parent(signal_number: int) -> None:
    """Receive `signal_number` when the thread that forked this process ends."""
    _check(_libc.prctl(PR_SET_PDEATHSIG, signal_number, 0, 0, 0), "prctl")


def set_dumpable() -> None:
    """Give this process its own /proc entry back after a change of user."""
    _check(_libc.prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")


def drop_bounding_capability(number: int) -> None:
    """Take a capability away from this process and everything it will ever start."""
    _check(_libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0), "prctl")


@dataclass(frozen=True)
class MountPoint:
    """One line of mountinfo: where, and the flags of that mount."""

    path: str
    flags: int


def mount_points() -> list[MountPoint]:
    """What is mounted in this process's namespace, oldest first."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [_mount_point(line) for line in file]


def _mount_point(line: str) -> MountPoint:
    fields = line.split(" ")
    flags = 0
    for option in fields[5].split(","):
        flags |= _KEPT_OPTIONS.get(option, 0)
    return MountPoint(_unescape(fields[4]), flags)


def _unescape(text: str) -> str:
    for octal, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(octal, character)
    return text


def bind(source: str, target: str, read_only: bool = False) -> None:
    """Show `source`, with everything mounted below it, at `target`.

    A recursive bind, since a user namespace may not take a part of a tree of mounts; therefore each mount of the
    copy is made read-only on its own.
    """
    mount(source, target, None, MS_BIND | MS_REC)
    if not read_only:
        return
    inside = os.path.realpath(target)
    for point in mount_points():
        if point.path == inside or point.path.startswith(inside + "/"):
            mount("none", point.path, None, MS_BIND | MS_REMOUNT | MS_RDONLY | point.flags)
