"""The host's lock: one deployment at a time, from `begin` until its agent ends.

/nix/var/reconciler/lock     `reconciler-lock 1`, then a LockOwner as JSON; held by flock, so that it is free at
                             the moment its owner is gone, whatever the file still says
"""

from __future__ import annotations

import contextlib
import json
import os
import time

from reconciler.core import fs
from reconciler.core.agent import created, nix, recovery
from reconciler.core.agent.host import NIX_STATE, Host
from reconciler.core.agent.messages import BeginRequest, Begun, LockOwner
from reconciler.core.errors import FormatError, InternalError, RefusedError

_HEADER = "reconciler-lock 1\n"
# A probe holds the lock, shared, for a moment.
_PATIENCE = 1.0


def begin(host: Host, request: BeginRequest) -> Begun:
    """Take the host's lock for a deployment, and make what a first deployment makes: /nix and our state folder.

    RefusedError when another deployment has it, naming who; or when this process may not deploy here. What a switch
    that was cut off has left half-told is put into the history.
    """
    if host.session.lock is not None:
        raise InternalError(f"the lock is held already, for {host.session.deployment}")
    host.session.host = request.host
    host.require_privilege()
    first = not host.managed
    missing = created.missing_state(host)
    fs.ensure_directory(host.own_state)
    lock = fs.FileLock(host.lock)
    _take(host, lock)
    try:
        _write_owner(lock.fd, LockOwner(request.deployment, request.who, os.getpid(), time.time()))
        created.note_state(host, missing)
        host.open_store(create=True).close()
        nix.keep_version(host)
        host.session.lock, host.session.deployment = lock, request.deployment
        recovery.recover(host)
    except BaseException:
        host.session.lock = None
        lock.release()
        raise
    return Begun(first, tuple(missing), _collecting(host))


def _collecting(host: Host) -> bool:
    gc_lock = fs.FileLock(host.path(f"{NIX_STATE}/gc.lock"))
    with contextlib.suppress(PermissionError):  # a store's users do not see it
        if not gc_lock.acquire(exclusive=False, wait=False):
            return True
        gc_lock.release()
    return False


def take(host: Host, owner: LockOwner) -> fs.FileLock:
    """The lock, for work that is no deployment; the caller releases it. RefusedError as in `begin`."""
    taken = fs.FileLock(host.lock)
    _take(host, taken)
    _write_owner(taken.fd, owner)
    return taken


def require(host: Host, deployment: str) -> None:
    """InternalError unless this agent began this deployment."""
    if host.session.lock is None or host.session.deployment != deployment:
        raise InternalError(f"deployment {deployment} was not begun here")


def release(host: Host) -> None:
    """Free the lock before the agent ends."""
    lock, host.session.lock = host.session.lock, None
    if lock is not None:
        lock.release()


def _take(host: Host, lock: fs.FileLock) -> None:
    until = time.monotonic() + _PATIENCE
    while not lock.acquire(exclusive=True, wait=False):
        if time.monotonic() >= until:
            raise RefusedError(f"{host.name} is locked: {_described(read_owner(host.lock))}", "wait until it has ended")
        time.sleep(0.02)


def _described(owner: LockOwner | None) -> str:
    if owner is None:
        return "another deployment is under way"
    since = time.strftime("%H:%M:%S", time.localtime(owner.since))
    # What is no deployment has the command's name for an id.
    does = "runs" if owner.deployment.isalpha() else "deploys"
    return f"{owner.who} {does} {owner.deployment} since {since} (pid {owner.pid})"


def _write_owner(fd: int, owner: LockOwner) -> None:
    data = (_HEADER + json.dumps(owner.to_json()) + "\n").encode()
    os.ftruncate(fd, 0)
    os.lseek(fd, 0, os.SEEK_SET)
    fs.write_all(fd, data)


def read_owner(path: str) -> LockOwner | None:
    """Who wrote the lock file last; None where that cannot be told."""
    try:
        with open(path, encoding="utf-8") as file:
            header, _, text = file.read(1 << 16).partition("\n")
        return LockOwner.from_json(json.loads(text)) if header + "\n" == _HEADER else None
    except (OSError, ValueError, RecursionError, FormatError):
        return None


def owner(host: Host) -> LockOwner | None:
    """Who holds the host's lock now, other than this agent. Makes nothing."""
    if host.session.lock is not None:
        return None
    try:
        fd = os.open(host.lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with contextlib.closing(_Descriptor(fd)):
        return None if fs.flock(fd, exclusive=False, wait=False) else read_owner(host.lock) or _UNKNOWN


_UNKNOWN = LockOwner("", "", 0, 0.0)


class _Descriptor:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def close(self) -> None:
        os.close(self._fd)
