"""Put right what has rotted, without its path being absent or half there at any moment.

The right contents are unpacked beside the path, checked, made durable, and swapped in by one exchange of two names. The
name beside it has the hash part of the path's own, which a temporary root keeps: no collector, Nix's or ours, removes
it meanwhile, and any of them does when we were killed. Whoever has a file of the old contents open goes on reading it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import canonical, disk, form, links

if TYPE_CHECKING:
    from reconciler.core.nix.nar_format import Reader
    from reconciler.core.store.path_info import PathInfo
    from reconciler.core.store.store import Store

_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EXDEV, errno.EOPNOTSUPP)
_CANNOT = "the file system (or the kernel) cannot exchange two names, so the path would be absent for a moment"
_INSTEAD = (
    "when nothing uses the path: `nix-store --delete --ignore-liveness PATH` on the host and deploy again; lasting:"
    " /nix/store on ext4, xfs, btrfs, f2fs or tmpfs with Linux 3.15 or later; an overlay mounted with redirect_dir=on"
)


def repair_path(store: Store, stream: Reader, info: PathInfo) -> None:
    """Put the archive that comes next in `stream` in the place of the files of `info.path`, which must be valid.

    As many bytes as are registered of it are taken from the stream. FormatError or StoreError, with the path as it was,
    when the archive is not the one registered, when `info` says otherwise than the registration, or when the file
    system cannot exchange. Wrong entries of `.links` for files of the archive are removed, so that optimising does not
    bring the old contents back.
    """
    path = info.path
    staging = StorePath(path.hash_part, f"repair-{os.getpid()}-{os.urandom(4).hex()}")
    with disk.errors(path):
        store.add_temp_roots([path, staging])
        with store.path_lock(path), store.directory() as store_fd:
            registered = store.info(path)
            if (registered.nar_hash, registered.nar_size) != (info.nar_hash, info.nar_size):
                raise StoreError(f"{path}: {registered.nar_hash} is registered of it, and {info.nar_hash} was brought")
            try:
                _unpack(store, stream, registered, staging, store_fd)
                _drop_rotten_links(store, store.real(staging))
                fs.syncfs(store_fd)
                _swap(staging.base_name, path.base_name, store_fd)
                fs.fsync_directory(store_fd)
            finally:
                # The old contents after the exchange, the new ones when it did not come to that. What a bad disk does
                # not let go of is left to a collector.
                with contextlib.suppress(OSError):
                    fs.remove_tree(staging.base_name, store_fd)


def repair_in_place(store: Store, path: StorePath) -> bool:
    """Give the files of a valid path the form of a store (modes, times, owner) where their contents are right.

    False when the contents are wrong, or a file that would have to be changed has other names that are not the store's,
    or may not be changed by this user: then repair_path is needed.
    """
    with disk.errors(path):
        store.add_temp_root(path)
        with store.path_lock(path), store.directory() as store_fd:
            info, real = store.info(path), store.real(path)
            owner = _owner(store)
            try:
                if nar.hash_path(real) != (info.nar_hash, info.nar_size):
                    return False
                _mend_shared(store, real, owner)
                store.canonicalise(real, owner.st_uid, owner.st_gid)
            except (FileNotFoundError, PermissionError, StoreError, FormatError):
                return False
            fs.syncfs(store_fd)
    return True


def repair_links(store: Store) -> tuple[str, ...]:
    """Remove the entries of `.links` that are not what their names say; their names, sorted.

    The paths that share a rotten file with such an entry keep it: they are found and repaired on their own.
    """
    rotten = sorted(name for name in links.names(store) if links.fault(store, name) is not None)
    with disk.errors(links.directory(store)):
        for name in rotten:
            canonical.remove(os.path.join(links.directory(store), name))
    return tuple(rotten)


# --- steps ------------------------------------------------------------------------------------------------------------


class _Hashing:
    """A Reader of the next `left` bytes of a stream that hashes what passes through it."""

    def __init__(self, stream: Reader, size: int) -> None:
        self._stream = nar.Bounded(stream, size)
        self._state = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._state.update(data)
        return data

    @property
    def left(self) -> int:
        return self._stream.left

    def result(self) -> Hash:
        return Hash("sha256", self._state.digest())


def _unpack(store: Store, stream: Reader, info: PathInfo, staging: StorePath, store_fd: int) -> None:
    hashing = _Hashing(stream, info.nar_size)
    try:
        size = nar.restore(hashing, store_fd, staging.base_name)
    except FormatError as error:
        raise FormatError(f"{info.path}: {error.message}", error.hint) from error
    if hashing.left or size != info.nar_size:
        raise StoreError(f"{info.path}: the archive brought has {size} bytes, registered are {info.nar_size}")
    found = hashing.result()
    if found != info.nar_hash:
        raise StoreError(f"{info.path}: the archive brought has the hash {found}, registered is {info.nar_hash}")
    owner = _owner(store)
    if store.inherits_attributes or owner.st_uid != os.geteuid():
        store.canonicalise(store.real(staging), owner.st_uid, owner.st_gid)


def _owner(store: Store) -> os.stat_result:
    """Whose the store's files are: those of whoever owns the database."""
    return os.stat(os.path.join(store.state_dir, "db", "db.sqlite"))


def _swap(staging: str, name: str, store_fd: int) -> None:
    try:
        os.lstat(name, dir_fd=store_fd)
    except FileNotFoundError:
        # Whoever holds the lock of a path is alone in making it.
        os.rename(staging, name, src_dir_fd=store_fd, dst_dir_fd=store_fd)
        return
    try:
        fs.exchange(staging, name, store_fd)
    except OSError as error:
        if error.errno in _NO_EXCHANGE:
            raise StoreError(f"/nix/store/{name}: {_CANNOT}: {error.strerror}", _INSTEAD) from error
        raise


def _files(top: str) -> Iterator[str]:
    """The files and links of a tree in the store."""
    if os.path.islink(top) or not os.path.isdir(top):
        yield top
        return
    for directory, names, files in os.walk(top):
        for name in [*files, *(each for each in names if os.path.islink(os.path.join(directory, each)))]:
            yield os.path.join(directory, name)


def _drop_rotten_links(store: Store, staged: str) -> None:
    if not os.path.isdir(links.directory(store)):
        return
    for file in _files(staged):
        entry = links.of_file(store, nar.hash_path(file)[0])
        if os.path.lexists(entry) and links.fault(store, os.path.basename(entry)) is not None:
            canonical.remove(entry)


def _mend_shared(store: Store, real: str, owner: os.stat_result) -> None:
    """The form of files that the path shares with `.links`, whose inodes are the store's alone to change."""
    for file in _files(real):
        status = os.lstat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_nlink == 1 or not any(form.misfits(file, owner.st_uid)):
            continue
        entry = links.of_file(store, nar.hash_path(file)[0])
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(entry), status):
                _mend(file, status, owner)


def _mend(file: str, status: os.stat_result, owner: os.stat_result) -> None:
    fd = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(fd), status):
            return  # canonicalise refuses what is still wrong
        handle = f"/proc/self/fd/{fd}"
        if status.st_uid != owner.st_uid:
            os.chown(handle, owner.st_uid, owner.st_gid)
        os.chmod(handle, 0o555 if status.st_mode & stat.S_IXUSR else 0o444)
        os.utime(handle, (status.st_atime, form.MTIME))
    finally:
        os.close(fd)
