"""Profiles that are neither the system's nor a user's: `default`, and those at a path of their own.

    default        /nix/var/nix/profiles/default, with its generations beside it (Nix up to 2.14), or where that is a
                   link to root's own profile, that one: /nix/var/nix/profiles/per-user/root/profile (since 2.15)
    /opt/tools     -> tools-<n>-link; the generations stand beside the link, each with an entry in gcroots/auto, since
                   the collector does not look there

The directory is root's, made 0755 where it is missing. It is opened component by component: no link is followed, and
nobody but root may be able to change what a component leads to.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.profile.generations import Generations
from reconciler.core.profile.names import DEFAULT
from reconciler.core.profile.walk import components

DEFAULT_LINK = "/nix/var/nix/profiles/default"
ROOTS_OWN = "/nix/var/nix/profiles/per-user/root/profile"
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def link_of(place: str, root: str = "/") -> str:
    """Where the profile `place` (`default`, or a path) stands on the host whose root directory is `root`."""
    if place != DEFAULT:
        return place
    try:
        target = os.readlink(os.path.join(root, DEFAULT_LINK.lstrip("/")))
    except OSError:
        return DEFAULT_LINK
    whole = os.path.normpath(os.path.join(os.path.dirname(DEFAULT_LINK), target))
    return ROOTS_OWN if whole == ROOTS_OWN else DEFAULT_LINK


@contextlib.contextmanager
def opened(link: str, root: str = "/", create: bool = False) -> Iterator[Generations]:
    """The generations of the profile `link`. FileNotFoundError without its directory, unless it is to be made;
    StoreError when that is not root's alone."""
    parent, name = os.path.split(link)
    directory = _directory(parent, root, create)
    try:
        yield Generations(directory, name, link)
    finally:
        os.close(directory)


def missing_directories(link: str, root: str = "/") -> tuple[str, ...]:
    """The directories that `opened` would make for the profile `link`, the outermost first."""
    found: list[str] = []
    current = os.path.dirname(link)
    while current != "/" and not os.path.lexists(os.path.join(root, current.lstrip("/"))):
        found.insert(0, current)
        current = os.path.dirname(current)
    return tuple(found)


def _directory(path: str, root: str, create: bool) -> int:
    shown = "/"
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in components(path):
            _refuse_others(os.fstat(fd), shown, last=False)
            shown = os.path.join(shown, name)
            following = _step(fd, name, shown, create)
            os.close(fd)
            fd = following
        _refuse_others(os.fstat(fd), shown, last=True)
        return os.open(".", fs.OPEN_DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def _step(fd: int, name: str, shown: str, create: bool) -> int:
    try:
        if stat.S_ISLNK(os.lstat(name, dir_fd=fd).st_mode):
            raise StoreError(f"{shown} is a link: none is followed on the way to a profile", "name the path behind it")
    except FileNotFoundError:
        if not create:
            raise
        os.mkdir(name, 0o755, dir_fd=fd)
        made = os.open(name, _STEP, dir_fd=fd)
        # Through /proc: fchmod takes no descriptor that was opened only as a path. The umask may be anything.
        os.chmod(f"/proc/self/fd/{made}", 0o755)  # noqa: S103  (what every directory of a store has)
        above = os.open(".", fs.OPEN_DIRECTORY, dir_fd=fd)
        try:
            fs.fsync_directory(above)
        finally:
            os.close(above)
        return made
    try:
        return os.open(name, _STEP, dir_fd=fd)
    except NotADirectoryError:
        raise StoreError(f"{shown} is not a directory") from None


def _refuse_others(status: os.stat_result, shown: str, last: bool) -> None:
    """StoreError when somebody else than root could change what lies in this directory. On the way a sticky one does:
    what root owns in it stays root's."""
    if status.st_uid not in (0, os.geteuid()):
        raise StoreError(f"{shown} belongs to user {status.st_uid}, and a profile's directory is root's")
    others = status.st_mode & stat.S_IWOTH
    group = status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid())
    if (others or group) and (last or not status.st_mode & stat.S_ISVTX):
        raise StoreError(f"others than root may write to {shown}", f"chmod go-w {shown}, or another place")
