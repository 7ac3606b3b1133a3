"""What an ELF file says of how it is loaded: its interpreter, the libraries that it needs, where they are looked for.

    header      "\\x7fELF", class (1: 32 bits, 2: 64), byte order (1: little, 2: big), version 1; at 16 the type
    segments    program headers: PT_INTERP holds the interpreter's path, PT_DYNAMIC a table of (tag, value), and
                PT_LOAD says where in the file an address lies
    tags        DT_NEEDED, DT_RPATH, DT_RUNPATH: offsets into the table of strings at DT_STRTAB, DT_STRSZ bytes long

Source: the ELF specification (gABI, chapters 4 and 5). Everything is bounded; what lies outside of the file, and a
string without an end, is a FormatError. Object files (ET_REL) and core dumps say nothing of loading.
"""

from __future__ import annotations

import os
import struct

from reconciler.core.errors import FormatError
from reconciler.core.values import value

MAGIC = b"\x7fELF"
MAX_SEGMENTS = 512
MAX_DYNAMIC = 64 * 1024  # entries of the dynamic table
MAX_STRINGS = 64 * 1024 * 1024  # bytes of the table of strings
MAX_PATH = 4096

_EXECUTABLE, _SHARED = 2, 3
_LOAD, _DYNAMIC, _INTERPRETER = 1, 2, 3
_NULL, _NEEDED, _STRTAB, _STRSZ, _RPATH, _RUNPATH = 0, 1, 5, 10, 15, 29
_HEADER = 64


@value
class Loaded:
    """How a file is loaded. `needed`: names of libraries; `run_path`: the directories that they are looked for in, of
    the RUNPATH or else the RPATH. `is_final`: it is a RUNPATH: the RPATH of what loads the file does not count, and
    its own does not for what it loads."""

    interpreter: str = ""
    needed: tuple[str, ...] = ()
    run_path: tuple[str, ...] = ()
    is_final: bool = False


@value
class _Segment:
    kind: int
    offset: int
    address: int
    size: int


def read(fd: int) -> Loaded | None:
    """What the open file `fd` says; None when it is no ELF file that is ever loaded. FormatError when it is broken."""
    header = os.pread(fd, _HEADER, 0)
    if not header.startswith(MAGIC):
        return None
    if len(header) < 52 or header[4] not in (1, 2) or header[5] not in (1, 2) or header[6] != 1:
        raise FormatError("its ELF header is broken")
    file = _File(fd, header[4] == 2, "<" if header[5] == 1 else ">")
    if file.numbers(header, 16, "H")[0] not in (_EXECUTABLE, _SHARED):
        return None
    return file.loaded(header)


class _File:
    def __init__(self, fd: int, wide: bool, order: str) -> None:
        self._fd = fd
        self._wide = wide
        self._order = order
        self._size = os.fstat(fd).st_size

    def loaded(self, header: bytes) -> Loaded:
        segments = self._segments(header)
        dynamic = [segment for segment in segments if segment.kind == _DYNAMIC]
        paths = [self._interpreter(segment) for segment in segments if segment.kind == _INTERPRETER]
        if len(dynamic) > 1 or len(paths) > 1:
            raise FormatError("it has more than one interpreter, or dynamic table")
        interpreter = paths[0] if paths else ""
        if not dynamic:
            return Loaded(interpreter)
        table = self._table(dynamic[0])
        strings = self._strings(table, segments)
        given = {tag: [_string(strings, offset) for kind, offset in table if kind == tag] for tag in (_RUNPATH, _RPATH)}
        listed = given[_RUNPATH] or given[_RPATH]
        run_path = tuple(part for path in listed for part in path.split(":") if part)
        needed = tuple(_string(strings, offset) for kind, offset in table if kind == _NEEDED)
        return Loaded(interpreter, needed, run_path, bool(given[_RUNPATH]))

    def numbers(self, data: bytes, offset: int, form: str) -> tuple[int, ...]:
        """Numbers at an offset, in the file's byte order."""
        try:
            return struct.unpack_from(self._order + form, data, offset)
        except struct.error:
            raise FormatError("its ELF header is broken") from None

    def _segments(self, header: bytes) -> list[_Segment]:
        (start,) = self.numbers(header, 32 if self._wide else 28, "Q" if self._wide else "I")
        each, count = self.numbers(header, 54 if self._wide else 42, "HH")
        least = 56 if self._wide else 32
        if count == 0:
            return []
        if each < least or count > MAX_SEGMENTS:
            raise FormatError(f"it has {count} segments of {each} bytes, which cannot be")
        data = self._read(start, each * count, "segments")
        found = []
        for index in range(count):
            if self._wide:
                kind, _, offset, address, _, size = self.numbers(data, index * each, "IIQQQQ")
            else:
                kind, offset, address, _, size = self.numbers(data, index * each, "IIIII")
            found.append(_Segment(kind, offset, address, size))
        return found

    def _read(self, offset: int, size: int, what: str) -> bytes:
        if offset + size > self._size:
            raise FormatError(f"its {what} lie outside of the file")
        data = os.pread(self._fd, size, offset)
        if len(data) != size:
            raise FormatError(f"its {what} cannot be read")
        return data

    def _interpreter(self, segment: _Segment) -> str:
        if not 1 < segment.size <= MAX_PATH:
            raise FormatError(f"the path of its interpreter has {segment.size} bytes, which cannot be")
        return _string(self._read(segment.offset, segment.size, "interpreter's bytes"), 0)

    def _table(self, segment: _Segment) -> list[tuple[int, int]]:
        each = 16 if self._wide else 8
        if segment.size > MAX_DYNAMIC * each:
            raise FormatError("its dynamic table is too long")
        data = self._read(segment.offset, segment.size - segment.size % each, "dynamic entries")
        found: list[tuple[int, int]] = []
        for tag, number in struct.iter_unpack(self._order + ("QQ" if self._wide else "II"), data):
            if tag == _NULL:
                break
            found.append((tag, number))
        return found

    def _strings(self, table: list[tuple[int, int]], segments: list[_Segment]) -> bytes:
        known = dict(table)
        if not known.keys() & {_NEEDED, _RPATH, _RUNPATH}:
            return b""
        if _STRTAB not in known or _STRSZ not in known:
            raise FormatError("its dynamic table names strings, and has no table of them")
        address, size = known[_STRTAB], known[_STRSZ]
        if size > MAX_STRINGS:
            raise FormatError("its table of strings is too long")
        for segment in segments:
            if (
                segment.kind == _LOAD
                and segment.address <= address
                and address + size <= segment.address + segment.size
            ):
                return self._read(segment.offset + address - segment.address, size, "strings")
        raise FormatError("its table of strings lies in no segment")


def _string(strings: bytes, offset: int) -> str:
    end = strings.find(b"\0", offset, offset + MAX_PATH)
    if offset >= len(strings) or end < 0:
        raise FormatError("a string of its dynamic table has no end")
    return os.fsdecode(strings[offset:end])
