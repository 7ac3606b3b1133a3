"""Signatures of store paths, as binary caches carry them.

    fingerprint  1;<store path>;<NarHash, base-32>;<NarSize>;<references: full paths, sorted, commas between them>
    signature    <key's name>:<base-64 of the 64 bytes of ed25519 over the fingerprint>
    public key   <key's name>:<base-64 of 32 bytes>

Deriver, CA, URL, FileHash and FileSize are not signed. One signature by one trusted key is enough.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable

from reconciler.core.errors import FormatError
from reconciler.core.nix import ed25519
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import value

MAX_NAME_LENGTH = 200  # of a key; Nix knows no limit, people write a host's name and a number
_NAME = re.compile(rf"[!-9;-~]{{1,{MAX_NAME_LENGTH}}}")  # what can be seen, but ':'


def fingerprint(path: StorePath, nar_hash: Hash, nar_size: int, references: Iterable[StorePath]) -> bytes:
    """What is signed of a path: `references` in any order, the path itself included where it refers to itself."""
    listed = ",".join(map(str, sorted(set(references))))
    return f"1;{path};{nar_hash.nix};{nar_size};{listed}".encode()


@value
class Signature:
    """One signature; `key_name` says whose it claims to be, which proves nothing."""

    key_name: str
    data: bytes

    def __post_init__(self) -> None:
        _check("signature", self.key_name, self.data, ed25519.SIGNATURE_LENGTH)

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature written `text`; FormatError when it is none."""
        return cls(*_split("signature", text))

    def __str__(self) -> str:
        return _join(self.key_name, self.data)


@value
class PublicKey:
    """A key whose signatures may be trusted."""

    name: str
    key: bytes

    def __post_init__(self) -> None:
        _check("public key", self.name, self.key, ed25519.KEY_LENGTH)

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key written `text`, spaces and newlines around it allowed; FormatError when it is none."""
        return cls(*_split("public key", text.strip()))

    def verifies(self, fingerprint: bytes, signature: str) -> bool:
        """Whether `signature` is this key's of `fingerprint`. What is no signature at all is not."""
        try:
            parsed = Signature.parse(signature)
        except FormatError:
            return False
        return parsed.key_name == self.name and ed25519.verify(self.key, fingerprint, parsed.data)

    def __str__(self) -> str:
        return _join(self.name, self.key)


def any_trusted(fingerprint: bytes, signatures: Iterable[str], keys: Iterable[PublicKey]) -> bool:
    """Whether one of `signatures` is one of `keys`' of `fingerprint`."""
    trusted = tuple(keys)
    return any(key.verifies(fingerprint, signature) for signature in signatures for key in trusted)


def _check(what: str, name: str, data: bytes, length: int) -> None:
    if _NAME.fullmatch(name) is None:
        raise FormatError(f"{name[:80]!r} cannot name the key of a {what}")
    if len(data) != length:
        raise FormatError(f"the {what} of '{name}' has {len(data)} bytes, not {length}")


def _split(what: str, text: str) -> tuple[str, bytes]:
    name, colon, rest = text.partition(":")
    if not colon:
        raise FormatError(f"{text[:80]!r} is no {what}", hint="it is written NAME:BASE64")
    try:
        data = binascii.a2b_base64(rest)
    except (binascii.Error, ValueError):
        data = b""
    # The decoder passes over what is none of base-64's characters; only what encodes to the same text was meant.
    if not data or binascii.b2a_base64(data, newline=False).decode() != rest:
        raise FormatError(f"the {what} of {name[:80]!r} is not base-64")
    return name, data


def _join(name: str, data: bytes) -> str:
    return f"{name}:{binascii.b2a_base64(data, newline=False).decode()}"
