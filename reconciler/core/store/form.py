"""Whether files have the form that files in a store have (canonical.py gives it): looks, and changes nothing.

Nix sets the group of a file only together with its owner, so the group says nothing about a store and is not looked at.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator

from reconciler.core import fs
from reconciler.core.nix.nar_format import MAX_DEPTH
from reconciler.core.store.canonical import IGNORED_ATTRIBUTES
from reconciler.core.values import value

MTIME = 1  # seconds
_NOT_SUPPORTED = (errno.ENOTSUP, errno.ENODATA, errno.EOPNOTSUPP)


@value
class Misfit:
    """A file that has not the form: `kind` is "mode" (also for times and attributes) or "owner"; what it is, in words.
    `linked`: it is a file that has other names."""

    kind: str
    detail: str
    linked: bool = False


def misfits(real_path: str, uid: int) -> Iterator[Misfit]:
    """What has not the form in the tree at `real_path`, whose files should belong to `uid`.

    OSError when something cannot be looked at; what this user may not open is left out, as are levels that no archive
    can have.
    """
    top = os.lstat(real_path)
    yield from _judge("", top, uid)
    if not stat.S_ISDIR(top.st_mode):
        yield from _attributes("", real_path, top)
        return
    levels: list[tuple[int, str, list[str]]] = []
    try:
        yield from _enter(real_path, None, "", levels)
        while levels:
            fd, prefix, names = levels[-1]
            if not names:
                levels.pop()
                os.close(fd)
                continue
            name = names.pop()
            status = os.lstat(name, dir_fd=fd)
            shown = f"{prefix}{name}"
            yield from _judge(shown, status, uid)
            if stat.S_ISDIR(status.st_mode):
                yield from _enter(name, fd, f"{shown}/", levels)
            else:
                yield from _attributes(shown, f"/proc/self/fd/{fd}/{name}", status)
    finally:
        for fd, _, _ in levels:
            os.close(fd)


def _enter(name: str, dir_fd: int | None, prefix: str, levels: list[tuple[int, str, list[str]]]) -> Iterator[Misfit]:
    if len(levels) > MAX_DEPTH:
        return
    try:
        fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=dir_fd)
    except PermissionError:
        return  # its mode has been told, and reading its contents will tell the rest
    levels.append((fd, prefix, os.listdir(fd)))
    yield from _foreign(prefix.rstrip("/"), fd)


def _judge(name: str, status: os.stat_result, uid: int) -> Iterator[Misfit]:
    linked = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    mode, right = stat.S_IMODE(status.st_mode), _right_mode(status.st_mode)
    if right is not None and mode != right:
        yield Misfit("mode", f"{_shown(name)} has mode {mode:04o}, not {right:04o}", linked)
    if int(status.st_mtime) != MTIME:
        yield Misfit("mode", f"{_shown(name)} was modified at {int(status.st_mtime)}, not at {MTIME}", linked)
    if status.st_uid != uid:
        yield Misfit("owner", f"{_shown(name)} belongs to user {status.st_uid}, not {uid}", linked)


def _right_mode(mode: int) -> int | None:
    if stat.S_ISDIR(mode):
        return 0o555
    if stat.S_ISREG(mode):
        return 0o555 if mode & stat.S_IXUSR else 0o444
    return None


def _attributes(name: str, path: str, status: os.stat_result) -> Iterator[Misfit]:
    if stat.S_ISREG(status.st_mode):
        yield from _foreign(name, path, status.st_nlink > 1)


def _foreign(name: str, file: str | int, linked: bool = False) -> Iterator[Misfit]:
    """Extended attributes that Nix takes away. A link that stands where a file stood is not followed."""
    try:
        found = os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=False)
    except OSError as error:
        if error.errno in (*_NOT_SUPPORTED, errno.EACCES):
            return
        raise
    for attribute in found:
        if attribute not in IGNORED_ATTRIBUTES:
            yield Misfit("mode", f"{_shown(name)} has the attribute {attribute!r}", linked)


def _shown(name: str) -> str:
    return f"'{os.fsencode(name).decode(errors='backslashreplace')}'" if name else "it"
