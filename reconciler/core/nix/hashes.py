"""Hashes and the ways Nix spells them.

    sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s            <algorithm>:<base-32, base-16 or base-64>
    sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=                    SRI: <algorithm>-<base-64>
    ba7816bf…                                                              bare, where the algorithm is known

Which of the three encodings it is, its length tells; after a dash it is always base-64.
"""

from __future__ import annotations

import binascii

from reconciler.core.errors import FormatError
from reconciler.core.nix import base32
from reconciler.core.values import value

SIZES = {"md5": 16, "sha1": 20, "sha256": 32, "sha512": 64}
_LONGEST = len("sha512:") + 2 * 64  # of a spelling; a longer text is none, and is not shown whole


@value
class Hash:
    """A digest and the algorithm that made it."""

    algorithm: str
    digest: bytes

    def __post_init__(self) -> None:
        if SIZES.get(self.algorithm) != len(self.digest):
            raise FormatError(f"{len(self.digest)} bytes are no {self.algorithm} hash")

    @classmethod
    def sha256(cls, data: bytes) -> Hash:
        import hashlib  # loads OpenSSL: as long as half a probe

        return cls("sha256", hashlib.sha256(data).digest())

    @classmethod
    def parse(cls, text: str, algorithm: str | None = None) -> Hash:
        """A hash in any of Nix's spellings; FormatError when it is none, or not of `algorithm` where that is given."""
        shown = f"'{text}'" if len(text) <= _LONGEST else f"'{text[:_LONGEST]}…'"
        head, colon, rest = text.partition(":")
        dash = ""
        if not colon:
            head, dash, rest = text.partition("-")
            if not dash:
                head, rest = algorithm or "", text
        if head not in SIZES:
            raise FormatError(f"{shown} is no hash: it should begin with one of {', '.join(SIZES)}")
        if algorithm is not None and head != algorithm:
            raise FormatError(f"{shown} is a {head} hash where a {algorithm} hash is wanted")
        return cls(head, _digest(rest, head, shown, only_base64=bool(dash)))

    @property
    def base16(self) -> str:
        return self.digest.hex()

    @property
    def base32(self) -> str:
        return base32.encode(self.digest)

    @property
    def base64(self) -> str:
        return binascii.b2a_base64(self.digest, newline=False).decode()

    @property
    def sri(self) -> str:
        """`sha256-<base-64>`."""
        return f"{self.algorithm}-{self.base64}"

    @property
    def nix(self) -> str:
        """`sha256:<base-32>`, as narinfo files and signatures have it."""
        return f"{self.algorithm}:{self.base32}"

    @property
    def hex_prefixed(self) -> str:
        """`sha256:<base-16>`, as the database and fingerprints have it."""
        return f"{self.algorithm}:{self.base16}"

    def __str__(self) -> str:
        return self.nix


def _digest(text: str, algorithm: str, shown: str, only_base64: bool) -> bytes:
    """The bytes of a hash written without its algorithm, in the encoding that its length tells."""
    size = SIZES[algorithm]
    lengths = {"base-16": size * 2, "base-32": base32.encoded_length(size), "base-64": (size + 2) // 3 * 4}
    if only_base64:
        lengths = {"base-64": lengths["base-64"]}
    if len(text) == lengths.get("base-16"):
        return _from_base16(text, shown)
    if len(text) == lengths.get("base-32"):
        return base32.decode(text)
    if len(text) == lengths["base-64"]:
        return _from_base64(text, shown)
    wanted = ", ".join(f"{length} in {encoding}" for encoding, length in lengths.items())
    raise FormatError(f"{shown} is no hash: a {algorithm} hash has {wanted}, and this has {len(text)} characters")


def _from_base16(text: str, shown: str) -> bytes:
    try:
        return binascii.unhexlify(text)
    except (binascii.Error, ValueError):
        raise FormatError(f"{shown} is no hash: it holds a character that is not hexadecimal") from None


def _from_base64(text: str, shown: str) -> bytes:
    try:
        digest = binascii.a2b_base64(text)
    except (binascii.Error, ValueError):
        digest = b""
    # The decoder passes over characters that are none of its own; only what encodes to the same text was meant.
    if binascii.b2a_base64(digest, newline=False).decode() != text:
        raise FormatError(f"{shown} is no hash: it holds a character that is not base-64")
    return digest
