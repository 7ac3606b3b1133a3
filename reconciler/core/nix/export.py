"""The stream of `nix-store --export`: whole paths in one stream, references before referrers.

    stream   = {1 archive trailer} 0
    trailer  = 0x4558494e path references deriver signed
    path     = str(full path)            references = their number, str(full path)*
    deriver  = str(full path, or empty)  signed     = 0, or 1 str(a signature that nothing checks: Nix before 2.0)

Numbers have 64 bits, little-endian; archive and str are nar_format's. Neither signatures nor content addresses travel.
The name of a path comes after its archive, and nothing says beforehand how long the archive is: whoever reads keeps it
somewhere until the trailer has come.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Callable

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar_format
from reconciler.core.nix.nar_format import CHUNK, Reader
from reconciler.core.nix.store_path import HASH_PART_LENGTH, MAX_NAME_LENGTH, STORE_DIR, StorePath
from reconciler.core.values import value

PATH = (1).to_bytes(8, "little")  # a path follows
END = bytes(8)
TRAILER = 0x4558494E
MAX_REFERENCES = 100_000
MAX_SIGNATURE = 4096

_MAX_PATH = len(STORE_DIR) + 1 + HASH_PART_LENGTH + 1 + MAX_NAME_LENGTH


@value
class Trailer:
    """What comes after an archive. `references` are sorted and may hold the path itself."""

    path: StorePath
    references: tuple[StorePath, ...]
    deriver: StorePath | None


def trailer(path: StorePath, references: Iterable[StorePath], deriver: StorePath | None) -> bytes:
    """The bytes after a path's archive; `references` in any order."""
    listed = [_string(str(reference)) for reference in sorted(set(references))]
    return b"".join(
        (
            TRAILER.to_bytes(8, "little"),
            _string(str(path)),
            len(listed).to_bytes(8, "little"),
            *listed,
            _string("" if deriver is None else str(deriver)),
            bytes(8),
        )
    )


def read_trailer(stream: Reader) -> Trailer:
    """What comes after an archive, and not a byte more; FormatError when it is anything else."""
    if _number(stream) != TRAILER:
        raise _fault("after an archive something else than its trailer comes")
    path = _path(stream)
    count = _number(stream)
    if count > MAX_REFERENCES:
        raise _fault(f"{path} has {count} references; {MAX_REFERENCES} are allowed")
    references = tuple(sorted({_path(stream) for _ in range(count)}))
    deriver = _text(stream, _MAX_PATH)
    signed = _number(stream)
    if signed > 1:
        raise _fault(f"the trailer of {path} does not end")
    if signed:
        _text(stream, MAX_SIGNATURE)
    return Trailer(path, references, StorePath.parse(deriver) if deriver else None)


class Exports:
    """Reads a stream path by path: while `more()`, first `archive()`, then `trailer()`."""

    def __init__(self, stream: Reader) -> None:
        self._stream = _Rewinding(stream)

    def more(self) -> bool:
        """Whether another path follows. After the end nothing more is read from the stream."""
        head = _number(self._stream)
        if head > 1:
            raise _fault(f"the number {head} stands where 1 (a path) or 0 (the end) is wanted")
        return head == 1

    def archive(self, write: Callable[[bytes], object]) -> int:
        """Give the archive, checked strictly while it is read, to `write` in pieces; its size in bytes. FormatError at
        the first byte that is not right; some of what came before it has been written then."""
        return self._stream.archive(write)

    def trailer(self) -> Trailer:
        """What comes after the archive."""
        return read_trailer(self._stream)


class _Rewinding:
    """A Reader that can take back what a reader of archives took beyond the end of one."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._back = b""
        self._write: Callable[[bytes], object] | None = None  # while an archive is read
        self._copied: deque[bytes] = deque()  # what was given of it and is not written yet
        self._waiting = 0  # bytes of that
        self._written = 0

    def read(self, size: int, /) -> bytes:
        if self._back:
            data, self._back = self._back[:size], self._back[size:]
        else:
            data = self._stream.read(size)
        if self._write is not None:
            self._copied.append(data)
            self._waiting += len(data)
            self._write_all_but(CHUNK)
        return data

    def archive(self, write: Callable[[bytes], object]) -> int:
        self._write = write
        self._copied.clear()
        self._waiting = self._written = 0
        try:
            size = nar_format.parse(self, _Nothing())
        finally:
            self._write = None
        rest = b"".join(self._copied)
        kept = size - self._written
        write(rest[:kept])
        self._back = rest[kept:] + self._back
        return size

    def _write_all_but(self, held: int) -> None:
        """Write the oldest pieces: what remains has `held` bytes or more, of which a part may be given back."""
        assert self._write is not None
        while self._copied and self._waiting - len(self._copied[0]) >= held:
            piece = self._copied.popleft()
            self._waiting -= len(piece)
            self._written += len(piece)
            self._write(piece)


class _Nothing:
    """The Visitor that keeps nothing: the archive is only checked."""

    def directory(self, name: bytes) -> None:
        pass

    def leave(self) -> None:
        pass

    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None:
        pass

    def link(self, name: bytes, target: bytes) -> None:
        pass


def _string(text: str) -> bytes:
    return nar_format.string(text.encode())


def _fault(what: str) -> FormatError:
    return FormatError(f"bad export stream: {what}")


def _exactly(stream: Reader, size: int) -> bytes:
    parts = []
    while size:
        data = stream.read(size)
        if not data:
            raise _fault("it is cut short")
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


def _number(stream: Reader) -> int:
    return int.from_bytes(_exactly(stream, 8), "little")


def _text(stream: Reader, limit: int) -> str:
    size = _number(stream)
    if size > limit:
        raise _fault(f"a string of {size} bytes; {limit} are allowed")
    data = _exactly(stream, size + (-size & 7))
    if any(data[size:]):
        raise _fault("padding that is not zeros")
    return data[:size].decode("ascii", errors="backslashreplace")


def _path(stream: Reader) -> StorePath:
    return StorePath.parse(_text(stream, _MAX_PATH))
