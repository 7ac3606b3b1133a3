"""Durable and descriptor-based work on the file system: the one place for each of these.

A replaced file or link is on the disk, whole, when the call returns: temporary name in the same directory, fsync,
rename, fsync of the directory. Trees are removed on directory descriptors, so that a directory swapped for a link
leads nowhere. Errors are OSError as the kernel gave them; RefusedError never comes from here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Collection
from types import TracebackType
from typing import Any, Callable

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

# What file systems answer that cannot sync a directory (some FUSE and network ones): nothing is left to be done.
_CANNOT_SYNC = (errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)


# --- durable replacement ----------------------------------------------------------------------------------------------


def replace_file(path: str, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Put a file with these bytes and this mode at `path`, in place of whatever file or link stands there.

    Readers see the old or the new file, also after a power loss. With `durable` off (a cache) only the former holds.
    """
    _put_file(path, data, mode, durable, _move_over)


def create_file(path: str, data: bytes, mode: int = 0o644) -> bool:
    """The same, durable, where nothing stands at `path` yet; else False, and what stands there stays. Of several who
    do this at once one succeeds."""
    try:
        _put_file(path, data, mode, True, _move_where_free)
    except FileExistsError:
        return False
    return True


def _put_file(path: str, data: bytes, mode: int, durable: bool, move: Callable[[str, str, int], None]) -> None:
    parent, name = _split(path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        temporary = f".{name}.tmp-{os.getpid()}-{os.urandom(4).hex()}"
        fd = os.open(temporary, _CREATE, 0o600, dir_fd=parent_fd)
        try:
            try:
                write_all(fd, data)
                os.fchmod(fd, mode)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            move(temporary, name, parent_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent_fd)
            raise
        if durable:
            fsync_directory(parent_fd)
    finally:
        os.close(parent_fd)


def _move_over(temporary: str, name: str, parent_fd: int) -> None:
    os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)


def _move_where_free(temporary: str, name: str, parent_fd: int) -> None:
    os.link(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd, follow_symlinks=False)
    os.unlink(temporary, dir_fd=parent_fd)


def replace_symlink(target: str, path: str, durable: bool = True, dir_fd: int | None = None) -> None:
    """Make `path` a link to `target`, in place of whatever file or link stands there, as Nix does it.

    The temporary link is `.<n>_<name>` beside it, n the first number that is free; where nothing stands at `path` it
    needs none. `path` may be relative to `dir_fd`.
    """
    parent, name = _split(path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        try:
            os.symlink(target, name, dir_fd=parent_fd)
        except FileExistsError:
            _rename_link(target, name, parent_fd)
        if durable:
            fsync_directory(parent_fd)
    finally:
        os.close(parent_fd)


def _rename_link(target: str, name: str, parent_fd: int) -> None:
    temporary = _temporary_link(target, name, parent_fd)
    try:
        os.rename(temporary, name, src_dir_fd=parent_fd, dst_dir_fd=parent_fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent_fd)
        raise


def _temporary_link(target: str, name: str, parent_fd: int) -> str:
    number = 0
    while True:
        temporary = f".{number}_{name}"
        try:
            os.symlink(target, temporary, dir_fd=parent_fd)
        except FileExistsError:
            number += 1
        else:
            return temporary


_TEMPORARY = re.compile(r"\.(?P<file>.+)\.tmp-\d+-[0-9a-f]{8}|\.\d+_(?P<link>.+)", re.DOTALL)


def remove_temporaries(directory: str | int, names: Collection[str] | None = None) -> None:
    """Remove what a `replace_file` or `replace_symlink` of these entries, or of any, left when its process was killed;
    likewise an empty directory of such a name.

    Only for whoever holds the lock under which they are replaced: what somebody else is at would go too. What cannot be
    removed stays; nothing happens where there is no such directory.
    """
    try:
        present = os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return
    found = [(match, name) for name in present if name.startswith(".") and (match := _TEMPORARY.fullmatch(name))]
    for match, name in found:
        if names is None or (match["file"] or match["link"]) in names:
            at = directory if isinstance(directory, int) else None
            path = name if isinstance(directory, int) else os.path.join(directory, name)
            with contextlib.suppress(OSError):
                try:
                    os.unlink(path, dir_fd=at)
                except IsADirectoryError:
                    os.rmdir(path, dir_fd=at)


def _split(path: str) -> tuple[str, str]:
    parent, name = os.path.split(path)
    if name in ("", ".", ".."):
        raise ValueError(f"'{path}' names no entry of a directory")
    return parent or ".", name


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """os.write until every byte is written."""
    written = os.write(fd, data)
    if written == len(data):
        return
    view = memoryview(data)
    while written < len(view):
        written += os.write(fd, view[written:])


def ensure_directory(path: str, mode: int = 0o755) -> None:
    """Make `path` and every missing directory above it, with exactly this mode; each is durable in its parent.

    What exists keeps its mode. NotADirectoryError where a file stands in the way.
    """
    missing: list[str] = []
    current = os.path.abspath(path)
    while not os.path.isdir(current):
        # Asked again, for somebody else may have made it in between.
        if os.path.lexists(current) and not os.path.isdir(current):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), current)
        missing.append(current)
        current = os.path.dirname(current)
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            continue
        os.chmod(directory, mode)
        fsync_directory(os.path.dirname(directory))


