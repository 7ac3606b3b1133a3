"""Mounting /nix/store read-only in the host's own mount namespace, and taking that away; a program (core/afresh.py).

A process with several threads cannot change its mount namespace (setns(2)), so this one is started for it. What is
mounted stays when it ends. Doing either twice is doing it once.
"""

from __future__ import annotations

import ctypes
import os
import sys

CLONE_NEWNS = 0x00020000
MNT_DETACH = 2
MS_RDONLY = 1
MS_REMOUNT = 32
MS_BIND = 4096
# nosuid, nodev, noexec; statvfs(3) says them with mount(2)'s own numbers. A remount that leaves one out takes it away,
# or is refused where that is not ours to do.
KEPT = 2 | 4 | 8


def main(spec):  # type: ignore[no-untyped-def]  # what is sent says its types, in mounts.py
    libc = ctypes.CDLL(None, use_errno=True)
    store = spec["store"]

    def call(result: int, what: str) -> None:
        if result != 0:
            sys.exit(f"{what}: {os.strerror(ctypes.get_errno())}")

    call(libc.setns(spec["namespace"], CLONE_NEWNS), "entering the host's mount namespace")
    status = os.stat(store)
    if (status.st_dev, status.st_ino) != tuple(spec["identity"]):
        sys.exit("it is another directory for the host")
    place = os.fsencode(store)
    if not spec["read_only"]:
        while is_bound(store):
            call(libc.umount2(place, MNT_DETACH), "unmounting")
        return
    if not is_bound(store):
        call(libc.mount(place, place, None, MS_BIND, None), "binding it on itself")
    flags = MS_REMOUNT | MS_BIND | MS_RDONLY | os.statvfs(store).f_flag & KEPT
    call(libc.mount(None, place, None, flags, None), "making it read-only")


def is_bound(store: str) -> bool:
    """Whether `store` is a mount point of the file system that it lies on anyway: such a mount is ours or the boot's.
    A disk of its own is neither."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        points = [line.split(" ")[4] for line in file]
    return store in points and os.stat(store).st_dev == os.stat(os.path.dirname(store)).st_dev
