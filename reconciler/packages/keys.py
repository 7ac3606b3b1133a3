"""Secret keys that sign store paths for binary caches.

    secret key  <name>:<base-64 of 64 bytes: the seed and the public key>      a file of mode 0600, without a newline
    public key  <name>:<base-64 of 32 bytes>

Both are written and read by Nix as well (`nix-store --generate-binary-cache-key`).
"""

from __future__ import annotations

import base64
import binascii
import functools
import os
import stat
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reconciler.core.errors import FormatError, UsageError
from reconciler.core.nix.signature import PublicKey, Signature

_SEED = 32
_LENGTH = 64
_MAX_FILE = 4096


@dataclass(frozen=True)
class SecretKey:
    """A key that signs. `repr` does not show it."""

    name: str
    seed: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> SecretKey:
        """The key written `text`; FormatError, which does not show it, when it is none."""
        name, colon, rest = text.strip().partition(":")
        if not colon:
            raise FormatError("it holds no secret key", "it is written NAME:BASE64")
        try:
            data = base64.b64decode(rest, validate=True)
        except (binascii.Error, ValueError):
            raise FormatError(f"the secret key {name[:80]!r} is not base-64") from None
        if len(data) == _SEED:
            raise FormatError(f"{name[:80]!r} is a public key", "the secret one is needed to sign")
        if len(data) != _LENGTH:
            raise FormatError(f"the secret key {name[:80]!r} has {len(data)} bytes, not {_LENGTH}")
        key = cls(name, data[:_SEED])
        if key.public.key != data[_SEED:]:
            raise FormatError(f"the secret key {name[:80]!r} is damaged: its two halves do not belong together")
        return key

    @classmethod
    def load(cls, path: str) -> SecretKey:
        """The key in a file that only its owner may read; UsageError or FormatError that name the file."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(fd, "rb") as file:
                status = os.fstat(fd)
                data = file.read(_MAX_FILE) if stat.S_ISREG(status.st_mode) else b""
        except OSError as error:
            hint = "reconciler key generate NAME makes one" if isinstance(error, FileNotFoundError) else None
            raise UsageError(f"{path}: {error.strerror}", hint) from None
        try:
            key = cls.parse(data.decode("ascii", errors="replace"))
        except FormatError as error:
            raise FormatError(f"{path}: {error.message}", error.hint) from None
        if status.st_mode & 0o077:
            mode = f"{stat.S_IMODE(status.st_mode):04o}"
            raise UsageError(f"{path}: others may read this secret key (mode {mode})", f"chmod 600 {path}")
        return key

    @functools.cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.seed)

    @functools.cached_property
    def public(self) -> PublicKey:
        """The key that its signatures are verified with."""
        return PublicKey(self.name, self._private.public_key().public_bytes_raw())

    def sign(self, fingerprint: bytes) -> str:
        """The signature of a path's fingerprint, `NAME:BASE64`; the same each time."""
        return str(Signature(self.name, self._private.sign(fingerprint)))

    @property
    def text(self) -> str:
        """What its file holds."""
        return f"{self.name}:{base64.b64encode(self.seed + self.public.key).decode()}"


def generate(name: str) -> tuple[str, str]:
    """A new secret key and its public key, as text; FormatError when no key can have that name."""
    key = SecretKey(name, os.urandom(_SEED))
    return key.text, str(key.public)