def fsync_directory(directory: str | int) -> None:
    """Make the entries of a directory durable (a path, or an open descriptor of one)."""
    if isinstance(directory, int):
        _sync(os.fsync, directory)
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(os.fsync, fd)
    finally:
        os.close(fd)


def _sync(call: Any, fd: int) -> None:
    try:
        call(fd)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise


_libc: Any = None


def syncfs(fd: int) -> None:
    """Write out all of the file system that `fd` lies on. Errors of the disk are raised, as OSError.

    Where the kernel or the file system has no syncfs, everything is written out with sync(2).
    """
    global _libc  # noqa: PLW0603  (ctypes costs milliseconds to import, so it is opened at the first call)
    import ctypes

    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(_libc, "syncfs", None)
    if call is None:
        os.sync()
        return
    while call(ctypes.c_int(fd)) != 0:
        number = ctypes.get_errno()
        if number == errno.EINTR:
            continue
        if number not in _CANNOT_SYNC:
            raise OSError(number, os.strerror(number))
        os.sync()
        return


# --- exchange ---------------------------------------------------------------------------------------------------------

_RENAME_EXCHANGE = 2
# For a C library without renameat2: its number, by os.uname().machine.
_RENAMEAT2 = {
    "x86_64": 316,
    "i686": 353,
    **dict.fromkeys(("aarch64", "riscv64", "loongarch64"), 276),
    **dict.fromkeys(("armv6l", "armv7l", "armv8l"), 382),  # armv8l: what a 64-bit kernel tells programs of 32 bits
    "ppc64le": 357,
    "s390x": 347,
}


