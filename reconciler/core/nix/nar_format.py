"""The format of Nix archives: grammar, strict reader, writer of trees in memory. No file system.

    nar       = str("nix-archive-1") node
    node      = str("(") str("type") (regular | symlink | directory) str(")")
    regular   = str("regular") [str("executable") str("")] str("contents") str(bytes)
    symlink   = str("symlink") str("target") str(target)
    directory = str("directory") {str("entry") str("(") str("name") str(name) str("node") node str(")")}
    str(s)    = length of s (64 bits, little-endian), s, zeros up to a multiple of 8

Names increase strictly, bytewise; none is empty, "." or "..", nor holds "/" or NUL. A file is executable if its owner
may execute it; nothing else of a file is represented. The limits of Nix 2.34 hold for what is read and for what is
written: a name has at most 255 bytes, a target 1 to 4095 without NUL, a node at most 63 directories above it.

Reading and writing are iterative and take bounded memory. A reader may take up to CHUNK bytes beyond the end of the
archive from its stream: whoever has more than one archive in a stream bounds each (`Bounded`).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol, Union

from reconciler.core.errors import FormatError
from reconciler.core.values import value

CHUNK = 256 * 1024
MAX_NAME = 255
MAX_TARGET = 4095
MAX_DEPTH = 64  # a node this deep is refused; the root has depth 0

_U64 = struct.Struct("<Q")
_PADDING = tuple(b"\0" * (-rest % 8) for rest in range(8))


def string(data: bytes) -> bytes:
    """str(s): length, bytes, padding."""
    return b"".join((_U64.pack(len(data)), data, _PADDING[len(data) & 7]))


def _tokens(*words: str) -> bytes:
    return b"".join(string(word.encode()) for word in words)


# Runs of tokens between which the grammar leaves no choice, as the bytes that they are.
MAGIC = _tokens("nix-archive-1")
CLOSE = _tokens(")")
DIRECTORY = _tokens("(", "type", "directory")
REGULAR = _tokens("(", "type", "regular", "contents")
EXECUTABLE = _tokens("(", "type", "regular", "executable", "", "contents")
SYMLINK = _tokens("(", "type", "symlink", "target")
ENTRY = _tokens("entry", "(", "name")
NODE = _tokens("node")
_REGULAR_TYPE = _tokens("(", "type", "regular")


class Reader(Protocol):
    """A stream of bytes: `read(n)` gives 1 to n of them, and none at the end."""

    def read(self, size: int, /) -> bytes: ...


class Visitor(Protocol):
    """Told of every node in the order of the archive. The root's name is empty."""

    def directory(self, name: bytes) -> None: ...
    def leave(self) -> None: ...
    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None: ...
    def link(self, name: bytes, target: bytes) -> None: ...


# --- streams ----------------------------------------------------------------------------------------------------------


