"""A writable /nix/store where the host mounts it read-only: in a mount namespace that only this process sees."""

from __future__ import annotations

import ctypes
import os

from reconciler.core.errors import StoreError

CLONE_NEWNS = 0x00020000
MS_REMOUNT = 32
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18


def make_writable(directory: str) -> None:
    """Enter a mount namespace and remount `directory` writable there. To be called before the first thread starts:
    a namespace is a thread's own, and threads that run already stay outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    _check(libc.unshare(CLONE_NEWNS), "unshare", directory)
    _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private below", "/")
    place = os.fsencode(directory)
    _check(libc.mount(None, place, None, MS_REMOUNT | MS_BIND, None), "remount", directory)


def _check(result: int, what: str, where: str) -> None:
    if result != 0:
        raise StoreError(f"cannot {what} {where}: {os.strerror(ctypes.get_errno())}")
