"""Archives from files and files from archives, on directory descriptors.

No path is resolved twice and no link is ever followed: each entry is opened relative to its directory's descriptor, and
a new one only where nothing stands. What is unpacked has the store's canonical form at once: files 0444 or 0555,
directories 0555, mtime 1, owned by whoever runs this.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Iterable, Iterator
from typing import Union

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.nar_format import (
    CHUNK,
    CLOSE,
    DIRECTORY,
    ENTRY,
    EXECUTABLE,
    MAGIC,
    MAX_DEPTH,
    NODE,
    REGULAR,
    SYMLINK,
    Reader,
    check_target,
    parse,
    string,
)

# O_NONBLOCK: a fifo must not hold us up before fstat can refuse it.
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

STORE_MTIME_NS = 1_000_000_000


# --- from disk --------------------------------------------------------------------------------------------------------


def dump(path: str) -> Iterator[bytes]:
    """The archive of the file, link or directory `path`, in chunks of at most CHUNK bytes.

    StoreError for anything that is none of these, is nested too deeply, or changes size meanwhile.
    """
    for chunk in _chunks(_parts(path), path):
        yield bytes(chunk)


def hash_path(path: str) -> tuple[Hash, int]:
    """The sha256 of the archive of `path`, and the archive's size in bytes."""
    import hashlib  # loads OpenSSL, which no other way through here needs

    state, size = hashlib.sha256(), 0
    for chunk in _chunks(_parts(path), path):
        state.update(chunk)
        size += len(chunk)
    return Hash("sha256", state.digest()), size


def flat(path: str) -> Iterator[bytes]:
    """The archive of one regular file as data, not executable whatever its mode; a link to it is followed."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise StoreError(f"{path}: not a regular file")
        size = status.st_size
        parts = (MAGIC + REGULAR + _U64(size), (fd, size, b""), bytes(-size & 7) + CLOSE)
        for chunk in _chunks(parts, path):
            yield bytes(chunk)
    finally:
        os.close(fd)


# Bytes as they are; or a file's contents as (descriptor, size, name), the name empty for the root.
_Part = Union[bytes, "tuple[int, int, bytes]"]


def _chunks(parts: Iterable[_Part], top: str) -> Iterator[memoryview]:
    """The bytes of all parts, files read right where they belong in the one buffer; each chunk is good until the next
    is asked for, and never longer than CHUNK. (A part that is bytes is much shorter.)"""
    buffer = bytearray(CHUNK)
    view, filled = memoryview(buffer), 0
    for part in parts:
        if isinstance(part, bytes):
            end = filled + len(part)
            if end > CHUNK:
                yield view[:filled]
                filled, end = 0, len(part)
            buffer[filled:end] = part
            filled = end
            continue
        fd, left, name = part
        while left:
            if filled == CHUNK:
                yield view
                filled = 0
            read = os.readv(fd, (view[filled : filled + left],))
            if not read:
                raise StoreError(f"{_where(top, name)}: changed while it was read")
            filled += read
            left -= read
    if filled:
        yield view[:filled]


def _parts(path: str) -> Iterator[_Part]:
    yield MAGIC
    path = os.path.abspath(path)
    mode = os.lstat(path).st_mode
    if not stat.S_ISDIR(mode):
        yield from _leaf(os.fsencode(path), b"", None, stat.S_ISLNK(mode), path)
        return
    # For each open directory: its descriptor and its entries still to come.
    levels = [_open(path, None)]
    yield DIRECTORY
    try:
        while levels:
            fd, entries = levels[-1]
            if not entries:
                levels.pop()
                os.close(fd)
                yield CLOSE + CLOSE if levels else CLOSE
                continue
            name, is_directory, is_link = entries.pop()
            if len(levels) >= MAX_DEPTH:
                raise StoreError(f"{path}: directories nested deeper than {MAX_DEPTH - 1} cannot be archived")
            yield b"".join((ENTRY, string(name), NODE))
            if is_directory:
                yield DIRECTORY
                levels.append(_open(name, fd))
            else:
                yield from _leaf(name, name, fd, is_link, path)
                yield CLOSE
    finally:
        for fd, _ in levels:
            os.close(fd)


def _open(name: str | bytes, dir_fd: int | None) -> tuple[int, list[tuple[bytes, bool, bool]]]:
    """A directory's descriptor and its entries in reverse order of the archive, as (name, a directory, a link)."""
    fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=dir_fd)
    try:
        with os.scandir(fd) as found:
            entries = [
                (os.fsencode(each.name), each.is_dir(follow_symlinks=False), each.is_symlink()) for each in found
            ]
    except BaseException:
        os.close(fd)
        raise
    entries.sort(reverse=True)
    return fd, entries


