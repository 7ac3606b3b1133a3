"""Deleting the files of dead paths, and how many bytes that frees.

A file frees its bytes when its last name goes. The name that it has in `.links` does not count: it goes in the same
collection once no path has the file any more.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.store.gc_mark import LINKS, in_use


def check_writable(store_dir: str) -> None:
    """StoreError unless files of the store can be replaced and removed."""
    if os.statvfs(store_dir).f_flag & os.ST_RDONLY:
        raise StoreError(f"{store_dir}: it is mounted read-only", "work where it may be written to")
    if not os.access(store_dir, os.W_OK):
        raise StoreError(f"{store_dir}: may not be written to", "only the owner of a store can do this")


class Deleter:
    """Deletes entries of the store directory `store_fd`; `freed` counts the bytes."""

    def __init__(self, store_fd: int) -> None:
        self.freed = 0
        self._store_fd = store_fd
        self._links = link_inodes(store_fd)
        self._counted: dict[int, int] = {}

    def delete(self, name: str) -> bool:
        """Remove an entry, or what is left of it; False when it is in use after all. OSError as the kernel gave it."""
        if in_use(name, self._store_fd):
            return False
        fs.remove_tree(name, self._store_fd, self._unlinked)
        return True

    def _unlinked(self, status: os.stat_result) -> None:
        if status.st_nlink == 1:
            self.freed += status.st_size
        elif status.st_nlink == 2 and status.st_ino in self._links:
            self.freed += status.st_size
            self._counted[status.st_ino] = status.st_size

    def remove_unused_links(self) -> None:
        """Remove the entries of `.links` whose file no path has any more."""
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(LINKS, fs.OPEN_DIRECTORY, dir_fd=self._store_fd)
            try:
                with os.scandir(fd) as entries:
                    for entry in list(entries):
                        self._remove_link(entry, fd)
            finally:
                os.close(fd)
        # Somebody has shared them again, or unlinked them himself: what was freed is not ours to tell.
        self.freed -= sum(self._counted.values())
        self._counted.clear()

    def _remove_link(self, entry: os.DirEntry[str], links_fd: int) -> None:
        with contextlib.suppress(FileNotFoundError):
            status = entry.stat(follow_symlinks=False)
            if status.st_nlink == 1 and not stat.S_ISDIR(status.st_mode):
                os.unlink(entry.name, dir_fd=links_fd)
                if self._counted.pop(status.st_ino, None) is None:
                    self.freed += status.st_size


def link_inodes(store_fd: int) -> set[int]:
    """The inodes of `.links`."""
    try:
        fd = os.open(LINKS, fs.OPEN_DIRECTORY, dir_fd=store_fd)
    except FileNotFoundError:
        return set()
    try:
        with os.scandir(fd) as entries:
            return {entry.inode() for entry in entries}
    finally:
        os.close(fd)


def measure(names: Iterable[str], store_fd: int) -> Iterator[tuple[str, int]]:
    """Each name with the bytes that deleting it would free, if all before it were deleted."""
    links = link_inodes(store_fd)
    met: Counter[int] = Counter()
    for name in names:
        freed = 0
        for status in _files(name, store_fd):
            shared = status.st_ino in links
            met[status.st_ino] += 1
            if met[status.st_ino] + shared >= status.st_nlink:
                freed += status.st_size
        yield name, freed


def _files(top: str, store_fd: int) -> Iterator[os.stat_result]:
    """All below an entry of the store that is no directory; what cannot be read is passed over."""
    with contextlib.suppress(OSError):
        status = os.lstat(top, dir_fd=store_fd)
        if not stat.S_ISDIR(status.st_mode):
            yield status
            return
    todo = [top]
    while todo:
        name = todo.pop()
        with contextlib.suppress(OSError):
            fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=store_fd)
            try:
                with os.scandir(fd) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(f"{name}/{entry.name}")
                        else:
                            yield entry.stat(follow_symlinks=False)
            finally:
                os.close(fd)
