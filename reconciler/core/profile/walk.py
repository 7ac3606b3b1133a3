"""Directories opened component by component, on descriptors, so that nobody's link leads anywhere unseen.

Above a home the administrator may have links (`/home -> var/home`): one that root owns is followed, below the root
directory given. In a home, and below it, none is.
"""

from __future__ import annotations

import os
import stat

from reconciler.core import fs
from reconciler.core.errors import StoreError

_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINK_LIMIT = 40


def open_directory(root: int, path: str) -> int:
    """A readable descriptor of the directory `path` below the directory `root`, links of root's own followed.

    StoreError for anybody else's link; FileNotFoundError, NotADirectoryError and PermissionError as the kernel says.
    """
    done: list[str] = []
    todo = components(path)
    links = 0
    fd = os.dup(root)
    try:
        while todo:
            name = todo.pop(0)
            target = _link_target(name, fd)
            if target is not None:
                links += 1
                here = "/" + "/".join([*done, name])
                if os.lstat(name, dir_fd=fd).st_uid != 0 or links > _LINK_LIMIT:
                    raise StoreError(f"{here} is a link, and not one that root made")
                todo = components(os.path.join("/" + "/".join(done), target)) + todo
                done = []
                fd = _replace(fd, os.dup(root))
            else:
                done.append(name)
                fd = _replace(fd, os.open(name, _STEP, dir_fd=fd))
        return os.open(".", fs.OPEN_DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def open_below(start: int, path: str, shown: str, create: bool = False) -> int:
    """A readable descriptor of the directory `path` below `start`; no link is followed (StoreError).

    With `create` missing directories are made, 0755. `shown` is what `start` is called in errors.
    """
    fd = os.dup(start)
    try:
        for name in components(path):
            shown = os.path.join(shown, name)
            if _link_target(name, fd) is not None:
                raise StoreError(f"{shown} is a link: none is followed in a home")
            try:
                child = os.open(name, _STEP, dir_fd=fd)
            except FileNotFoundError:
                if not create:
                    raise
                os.mkdir(name, 0o755, dir_fd=fd)
                child = os.open(name, _STEP, dir_fd=fd)
                _sync(fd)
            fd = _replace(fd, child)
        return os.open(".", fs.OPEN_DIRECTORY, dir_fd=fd)
    finally:
        os.close(fd)


def components(path: str) -> list[str]:
    """The names in `path`, `..` taken away as text."""
    return [name for name in os.path.normpath("/" + path).split("/") if name]


def _sync(handle: int) -> None:
    fd = os.open(".", fs.OPEN_DIRECTORY, dir_fd=handle)
    try:
        fs.fsync_directory(fd)
    finally:
        os.close(fd)


def _link_target(name: str, dir_fd: int) -> str | None:
    """Where the link `name` leads, None when it is no link (or nothing)."""
    try:
        if not stat.S_ISLNK(os.lstat(name, dir_fd=dir_fd).st_mode):
            return None
        return os.readlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return None


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new
