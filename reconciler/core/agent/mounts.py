"""The mounts of /nix/store.

    host         where the store is ours: bound on itself, read-only, so that no hand and no program changes it by
                 mistake; made at a switch, and at boot by nix-store.mount (core/activate/host_files.py)
    this process writable, in a mount namespace that nobody else sees; as real Nix does for root

A namespace belongs to a thread and is inherited by the threads that it starts, so it is entered in the thread that
starts the others, before it opens anything in the store: a descriptor stays with the mount it was opened through.
"""

from __future__ import annotations

import ctypes
import os
import subprocess

from reconciler.core import afresh
from reconciler.core.agent.mounting import CLONE_NEWNS, KEPT, MNT_DETACH, MS_BIND, MS_REMOUNT, is_bound
from reconciler.core.errors import StoreError
from reconciler.core.values import value

MS_REC = 16384
MS_PRIVATE = 1 << 18

_INIT = "/proc/1"
_DEADLINE = 30.0


def is_read_only(directory: str) -> bool:
    """Whether `directory` is there, on a mount or a file system that is read-only."""
    try:
        return bool(os.statvfs(directory).f_flag & os.ST_RDONLY)
    except OSError:
        return False


@value
class Outside:
    """The mount namespace that was left. `descriptor`: of it, as long as this process lives."""

    descriptor: int


def enter(store: str) -> Outside:
    """Enter a mount namespace of our own, in which `store` is writable. StoreError where that may not be done."""
    outside = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        _check(libc.unshare(CLONE_NEWNS), "enter a mount namespace for", store)
        # Private, so that a mount which the host makes over the store meanwhile does not reach us.
        _check(libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None), "make mounts private below", "/")
        if is_read_only(store):
            flags = MS_REMOUNT | MS_BIND | os.statvfs(store).f_flag & KEPT
            _check(libc.mount(None, os.fsencode(store), None, flags, None), "remount", store)
    except StoreError:
        os.close(outside)
        raise
    return Outside(outside)


def _check(result: int, what: str, where: str) -> None:
    if result != 0:
        raise StoreError(f"cannot {what} {where}: {os.strerror(ctypes.get_errno())}")


def protect(outside: Outside, store: str) -> bool:
    """Make `store` read-only for the host; whether that is done now, and was not before. StoreError where it cannot."""
    if _seen_by_init(store) and is_read_only(f"{_INIT}/root{store}"):
        return False
    _in_host(outside, store, True)
    return True


def unprotect(outside: Outside, store: str) -> None:
    """Take such a mount away again, for the host and for us: what is mounted upon cannot be removed."""
    _in_host(outside, store, False)
    libc = ctypes.CDLL(None, use_errno=True)
    while is_bound(store):
        _check(libc.umount2(os.fsencode(store), MNT_DETACH), "unmount", store)


def _seen_by_init(store: str) -> bool:
    """Whether process 1 sees the same directory: then its namespace is the host's. Where we are in a part of a machine,
    it may be another machine's."""
    try:
        return os.path.samestat(os.stat(f"{_INIT}/root{store}"), os.stat(store))
    except OSError:
        return False


def _in_host(outside: Outside, store: str, read_only: bool) -> None:
    by_init = _seen_by_init(store)
    namespace = os.open(f"{_INIT}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC) if by_init else os.dup(outside.descriptor)
    status = os.stat(store)
    spec = {
        "namespace": namespace,
        "store": store,
        "identity": (status.st_dev, status.st_ino),
        "read_only": read_only,
    }
    try:
        done = subprocess.run(
            afresh.command(),
            input=afresh.message("reconciler.core.agent.mounting", spec),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(namespace,),
            env={},
            timeout=_DEADLINE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StoreError(f"the mount of {store} was not made in {_DEADLINE:g} s") from None
    finally:
        os.close(namespace)
    if done.returncode != 0:
        said = done.stdout.decode(errors="replace").strip().splitlines()[-1:]
        what = "mount it read-only" if read_only else "unmount it"
        raise StoreError(f"{store}: cannot {what}: {said[0] if said else f'status {done.returncode}'}")
