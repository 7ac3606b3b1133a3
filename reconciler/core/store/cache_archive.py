"""The archive of a path as it comes from a cache: decompressed, bounded, and checked before its last byte."""

from __future__ import annotations

import hashlib
from types import TracebackType
from typing import Protocol

from reconciler.core.errors import FormatError, ReconcilerError, StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.nar_format import CHUNK
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.store.compression import CutShortError, Decompressed
from reconciler.core.store.web import WebError

# How much longer than its contents a compressed archive may be: no method makes anything longer than that.
_SLACK_PART, _SLACK = 8, 64 * 1024


class File(Protocol):
    """A file of a cache as it comes. `length`: its bytes, or None where nobody says."""

    @property
    def length(self) -> int | None: ...
    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def check_sizes(found: NarInfo) -> None:
    """StoreError when FileSize cannot be that of such an archive."""
    if found.file_size is not None and not 0 < found.file_size <= _most(found):
        raise StoreError(f"FileSize: {found.file_size} bytes cannot be those of an archive of {found.nar_size}")


def _most(found: NarInfo) -> int:
    return found.nar_size + found.nar_size // _SLACK_PART + _SLACK


class Archive:
    """A NAR as it comes from a cache: a Reader, to be closed. Its last bytes are handed out only when NarSize, NarHash,
    FileSize and FileHash are all right; FormatError that names the field when one is not.

    `failure`: the error that a read ended with. `received`: the bytes of the file so far.
    """

    def __init__(self, file: File, narinfo: NarInfo, shown: str) -> None:
        self._file = file
        self._narinfo = narinfo
        self._shown = shown
        self._compressed = _Hashed(file, narinfo)
        self._plain = Decompressed(narinfo.compression, self._compressed, narinfo.nar_size)
        self._state = hashlib.sha256()
        self.failure: ReconcilerError | None = None

    @property
    def nar_hash(self) -> Hash:
        """What the hash of all that is handed out has been found to be, once its last byte was."""
        return self._narinfo.nar_hash

    @property
    def received(self) -> int:
        return self._compressed.size

    def read(self, size: int, /) -> bytes:
        if self._plain.done == self._narinfo.nar_size:
            return b""
        try:
            data = self._next(size)
            if self._plain.done == self._narinfo.nar_size:
                self._check_end()
        except (StoreError, FormatError) as error:
            self.failure = error if isinstance(error, WebError) else type(error)(*self._told(error))
            raise self.failure from None
        return data

    def _told(self, error: ReconcilerError) -> tuple[str, str | None]:
        return f"{self._shown}: {error.message}", error.hint

    def _next(self, size: int) -> bytes:
        # Never beyond what is allowed here: whether more would come is asked at the end.
        data = self._plain.read(min(size, self._narinfo.nar_size - self._plain.done))
        if not data:
            if self._compressed.size == (self._narinfo.file_size or self._file.length):
                raise FormatError(f"NarSize: the archive has {self._plain.done} bytes, not {self._narinfo.nar_size}")
            raise CutShortError(f"it ends after {self._plain.done} of {self._narinfo.nar_size} bytes")
        self._state.update(data)
        return data

    def _check_end(self) -> None:
        found = self._narinfo
        try:
            while self._plain.read(CHUNK):
                pass
        except CutShortError:
            raise
        except FormatError as error:
            raise FormatError(f"NarSize: {error.message}", error.hint) from None
        if found.file_size is not None and self._compressed.size != found.file_size:
            raise FormatError(f"FileSize: the file has {self._compressed.size} bytes, not {found.file_size}")
        if found.file_hash is not None:
            file_hash = self._compressed.result(found.file_hash)
            if file_hash != found.file_hash:
                raise FormatError(f"FileHash: the file's hash is {file_hash}, not {found.file_hash}")
        nar_hash = Hash("sha256", self._state.digest())
        if nar_hash != found.nar_hash:
            raise FormatError(f"NarHash: the archive's hash is {nar_hash}, not {found.nar_hash}")

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Hashed:
    """A Reader that counts and hashes what passes through it, and lets no more pass than there may be."""

    def __init__(self, file: File, narinfo: NarInfo) -> None:
        self._file = file
        self._limit = _most(narinfo) if narinfo.file_size is None else narinfo.file_size
        algorithm = narinfo.file_hash.algorithm if narinfo.file_hash is not None else "sha256"
        self._state = hashlib.new(algorithm, usedforsecurity=False)
        self.size = 0

    def read(self, size: int, /) -> bytes:
        data = self._file.read(size)
        self.size += len(data)
        if self.size > self._limit:
            raise FormatError(f"FileSize: the file is longer than {self._limit} bytes")
        self._state.update(data)
        return data

    def result(self, like: Hash) -> Hash:
        return Hash(like.algorithm, self._state.digest())