class ChunkReader:
    """A Reader over chunks of any sizes."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._rest = b""

    def read(self, size: int, /) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = chunk
        data = self._rest
        if len(data) <= size:
            self._rest = b""
            return data
        self._rest = data[size:]
        return data[:size]


class Bounded:
    """A Reader of the next `size` bytes of a stream; `left` of them are still there. The end comes earlier if the
    stream ends."""

    def __init__(self, stream: Reader, size: int) -> None:
        self._stream = stream
        self.left = size

    def read(self, size: int, /) -> bytes:
        if not self.left:
            return b""
        data = self._stream.read(min(size, self.left))
        self.left -= len(data)
        return data


# --- reading ----------------------------------------------------------------------------------------------------------


class _Source:
    """A buffer of at most two chunks before a stream."""

    def __init__(self, stream: Reader) -> None:
        self._stream = stream
        self._buffer = b""
        self._position = 0
        self._taken = 0

    @property
    def consumed(self) -> int:
        return self._taken - len(self._buffer) + self._position

    def fail(self, what: str) -> FormatError:
        return FormatError(f"bad archive: {what} (at byte {self.consumed})")

    def ensure(self, size: int) -> None:
        """At least `size` bytes in the buffer; FormatError when the stream ends before."""
        missing = size - (len(self._buffer) - self._position)
        if missing <= 0:
            return
        rest = self._buffer[self._position :]
        parts = [rest] if rest else []  # a single part is not copied: within a large file, nothing is
        while missing > 0:
            data = self._stream.read(CHUNK)
            if not data:
                raise self.fail("it is cut short")
            parts.append(data)
            self._taken += len(data)
            missing -= len(data)
        self._buffer = b"".join(parts)
        self._position = 0

    def accept(self, tokens: bytes) -> bool:
        """Skip `tokens` when they come next. Only for tokens that cannot lie beyond the end of a right archive."""
        self.ensure(len(tokens))
        if not self._buffer.startswith(tokens, self._position):
            return False
        self._position += len(tokens)
        return True

    def begins(self, tokens: bytes) -> bool:
        self.ensure(len(tokens))
        return self._buffer.startswith(tokens, self._position)

    def expect(self, tokens: bytes, what: str) -> None:
        if not self.accept(tokens):
            raise self.fail(f"{what} expected")

    def number(self) -> int:
        self.ensure(8)
        (value,) = _U64.unpack_from(self._buffer, self._position)
        self._position += 8
        return int(value)

    def string(self, limit: int, what: str) -> bytes:
        size = self.number()
        if size > limit:
            raise self.fail(f"{what} of {size} bytes; {limit} are allowed")
        self.ensure(size + (-size & 7))
        data = self._buffer[self._position : self._position + size]
        self._position += size
        self.padding(size)
        return data

    def padding(self, size: int) -> None:
        zeros = _PADDING[size & 7]
        if zeros:
            self.expect(zeros, "zeros as padding")

    def contents(self, size: int) -> Iterator[memoryview]:
        """The next `size` bytes and their padding, in pieces of what the stream gave."""
        left = size
        while left:
            self.ensure(1)
            here = min(left, len(self._buffer) - self._position)
            piece = memoryview(self._buffer)[self._position : self._position + here]
            self._position += here
            left -= here
            yield piece
        self.padding(size)


def parse(stream: Reader, visitor: Visitor) -> int:
    """Read one archive strictly, telling `visitor` of each node; the archive's size in bytes.

    FormatError, naming the offset, at the first byte that is not as the grammar and the limits say; the visitor has
    then been told of all that came before.
    """
    source = _Source(stream)
    source.expect(MAGIC, "'nix-archive-1'")
    previous: list[bytes] = []  # the latest name in each directory that is open, outermost first
    if _node(source, visitor, b"", 0):
        previous.append(b"")
    while previous:
        if source.accept(CLOSE):
            previous.pop()
            visitor.leave()
            if previous:
                source.expect(CLOSE, "')' after an entry")
            continue
        name = _entry_name(source, previous[-1])
        previous[-1] = name
        if _node(source, visitor, name, len(previous)):
            previous.append(b"")
        else:
            source.expect(CLOSE, "')' after an entry")
    return source.consumed


def _node(source: _Source, visitor: Visitor, name: bytes, depth: int) -> bool:
    """One node; of a directory only its head, and True."""
    if depth >= MAX_DEPTH:
        raise source.fail(f"directories nested deeper than {MAX_DEPTH - 1}")
    if source.begins(_REGULAR_TYPE):
        executable = not source.accept(REGULAR)
        if executable:
            source.expect(EXECUTABLE, "'contents' of a file")
        contents = source.contents(source.number())
        visitor.file(name, executable, contents)
        for _ in contents:  # whatever the visitor left
            pass
    elif source.accept(SYMLINK):
        target = source.string(MAX_TARGET, "a link target")
        if not target or b"\0" in target:
            raise source.fail("a link target that is empty or holds a NUL")
        visitor.link(name, target)
    else:
        source.expect(DIRECTORY, "a file, a link or a directory")
        visitor.directory(name)
        return True
    source.expect(CLOSE, "')' after a node")
    return False


def _entry_name(source: _Source, previous: bytes) -> bytes:
    source.expect(ENTRY, "an entry or ')'")
    name = source.string(MAX_NAME, "a name")
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        raise source.fail(f"{name!r} cannot name an entry")
    if name <= previous:
        raise source.fail(f"the entry {name!r} comes after {previous!r}")
    source.expect(NODE, "'node'")
    return name


# --- trees in memory --------------------------------------------------------------------------------------------------


@value
class File:
    """A regular file."""

    contents: bytes
    executable: bool = False


@value
class Link:
    """A symbolic link; its target is never looked at."""

    target: str


@value
class Directory:
    """A directory: nodes by name, in any order."""

    entries: Mapping[str, Node]


Node = Union[File, Link, Directory]


def encode(node: Node) -> bytes:
    """The archive of a tree; FormatError where a name, a target or the depth is not allowed."""
    parts = [MAGIC]
    # What is still to be written, the next on top: bytes as they are, or a node with its depth.
    todo: list[bytes | tuple[Node, int]] = [(node, 0)]
    while todo:
        item = todo.pop()
        if isinstance(item, bytes):
            parts.append(item)
            continue
        current, depth = item
        if depth >= MAX_DEPTH:
            raise FormatError(f"directories nested deeper than {MAX_DEPTH - 1} cannot be archived")
        if isinstance(current, File):
            parts += (EXECUTABLE if current.executable else REGULAR, string(current.contents), CLOSE)
        elif isinstance(current, Link):
            parts += (SYMLINK, string(check_target(current.target.encode(errors="surrogateescape"))), CLOSE)
        else:
            parts.append(DIRECTORY)
            todo.append(CLOSE)
            for name in sorted(map(_name_bytes, current.entries), reverse=True):
                child = current.entries[name.decode(errors="surrogateescape")]
                todo += (CLOSE, (child, depth + 1), b"".join((ENTRY, string(name), NODE)))
    return b"".join(parts)


def _name_bytes(name: str) -> bytes:
    data = name.encode(errors="surrogateescape")
    if name in ("", ".", "..") or "/" in name or "\0" in name or len(data) > MAX_NAME:
        raise FormatError(f"{name!r} cannot name an entry of an archive")
    return data


def check_target(target: bytes) -> bytes:
    """The target itself; FormatError when a link in an archive may not have it."""
    if not target or len(target) > MAX_TARGET or b"\0" in target:
        raise FormatError(f"a link to {target[:80]!r} cannot be archived: targets have 1 to {MAX_TARGET} bytes, no NUL")
    return target


def decode(data: bytes) -> Node:
    """The tree of an archive that ends where `data` ends; FormatError as for `parse`."""
    builder = _TreeBuilder()
    if parse(ChunkReader([data]), builder) != len(data):
        raise FormatError("bad archive: bytes after its end")
    return builder.root[""]


class _TreeBuilder:
    """The Visitor that keeps everything."""

    def __init__(self) -> None:
        self.root: dict[str, Node] = {}
        self._open = [self.root]

    def directory(self, name: bytes) -> None:
        entries: dict[str, Node] = {}
        self._put(name, Directory(entries))
        self._open.append(entries)

    def leave(self) -> None:
        self._open.pop()

    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None:
        self._put(name, File(b"".join(contents), executable))

    def link(self, name: bytes, target: bytes) -> None:
        self._put(name, Link(target.decode(errors="surrogateescape")))

    def _put(self, name: bytes, node: Node) -> None:
        self._open[-1][name.decode(errors="surrogateescape")] = node
