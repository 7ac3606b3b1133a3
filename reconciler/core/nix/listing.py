"""The listing of an archive (`<hash part>.ls` in a binary cache): its tree as JSON, and where each file's bytes lie.

    {"version":1,"root":node}
    node   {"type":"regular","size":bytes[,"executable":true],"narOffset":where in the archive its contents begin}
           {"type":"symlink","target":target}
           {"type":"directory","entries":{name:node,…}}          in the order of the archive

Made while an archive is read, in memory that grows with the number of entries and never beyond MAX_SIZE. JSON is text:
where a name or a target is not UTF-8 there is no listing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar_format
from reconciler.core.nix.nar_format import (
    CLOSE,
    DIRECTORY,
    ENTRY,
    EXECUTABLE,
    MAGIC,
    NODE,
    REGULAR,
    SYMLINK,
    Reader,
)

MAX_SIZE = 256 * 1024 * 1024


def listing(stream: Reader) -> bytes:
    """The listing of one archive; FormatError when it is none, or when it cannot be listed."""
    lister = Lister()
    nar_format.parse(stream, lister)
    return lister.result()


class Lister:
    """The Visitor that makes the listing, for whoever reads the archive anyhow."""

    def __init__(self) -> None:
        self._parts: list[str] = ['{"version":1,"root":']
        self._size = len(self._parts[0])
        self._offset = len(MAGIC)
        self._first: list[bool] = []  # for each open directory: whether no entry has come yet

    def result(self) -> bytes:
        """The listing, once the whole archive has been read."""
        return "".join([*self._parts, "}"]).encode()

    def directory(self, name: bytes) -> None:
        self._begin(name)
        self._offset += len(DIRECTORY)
        self._put('{"type":"directory","entries":{')
        self._first.append(True)

    def leave(self) -> None:
        self._first.pop()
        self._put("}}")
        self._end()

    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None:
        self._begin(name)
        self._offset += len(EXECUTABLE if executable else REGULAR) + 8
        start = self._offset
        size = sum(map(len, contents))
        self._offset += size + (-size & 7)
        flag = ',"executable":true' if executable else ""
        self._put(f'{{"type":"regular","size":{size}{flag},"narOffset":{start}}}')
        self._end()

    def link(self, name: bytes, target: bytes) -> None:
        self._begin(name)
        self._offset += len(SYMLINK) + len(nar_format.string(target))
        self._put(f'{{"type":"symlink","target":{_quote(target)}}}')
        self._end()

    def _begin(self, name: bytes) -> None:
        if not self._first:
            return
        self._offset += len(ENTRY) + len(nar_format.string(name)) + len(NODE)
        self._put(f"{'' if self._first[-1] else ','}{_quote(name)}:")
        self._first[-1] = False

    def _end(self) -> None:
        """A node is over, and the entry that it is of, if it is not the root."""
        self._offset += 2 * len(CLOSE) if self._first else len(CLOSE)

    def _put(self, text: str) -> None:
        self._size += len(text)
        if self._size > MAX_SIZE:
            raise FormatError(f"the archive has too many entries: its listing would have more than {MAX_SIZE} bytes")
        self._parts.append(text)


def _quote(data: bytes) -> str:
    try:
        return json.dumps(data.decode(), ensure_ascii=False)
    except UnicodeDecodeError:
        raise FormatError(f"{data[:80]!r} is not UTF-8: an archive with it has no listing") from None
