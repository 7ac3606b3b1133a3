"""For which system a store path of a cache was made: the machine of the C library in its closure."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

from reconciler.core import fs
from reconciler.core.errors import FormatError
from reconciler.core.nix import nar
from reconciler.core.nix.nar_format import Reader, parse
from reconciler.core.store.binary_cache import Offer
from reconciler.inventory.outputs import Named

ANY = ""
C_LIBRARIES = ("glibc", "musl")

# e_machine by (value, class, byte order): the ELF specification's registry and System V ABI supplements.
_MACHINES = {
    (3, 1, 1): "i686-linux",
    (62, 2, 1): "x86_64-linux",
    (183, 2, 1): "aarch64-linux",
    (40, 1, 1): "armv7l-linux",
    (243, 2, 1): "riscv64-linux",
    (21, 2, 1): "powerpc64le-linux",
    (22, 2, 2): "s390x-linux",
    (258, 2, 1): "loongarch64-linux",
}
_MAGIC = b"\x7fELF"
_READ_AT_MOST = 256 * 1024 * 1024


class Machines:
    """Systems of C libraries and of paths without one, each read from its archive once and kept in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, str] | None = None

    def of(self, offer: Offer) -> str:
        """The system of the first program or library in a path's archive; ANY when there is none."""
        known = self._load()
        key = offer.narinfo.nar_hash.nix
        if key not in known:
            known[key] = _read(offer)
            fs.ensure_directory(str(self._file.parent))
            fs.replace_file(str(self._file), json.dumps({"format": 1, "systems": known}).encode(), durable=False)
        return known[key]

    def _load(self) -> dict[str, str]:
        if self._known is None:
            try:
                found = json.loads(self._file.read_bytes())
                systems = found["systems"] if found["format"] == 1 else {}
                self._known = {str(key): str(value) for key, value in systems.items()}
            except (OSError, ValueError, LookupError, TypeError, AttributeError):
                self._known = {}  # only what can be read again
        return self._known


def is_c_library(candidate: Named) -> bool:
    """Whether a path is a C library itself, by its name."""
    return candidate.name in C_LIBRARIES and not candidate.output


def _read(offer: Offer) -> str:
    stream = offer.cache.open_nar(offer.narinfo)
    try:
        return first_system(stream, offer.narinfo.nar_size)
    finally:
        close = getattr(stream, "close", None)
        if close is not None:
            close()


def first_system(stream: Reader, size: int) -> str:
    """The system of the first ELF file in an archive of `size` bytes; ANY when it has none (in its first 256 MiB)."""
    finder = _Finder()
    try:
        parse(nar.Bounded(stream, min(size, _READ_AT_MOST)), finder)
    except _FoundError as found:
        return found.system
    except FormatError:
        if size <= _READ_AT_MOST:
            raise
    return ANY


class _FoundError(Exception):
    """Ends the reading of an archive."""

    def __init__(self, system: str) -> None:
        super().__init__(system)
        self.system = system


class _Finder:
    """A visitor that stops at the first ELF file."""

    def directory(self, name: bytes) -> None:
        pass

    def leave(self) -> None:
        pass

    def link(self, name: bytes, target: bytes) -> None:
        pass

    def file(self, name: bytes, executable: bool, contents: Iterator[memoryview]) -> None:  # noqa: ARG002
        head = b""
        for chunk in contents:
            if len(head) < 20:
                head += bytes(chunk[: 20 - len(head)])
        system = system_of_elf(head)
        if system:
            raise _FoundError(system)


def system_of_elf(head: bytes) -> str:
    """The system of a file that begins with these (at least 20) bytes; ANY for what is no ELF file of a known one."""
    if not head.startswith(_MAGIC) or len(head) < 20:
        return ANY
    width, order = head[4], head[5]
    machine: int = struct.unpack("<H" if order == 1 else ">H", head[18:20])[0]
    return _MACHINES.get((machine, width, order), ANY)