def exchange(one: str, other: str, dir_fd: int) -> None:
    """Swap two entries of the directory `dir_fd`, of whatever kinds, in one step: neither name is absent at any moment.

    Not synced. OSError: EINVAL, ENOSYS, EXDEV or EOPNOTSUPP where the kernel or the file system cannot do it.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    fd, flags = ctypes.c_int(dir_fd), ctypes.c_uint(_RENAME_EXCHANGE)
    names = (fd, os.fsencode(one), fd, os.fsencode(other), flags)
    call = getattr(libc, "renameat2", None)
    if call is not None:
        failed = call(*names)
    else:
        number = _RENAMEAT2.get(os.uname().machine)
        if number is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS), one)
        failed = libc.syscall(ctypes.c_long(number), *names)
    if failed:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), one)


# --- removal ----------------------------------------------------------------------------------------------------------


def remove_tree(name: str, dir_fd: int, on_unlink: Callable[[os.stat_result], None] | None = None) -> bool:
    """Remove the file, link or directory `name` of the directory `dir_fd`; whether there was one.

    Works on descriptors and follows nothing: a directory that is swapped for a link while it is emptied makes it
    fail with NotADirectoryError, and never leads outside. Directories that may not be written to are made so first;
    files are only unlinked, so other names of them keep their mode and times. Two descriptors are open at a time,
    however deep the tree; another file system mounted inside is refused (EXDEV).
    `on_unlink` is called after each entry that is no directory, with its status from just before.
    """
    try:
        status = os.lstat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return False
    if not stat.S_ISDIR(status.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        if on_unlink is not None:
            on_unlink(status)
        return True
    _empty(name, dir_fd, status.st_dev, on_unlink)
    os.rmdir(name, dir_fd=dir_fd)
    return True


def _empty(top: str, dir_fd: int, device: int, on_unlink: Callable[[os.stat_result], None] | None) -> None:
    """Depth first, without recursion; going up is by `..`, checked to be the directory that we came down from."""
    fd = _open_writable(top, dir_fd, device)
    try:
        # For each level: which directory it is, its subdirectories still to be emptied, its name in the level above.
        levels = [(_identity(fd), _unlink_files(fd, on_unlink), top)]
        while True:
            subdirectories = levels[-1][1]
            if subdirectories:
                name = subdirectories[-1]
                child = _open_writable(name, fd, device)
                os.close(fd)
                fd = child
                levels.append((_identity(fd), _unlink_files(fd, on_unlink), name))
                continue
            _, _, name = levels.pop()
            if not levels:
                return
            parent = os.open("..", OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = parent
            if _identity(fd) != levels[-1][0]:
                raise OSError(errno.EBUSY, "a directory was moved while it was removed", name)
            os.rmdir(name, dir_fd=fd)
            levels[-1][1].pop()
    finally:
        os.close(fd)


def _open_writable(name: str, dir_fd: int, device: int) -> int:
    """A descriptor of the directory `name`, made readable, writable and searchable for its owner."""
    handle = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        status = os.fstat(handle)
        if status.st_dev != device:
            raise OSError(errno.EXDEV, "another file system is mounted here", name)
        if status.st_mode & 0o700 != 0o700:
            # Through /proc: fchmod takes no descriptor that was opened only as a path, and a path may be swapped.
            os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
    finally:
        os.close(handle)


def _unlink_files(fd: int, on_unlink: Callable[[os.stat_result], None] | None) -> list[str]:
    """Unlink everything in `fd` that is no directory; the names of the directories."""
    directories = []
    with os.scandir(fd) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                directories.append(entry.name)
                continue
            status = entry.stat(follow_symlinks=False) if on_unlink is not None else None
            os.unlink(entry.name, dir_fd=fd)
            if on_unlink is not None and status is not None:
                on_unlink(status)
    return directories


def _identity(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


# --- locks ------------------------------------------------------------------------------------------------------------


class FileLock:
    """A flock on a file of its own, held through an open descriptor; the kernel frees it when the process ends.

    The file is left in place. `fd` is the open descriptor while it is held (for an owner written inside).
    """

    def __init__(self, path: str, mode: int = 0o600) -> None:
        self.path = path
        self._mode = mode
        self._fd = -1

    @property
    def fd(self) -> int:
        if self._fd < 0:
            raise ValueError(f"{self.path}: the lock is not held")
        return self._fd

    @property
    def held(self) -> bool:
        return self._fd >= 0

    def acquire(self, exclusive: bool = True, wait: bool = True) -> bool:
        """Take the lock, or change how it is held. False when `wait` is off and another has it."""
        fd = self._fd
        if fd < 0:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, self._mode)
        try:
            taken = flock(fd, exclusive, wait)
        except BaseException:
            if self._fd < 0:
                os.close(fd)
            raise
        if taken:
            self._fd = fd
        elif self._fd < 0:
            os.close(fd)
        return taken

    def release(self) -> None:
        """Free the lock; nothing happens when it is not held."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __enter__(self) -> FileLock:
        if not self.held:
            self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def flock(fd: int, exclusive: bool, wait: bool = True) -> bool:
    """flock(2) on an open descriptor; False when `wait` is off and another process has it."""
    operation = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        fcntl.flock(fd, operation if wait else operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
