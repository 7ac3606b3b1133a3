"""Adding paths to a store: files first, all of a batch made durable at once, then one transaction.

Each path is unpacked where it will lie, under a temporary root and its lock, and hashed on the way. Whoever is killed
before the transaction leaves files that are registered nowhere: garbage to a collector, and for the next one who wants
the path a leftover that `adopt` takes over when it is whole.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar, store_path
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import canonical, content_address, disk
from reconciler.core.store.locks import PathLock
from reconciler.core.store.path_info import PathInfo

if TYPE_CHECKING:
    from reconciler.core.store.store import Store


class Batch:
    """Paths that become valid together, at `commit`. As a context manager it commits unless an error ends it.

    Not for several threads. Several processes may add the same paths: each path is locked from its first byte to the
    commit; to wait for another's lock, what is done is committed first, so that nobody waits in a circle. References
    should therefore come before referrers. Errors of the disk are StoreError, as everything else that is refused.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[StorePath, PathInfo] = {}
        self._derivations: dict[StorePath, Derivation] = {}  # those that were added as such, and need not be read
        self._locks: dict[StorePath, PathLock] = {}
        self._directory = -1  # a descriptor of the store directory, while anything is in this batch

    def __enter__(self) -> Batch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.abandon()

    # --- adding -------------------------------------------------------------------------------------------------------

    def add_nar(self, info: PathInfo, stream: nar.Reader, checked: Hash | None = None) -> bool:
        """Unpack the next `info.nar_size` bytes of `stream` as `info.path`; False when it was there already.

        All of those bytes are taken from the stream, also when the path is there. Size, hash and content address are
        checked: FormatError or StoreError, and no file left, when one is not what `info` says; how much of the stream
        was taken is then open. `checked`: the hash that `stream` itself answers for, as an Archive does before it hands
        out its last byte; it is compared with that of `info`, and not computed again.
        """
        bounded = nar.Bounded(stream, info.nar_size)
        if not self._claim(info.path):
            _drain(bounded)
            return False
        try:
            self._unpack(info, bounded, checked=checked)
        except BaseException:
            self._give_up(info.path)
            raise
        self._pending[info.path] = info
        return True

    def adopt(self, info: PathInfo) -> bool:
        """Take over files of `info.path` that lie there, unregistered, since an import was interrupted.

        True when nothing of the path needs to be sent: it is valid, or what lies there has the hash and size of
        `info`. False, with nothing changed, when it has not.
        """
        if not self._claim(info.path):
            return True
        real, whole = self._store.real(info.path), False
        try:
            whole = os.path.lexists(real) and self._is_whole(info, real)
        finally:
            if not whole:
                self._unlock(info.path)
        if whole:
            self._pending[info.path] = info
        return whole

    def add_text(self, name: str, contents: bytes, references: Iterable[StorePath] = ()) -> StorePath:
        """Add a text file; its path."""
        references = tuple(references)
        path = store_path.text_path(name, contents, references)
        return self._add_archive(path, nar.encode(nar.File(contents)), references, content_address.text(contents))

    def add_tree(self, name: str, node: nar.Node, references: Iterable[StorePath] = ()) -> StorePath:
        """Add a tree that is in memory, as a source; its path."""
        archive = nar.encode(node)
        references = tuple(references)
        nar_hash = Hash.sha256(archive)
        path = store_path.source_path(name, nar_hash, references)
        return self._add_archive(path, archive, references, content_address.recursive(nar_hash))

    def add_path(self, name: str, source: str) -> StorePath:
        """Add a copy of the file, link or directory `source`, as a source; its path."""
        with disk.errors(source):
            nar_hash, size, archive = _read(source)
        path = store_path.source_path(name, nar_hash)
        info = PathInfo(path, nar_hash, size, (), ca=content_address.recursive(nar_hash))
        return self._add_unless_there(info, iter((archive,)) if archive else nar.dump(source))

    def add_fixed(self, name: str, file: str, content_hash: Hash) -> StorePath:
        """Add a copy of the file `file`, whose contents have `content_hash`, as a flat fixed output; its path."""
        state, size = hashlib.sha256(), 0
        with disk.errors(file):
            found = content_address.hash_file(file, content_hash.algorithm)
            for chunk in nar.flat(file):
                state.update(chunk)
                size += len(chunk)
        if found != content_hash:
            raise StoreError(f"{file}: its hash is {found.sri}, not {content_hash.sri}")
        path = store_path.fixed_path(name, content_hash, recursive=False)
        info = PathInfo(path, Hash("sha256", state.digest()), size, (), ca=content_address.flat(content_hash))
        return self._add_unless_there(info, nar.flat(file))

    def add_derivation(self, drv: Derivation, name: str) -> StorePath:
        """Add a .drv file for a derivation whose outputs are computed; `name` is without `.drv`."""
        drv.output_paths()
        path = self.add_text(f"{name}.drv", drv.serialise(), drv.references)
        if path in self._pending:
            self._derivations[path] = drv
        return path

    def _add_archive(self, path: StorePath, archive: bytes, references: tuple[StorePath, ...], ca: str) -> StorePath:
        info = PathInfo(path, Hash.sha256(archive), len(archive), references, ca=ca)
        return self._add_unless_there(info, iter((archive,)))

    def _add_unless_there(self, info: PathInfo, chunks: Iterator[bytes]) -> StorePath:
        if self._claim(info.path):
            try:
                # No check of the address: the path was computed from what is unpacked, and the hash is checked.
                self._unpack(info, nar.Bounded(nar.ChunkReader(chunks), info.nar_size), check_address=False)
            except BaseException:
                self._give_up(info.path)
                raise
            self._pending[info.path] = info
        return info.path

    # --- ending -------------------------------------------------------------------------------------------------------

    def commit(self) -> None:
        """Make all that was added durable, then valid. The batch is empty afterwards and can be used again."""
        try:
            if self._pending:
                with disk.errors(self._store.store_dir):
                    fs.syncfs(self._opened_directory())
                self._store.register(self._pending.values(), self._derivations)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Let go of what is not committed; its files stay, for `adopt` or a collector."""
        self._pending.clear()
        self._derivations.clear()
        for path in list(self._locks):
            self._unlock(path)
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    # --- one path -----------------------------------------------------------------------------------------------------

    def _claim(self, path: StorePath) -> bool:
        """Root and lock `path`; False, and not locked, when it is valid or in this batch already."""
        if path in self._pending:
            return False
        with disk.errors(path):
            self._store.add_temp_root(path)
            # A look at the disk is cheaper than a question to the database, and mostly answers it.
            if os.path.lexists(self._store.real(path)) and self._store.is_valid(path):
                return False
            lock = self._store.path_lock(path)
            if not lock.held_here:
                if not lock.acquire(wait=False):
                    self.commit()
                    lock.acquire()
                self._locks[path] = lock
        if self._store.is_valid(path):
            self._unlock(path)
            return False
        return True

    def _opened_directory(self) -> int:
        if self._directory < 0:
            self._directory = os.open(self._store.store_dir, fs.OPEN_DIRECTORY)
        return self._directory

    def _unlock(self, path: StorePath) -> None:
        lock = self._locks.pop(path, None)
        if lock is not None:
            lock.release()

    def _give_up(self, path: StorePath) -> None:
        try:
            canonical.remove(self._store.real(path))
        except OSError:
            pass  # the error that brought us here says more; a collector removes the rest
        finally:
            self._unlock(path)

    def _unpack(
        self, info: PathInfo, stream: nar.Bounded, *, check_address: bool = True, checked: Hash | None = None
    ) -> None:
        real = self._store.real(info.path)
        hashing = _Hashing(stream, checked)
        with disk.errors(info.path):
            store_fd = self._opened_directory()
            fs.remove_tree(info.path.base_name, store_fd)
            try:
                size = nar.restore(hashing, store_fd, info.path.base_name)
            except FormatError as error:
                raise FormatError(f"{info.path}: {error.message}", error.hint) from error
            _check_archive(info, size, hashing)
            if self._store.inherits_attributes:
                canonical.canonicalise(real)
            if check_address and info.ca:
                content_address.check(info, real)

    def _is_whole(self, info: PathInfo, real: str) -> bool:
        try:
            nar_hash, size = nar.hash_path(real)
            if (nar_hash, size) != (info.nar_hash, info.nar_size):
                return False
            canonical.canonicalise(real)
            if info.ca:
                content_address.check(info, real)
        except (OSError, StoreError, FormatError):
            return False
        return True


def _read(source: str) -> tuple[Hash, int, bytes]:
    """Hash and size of the archive of a tree; and the archive itself, where it is so small that it need not be read
    again (else empty)."""
    state, size, first = hashlib.sha256(), 0, b""
    for chunk in nar.dump(source):
        first = b"" if size else chunk
        state.update(chunk)
        size += len(chunk)
    return Hash("sha256", state.digest()), size, first


class _Hashing:
    """A Reader that hashes what passes through it, unless its hash is `known`."""

    def __init__(self, stream: nar.Bounded, known: Hash | None) -> None:
        self._stream = stream
        self._known = known
        self._state = hashlib.sha256()

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        if self._known is None:
            self._state.update(data)
        return data

    @property
    def left(self) -> int:
        return self._stream.left

    def result(self) -> Hash:
        return self._known or Hash("sha256", self._state.digest())


def _check_archive(info: PathInfo, size: int, hashing: _Hashing) -> None:
    if hashing.left or size != info.nar_size:
        raise StoreError(f"{info.path}: its NAR has {size} bytes, not {info.nar_size}")
    found = hashing.result()
    if found != info.nar_hash:
        raise StoreError(f"{info.path}: its NAR's hash is {found}, not {info.nar_hash}")


def _drain(stream: nar.Bounded) -> None:
    while stream.left:
        if not stream.read(nar.CHUNK):
            raise FormatError("bad archive: it is cut short")
