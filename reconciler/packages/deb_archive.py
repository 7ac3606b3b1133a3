"""The files of a Debian package (.deb), read as values: nothing is ever unpacked onto a disk.

    ar archive   "!<arch>\\n", then members: name 16, mtime 12, uid 6, gid 6, mode 8, size 10, "`\\n", contents, and one
                 byte more where these are odd
    members      debian-binary ("2.0\\n"), control.tar.*, data.tar.*      in this order; others may follow
    data.tar     a tar archive: none, xz, gz, bz2 or zst; names relative to /

What a store cannot hold is refused: devices, sockets and pipes. Owners, times and mode bits other than the owner's
execute bit are not looked at, setuid bits included. A name that is absolute, or has `..` in it, is refused.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from reconciler.core.errors import FormatError
from reconciler.core.nix.nar import MAX_TARGET, Bounded
from reconciler.core.store.compression import Decompressed

MAX_UNPACKED = 2 * 1024 * 1024 * 1024  # bytes of one package's tar archive
MAX_MEMBERS = 200_000  # files, directories and links of one package

_MAGIC = b"!<arch>\n"
_HEADER = 60
_HEADER_END = b"`\n"
_METHODS = {"": "none", ".xz": "xz", ".gz": "gzip", ".bz2": "bzip2", ".zst": "zstd"}
_BUFFER = 1024 * 1024

# The parts of a path.
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Member:
    """A file (`target` is None) or a symbolic link of a package, by its path relative to /."""

    parts: Parts
    contents: bytes = b""
    executable: bool = False
    target: str | None = None

    @property
    def shown(self) -> str:
        """Its path."""
        return "/".join(self.parts)


def read(path: Path) -> Iterator[Member]:
    """Every file and link of a package, in its order; directories go without saying. FormatError names the package."""
    try:
        with path.open("rb") as stream:
            yield from _members(_data(stream))
    except (FormatError, tarfile.TarError) as error:
        reason = error.message if isinstance(error, FormatError) else str(error)
        raise FormatError(f"{path.name} is no package that can be used: {reason}") from error


def _data(stream: BinaryIO) -> Decompressed:
    """The tar archive of the package's files."""
    if stream.read(len(_MAGIC)) != _MAGIC:
        raise FormatError("it does not begin as an ar archive")
    while header := stream.read(_HEADER):
        if len(header) < _HEADER or not header.endswith(_HEADER_END) or not header[48:58].strip().isdigit():
            raise FormatError("its ar archive is damaged")
        name = header[:16].decode("latin-1").rstrip().rstrip("/")
        size = int(header[48:58])
        if name.startswith("data.tar"):
            method = _METHODS.get(name.removeprefix("data.tar"))
            if method is None:
                raise FormatError(f"{name}: there is no way to decompress this")
            return Decompressed(method, Bounded(stream, size), MAX_UNPACKED)
        stream.seek(size + size % 2, io.SEEK_CUR)
    raise FormatError("it has no data.tar")


def _members(stream: Decompressed) -> Iterator[Member]:
    files: dict[Parts, Member] = {}
    with tarfile.open(fileobj=_Whole(stream), mode="r|", bufsize=_BUFFER, errors="surrogateescape") as archive:  # type: ignore[call-overload]
        for count, entry in enumerate(archive):
            if count >= MAX_MEMBERS:
                raise FormatError(f"it has more than {MAX_MEMBERS} files")
            if entry.isdir():
                parts_of(entry.name)
                continue
            member = _member(archive, entry, files)
            if member.target is None:
                files[member.parts] = member
            yield member


def _member(archive: tarfile.TarFile, entry: tarfile.TarInfo, files: dict[Parts, Member]) -> Member:
    parts = parts_of(entry.name)
    if not parts:
        raise FormatError("it has a file in the place of /")
    if entry.issym():
        if not 0 < len(entry.linkname) <= MAX_TARGET or "\0" in entry.linkname:
            raise FormatError(f"the link {entry.name} has no target that can be")
        return Member(parts, target=entry.linkname)
    if entry.islnk():
        other = files.get(parts_of(entry.linkname))
        if other is None:
            raise FormatError(f"{entry.name} is a hard link of {entry.linkname}, which does not come before it")
        return Member(parts, other.contents, other.executable)
    stream = archive.extractfile(entry) if entry.isreg() else None
    if stream is None:
        raise FormatError(f"{entry.name} is neither a file nor a directory nor a link")
    return Member(parts, stream.read(), bool(entry.mode & 0o100))


def parts_of(name: str) -> Parts:
    """The parts of a name in an archive, `./usr/bin/x`; FormatError for one that leads out of it."""
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts or "\0" in name:
        raise FormatError(f"the name {name!r} leads out of the package")
    return parts


class _Whole:
    """A Reader whose reads are as long as was asked for, as tarfile wants them."""

    def __init__(self, stream: Decompressed) -> None:
        self._stream = stream

    def read(self, size: int) -> bytes:
        parts = []
        while size > 0 and (data := self._stream.read(size)):
            parts.append(data)
            size -= len(data)
        return b"".join(parts)
