"""Nix's own encoding of numbers, strings and lists, as its protocols carry them.

    number     u64, little-endian
    string     its length as a number, its bytes, zeros up to a multiple of 8
    list       its length as a number, its items

A string has at most MAX_STRING bytes where its reader says no other size; what a list may have, its reader always says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable

from reconciler.core.errors import FormatError

MAX_STRING = 4096


class Decoder(ABC):
    """Reads that encoding out of what `_exactly` gets. FormatError for what is none, or is longer than it may be."""

    @abstractmethod
    def _exactly(self, size: int) -> bytes:
        """The next `size` bytes."""

    def number(self) -> int:
        return int.from_bytes(self._exactly(8), "little")

    def count(self, most: int) -> int:
        """The length of a list of at most `most`."""
        count = self.number()
        if count > most:
            raise FormatError(f"a list of {count}, where {most} are the most")
        return count

    def string(self) -> str:
        """A name, a path, a hash: ASCII."""
        try:
            return self._padded(MAX_STRING).decode("ascii")
        except UnicodeDecodeError:
            raise FormatError("a string is not ASCII") from None

    def text(self, most: int) -> str:
        """What somebody says to a person, of at most `most` bytes; what is no UTF-8 in it is replaced."""
        return self._padded(most).decode("utf-8", errors="replace")

    def _padded(self, most: int) -> bytes:
        size = self.number()
        if size > most:
            raise FormatError(f"a string of {size} bytes, where {most} are the most")
        padded = self._exactly(size + -size % 8)
        if any(padded[size:]):
            raise FormatError("a string is not padded with zeros")
        return padded[:size]


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def string(text: str) -> bytes:
    data = text.encode()
    return number(len(data)) + data + b"\0" * (-len(data) % 8)


def strings(texts: Iterable[str]) -> bytes:
    items = [string(text) for text in texts]
    return number(len(items)) + b"".join(items)
