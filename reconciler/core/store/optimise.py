"""Equal files stored once, as hard links, exactly as Nix's optimiser has them.

    /nix/store/.links/<base-32 sha256 of the file's NAR>    one name of each file or symbolic link that was met
    /nix/store/.tmp-link-<pid>-<random>                     a second name of it, until it is renamed over an equal file

The NAR holds the executable bit, so a program and its text alone are two files. Writable files are passed over, and so
are files that cannot have another name (EMLINK). A directory in which a file is replaced gets mode 0555 and mtime 1
back; so does one that a killed run has left without.

Every step leaves the contents of every path as they are. What an interrupted run leaves is a `.tmp-link-…`, which a
collection removes. Other optimisers and collectors, Nix's too, may run at the same time: paths are rooted first, and an
entry of `.links` that a collector has removed is made again. An entry that was there before is read before anything is
linked to it: one with other contents than its name says is removed, so that rot does not spread.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING, Callable

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.nar_files import STORE_MTIME_NS
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import gc_files
from reconciler.core.store.gc_mark import LINKING, LINKS
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.store.store import Store

_AT_ONCE = 500  # paths rooted at a time
_DIRECTORY_MODE = 0o555
# ENOSPC: the index of a directory of ext4 is full. Both only mean that this file is not shared.
_CANNOT_SHARE = (errno.EMLINK, errno.ENOSPC)


@value
class OptimiseResult:
    """How many files were replaced by a hard link, and the bytes of contents that this freed."""

    files: int
    freed: int


@value
class OptimiseEvent:
    """`linked`: a file was replaced by a hard link, which freed so many bytes; `skipped`: a file is writable, which no
    file in a store should be; `rotten`: an entry of `.links` had other contents than its name says, and was removed.
    `path` is relative to the store directory."""

    kind: str
    path: str
    freed: int = 0


OnOptimiseEvent = Callable[[OptimiseEvent], None]


def optimise(store: Store, on_event: OnOptimiseEvent | None = None) -> OptimiseResult:
    """Store equal files of all valid paths once. StoreError when the store cannot be written to."""
    with _named(store.store_dir):
        gc_files.check_writable(store.store_dir)
        fs.ensure_directory(os.path.join(store.store_dir, LINKS))
        with store.directory() as store_fd:
            links_fd = os.open(LINKS, fs.OPEN_DIRECTORY, dir_fd=store_fd)
            try:
                return _Optimiser(store_fd, links_fd, on_event or _ignore).run(store)
            finally:
                os.close(links_fd)


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreError(f"{where}: {error.strerror or error}") from error


def _ignore(_: OptimiseEvent) -> None:
    pass


class _Optimiser:
    def __init__(self, store_fd: int, links_fd: int, tell: OnOptimiseEvent) -> None:
        self._store_fd = store_fd
        self._links_fd = links_fd
        self._tell = tell
        self._inodes = gc_files.link_inodes(store_fd)
        # Entries of `.links` that were made or read by this run.
        self._sound: set[str] = set()
        self._files = 0
        self._freed = 0

    def run(self, store: Store) -> OptimiseResult:
        paths = sorted(StorePath.parse(text) for _, text, *_ in store.graph().paths)
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            store.add_temp_roots(some)
            valid = store.valid(some)
            for path in some:
                if path in valid:
                    with _named(store.real(path)):
                        self._path(path.base_name)
        return OptimiseResult(self._files, self._freed)

    def _path(self, name: str) -> None:
        # A path whose files are gone is for `verify` to tell.
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=self._store_fd).st_mode):
                self._tree(name)
            else:
                self._leaf(name, self._store_fd, name)

    def _tree(self, top: str) -> None:
        """Depth first, on descriptors; every directory has its form again when it is left."""
        levels: list[tuple[int, list[str], str]] = []
        try:
            self._enter(top, self._store_fd, top, levels)
            while levels:
                fd, directories, shown = levels[-1]
                if directories:
                    name = directories.pop()
                    self._enter(name, fd, f"{shown}/{name}", levels)
                    continue
                levels.pop()
                os.close(fd)
        finally:
            for fd, *_ in levels:
                os.close(fd)

    def _enter(self, name: str, dir_fd: int, shown: str, levels: list[tuple[int, list[str], str]]) -> None:
        fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=dir_fd)
        directories: list[str] = []
        levels.append((fd, directories, shown))
        with os.scandir(fd) as entries:
            found = list(entries)
        try:
            for entry in found:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.name)
                elif entry.inode() not in self._inodes:
                    self._leaf(entry.name, fd, f"{shown}/{entry.name}")
        finally:
            _restore(fd)

    # --- one file -----------------------------------------------------------------------------------------------------

    def _leaf(self, name: str, dir_fd: int, shown: str) -> None:
        status = os.lstat(name, dir_fd=dir_fd)
        if stat.S_ISREG(status.st_mode):
            if status.st_mode & stat.S_IWUSR:
                self._tell(OptimiseEvent("skipped", shown))
                return
        elif not stat.S_ISLNK(status.st_mode):
            return
        if status.st_ino in self._inodes:
            return
        link = _link_name(name, dir_fd)
        while not (self._is_first(link, name, dir_fd, status) or self._replace(link, name, dir_fd, status, shown)):
            pass  # a collector has removed what we were about to link to

    def _is_first(self, link: str, name: str, dir_fd: int, status: os.stat_result) -> bool:
        """Whether nothing is to be replaced: the file has become the entry of `.links` itself, or cannot become it."""
        if self._is_sound(link, status):
            return False
        try:
            os.link(name, link, src_dir_fd=dir_fd, dst_dir_fd=self._links_fd, follow_symlinks=False)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                return True
            raise
        if os.lstat(link, dir_fd=self._links_fd).st_ino != status.st_ino:
            # Swapped since it was hashed, by whoever repairs the path.
            os.unlink(link, dir_fd=self._links_fd)
            return True
        self._inodes.add(status.st_ino)
        self._sound.add(link)
        return True

    def _is_sound(self, link: str, status: os.stat_result) -> bool:
        """Whether there is such an entry, with the right contents; a wrong one is removed."""
        try:
            size = os.lstat(link, dir_fd=self._links_fd).st_size
        except FileNotFoundError:
            return False
        if size == status.st_size and (link in self._sound or _link_name(link, self._links_fd) == link):
            self._sound.add(link)
            return True
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link, dir_fd=self._links_fd)
        self._tell(OptimiseEvent("rotten", f"{LINKS}/{link}"))
        return False

    def _replace(self, link: str, name: str, dir_fd: int, status: os.stat_result, shown: str) -> bool:
        """Put the file of `link` in place of `name`; False when that is to be begun again."""
        temporary = f"{LINKING}{os.getpid()}-{int.from_bytes(os.urandom(4), 'big')}"
        try:
            os.link(link, temporary, src_dir_fd=self._links_fd, dst_dir_fd=self._store_fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                return True
            raise
        try:
            return self._swap(temporary, name, dir_fd, status, shown)
        finally:
            # Also after the rename: between two names of one file it does nothing.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary, dir_fd=self._store_fd)

    def _swap(self, temporary: str, name: str, dir_fd: int, status: os.stat_result, shown: str) -> bool:
        old = os.lstat(name, dir_fd=dir_fd)
        if old.st_ino != status.st_ino:
            return True
        try:
            self._rename(temporary, name, dir_fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in _CANNOT_SHARE:
                return True
            raise
        freed = old.st_size if old.st_nlink == 1 else 0
        self._files += 1
        self._freed += freed
        self._tell(OptimiseEvent("linked", shown, freed))
        return True

    def _rename(self, temporary: str, name: str, dir_fd: int) -> None:
        try:
            os.rename(temporary, name, src_dir_fd=self._store_fd, dst_dir_fd=dir_fd)
        except PermissionError:
            if dir_fd == self._store_fd:
                raise
            os.fchmod(dir_fd, 0o755)
            os.rename(temporary, name, src_dir_fd=self._store_fd, dst_dir_fd=dir_fd)


def _link_name(name: str, dir_fd: int) -> str:
    found, _ = nar.hash_path(f"/proc/self/fd/{dir_fd}/{name}")
    return found.base32


def _restore(fd: int) -> None:
    status = os.fstat(fd)
    if stat.S_IMODE(status.st_mode) != _DIRECTORY_MODE:
        os.fchmod(fd, _DIRECTORY_MODE)
    if status.st_mtime_ns != STORE_MTIME_NS:
        os.utime(fd, ns=(status.st_atime_ns, STORE_MTIME_NS))