def _leaf(file: bytes, name: bytes, dir_fd: int | None, is_link: bool, top: str) -> Iterator[_Part]:
    if is_link:
        target = os.readlink(file, dir_fd=dir_fd)
        yield b"".join((SYMLINK, string(check_target(target)), CLOSE))
        return
    try:
        fd = os.open(file, _READ, dir_fd=dir_fd)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise StoreError(f"{_where(top, name)}: neither file, link nor directory") from None
        raise
    try:
        status = os.fstat(fd)
        mode, size = status.st_mode, status.st_size
        if not stat.S_ISREG(mode):
            raise StoreError(f"{_where(top, name)}: neither file, link nor directory")
        yield (EXECUTABLE if mode & stat.S_IXUSR else REGULAR) + _U64(size)
        yield fd, size, name
        yield bytes(-size & 7) + CLOSE
    finally:
        os.close(fd)


_NO_FILE = (errno.ENXIO, errno.ELOOP)  # a socket; what has become a link
_U64 = struct.Struct("<Q").pack


def _where(top: str, name: bytes) -> str:
    return f"{top}: '{os.fsdecode(name)}'" if name else top


# --- to disk ----------------------------------------------------------------------------------------------------------


def restore(stream: Reader, parent_fd: int, name: str) -> int:
    """Unpack one archive as the new entry `name` of the directory `parent_fd`; the archive's size in bytes.

    FileExistsError when the entry is there. FormatError as for `parse`, and any OSError of the disk, leave what was
    unpacked until then: whoever called removes it. Nothing is written outside of the entry.
    """
    if name in ("", ".", "..") or "/" in name:
        raise FormatError(f"{name!r} cannot name an entry")
    unpacker = _Unpacker(parent_fd, name)
    try:
        return parse(stream, unpacker)
    finally:
        unpacker.close()


class _Unpacker:
    """The Visitor that makes files."""

    def __init__(self, parent_fd: int, name: str) -> None:
        self._open = [parent_fd]
        self._root = os.fsencode(name)
        # A new file's atime is now: with an atime of 1, too, the first read of each file would write its inode.
        self._times = (time.time_ns(), STORE_MTIME_NS)

    def close(self) -> None:
        """Close the directories that an interrupted archive left open."""
        while len(self._open) > 1:
            os.close(self._open.pop())

    def directory(self, name: bytes) -> None:
        name = name or self._root
        parent = self._open[-1]
        os.mkdir(name, 0o700, dir_fd=parent)
        self._open.append(os.open(name, fs.OPEN_DIRECTORY, dir_fd=parent))

    def leave(self) -> None:
        fd = self._open[-1]
        os.fchmod(fd, 0o555)
        os.utime(fd, ns=self._times)
        os.close(self._open.pop())

    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None:
        fd = os.open(name or self._root, _CREATE, 0o600, dir_fd=self._open[-1])
        try:
            for piece in contents:
                fs.write_all(fd, piece)
            os.fchmod(fd, 0o555 if executable else 0o444)
            os.utime(fd, ns=self._times)
        finally:
            os.close(fd)

    def link(self, name: bytes, target: bytes) -> None:
        name = name or self._root
        os.symlink(target, name, dir_fd=self._open[-1])
        os.utime(name, ns=self._times, dir_fd=self._open[-1], follow_symlinks=False)
