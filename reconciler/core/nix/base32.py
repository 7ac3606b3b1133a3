"""Nix's base-32, for hashes.

Not RFC 4648's:

    alphabet   0123456789abcdfghijklmnpqrsvwxyz      (no e, o, t, u)
    length     (bytes * 8 - 1) // 5 + 1              (20 bytes: 32 digits; 32 bytes: 52)
    meaning    the bytes as one little-endian number, written with its most significant digit first
"""

from __future__ import annotations

from reconciler.core.errors import FormatError

ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"
_VALUE = {digit: value for value, digit in enumerate(ALPHABET)}


def encoded_length(size: int) -> int:
    """How many digits `size` bytes take."""
    return (size * 8 - 1) // 5 + 1 if size else 0


def encode(data: bytes) -> str:
    """The digits of `data`."""
    number = int.from_bytes(data, "little")
    return "".join([ALPHABET[number >> (5 * place) & 31] for place in range(encoded_length(len(data)) - 1, -1, -1)])


def decode(text: str) -> bytes:
    """The bytes of `text`; FormatError for a foreign character, an impossible length, or surplus bits not 0."""
    number = 0
    for digit in text:
        value = _VALUE.get(digit)
        if value is None:
            raise FormatError(f"'{text}' is not base-32: it holds {digit!r}")
        number = number << 5 | value
    size = len(text) * 5 // 8
    if encoded_length(size) != len(text):
        raise FormatError(f"'{text}' is not base-32: no number of bytes takes {len(text)} digits")
    if number >> (8 * size):
        raise FormatError(f"'{text}' is not base-32: its first digit is too large")
    return number.to_bytes(size, "little")
