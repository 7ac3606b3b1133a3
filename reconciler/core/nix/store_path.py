"""Store paths, and how they are computed.

    path         /nix/store/<hash part>-<name>
    hash part    32 base-32 digits: sha256 of the fingerprint, folded to 20 bytes
    name         1 to 211 of 0-9 a-z A-Z + - . _ ? =; neither "." nor "..", nor beginning with ".-" or "..-"
    fingerprint  <type>:sha256:<inner, base-16>:/nix/store:<name>
    type         text[:<reference>]*              inner: sha256 of the contents             (.drv files, toFile)
                 source[:<reference>]*[:self]     inner: sha256 of the NAR                  (added sources)
                 output:out                       inner: sha256 of fixed:out:[r:]<algorithm>:<base-16>:
                 output:<output name>             inner: the derivation's hash modulo       (input-addressed)

References stand in bytewise order. Newer Nix refuses any name that begins with a dot: it is read here, and never made.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable

from reconciler.core.errors import FormatError
from reconciler.core.nix import base32
from reconciler.core.nix.hashes import Hash
from reconciler.core.values import value

STORE_DIR = "/nix/store"
HASH_PART_LENGTH = 32
MAX_NAME_LENGTH = 211

_PREFIX = STORE_DIR + "/"
_HASH_PART = re.compile(f"[{base32.ALPHABET}]{{{HASH_PART_LENGTH}}}")
_NAME = re.compile(rf"(?!\.\.?(?:-|\Z))[0-9a-zA-Z+\-._?=]{{1,{MAX_NAME_LENGTH}}}")


@functools.total_ordering
@value
class StorePath:
    """A store path. Ordered as its text is; `str()` is the full path, always below /nix/store."""

    hash_part: str
    name: str

    def __post_init__(self) -> None:
        if _HASH_PART.fullmatch(self.hash_part) is None:
            raise FormatError(f"'{self.hash_part}-{self.name}' is no store path: 32 base-32 digits should come first")
        if _NAME.fullmatch(self.name) is None:
            raise FormatError(f"'{self.name}' cannot name a store path", hint=_name_hint(self.name))

    # As a value's, in a third of the time: a question about a closure compares and looks up paths by the ten thousand.

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not StorePath:
            return NotImplemented
        return self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash(self.hash_part)

    def __lt__(self, other: StorePath) -> bool:
        if self.hash_part != other.hash_part:
            return self.hash_part < other.hash_part
        return self.name < other.name

    @classmethod
    def parse(cls, full: str) -> StorePath:
        """The store path written `full`, which must be directly below /nix/store; FormatError for anything else."""
        if not full.startswith(_PREFIX):
            raise FormatError(f"'{full}' is no store path: it is not in {STORE_DIR}")
        return cls.from_base_name(full[len(_PREFIX) :])

    @classmethod
    def from_base_name(cls, base: str) -> StorePath:
        """The store path with the last component `base`; FormatError when it is none."""
        if len(base) <= HASH_PART_LENGTH or base[HASH_PART_LENGTH] != "-":
            raise FormatError(f"'{base}' is no store path: 32 base-32 digits, '-' and a name are wanted")
        return cls(base[:HASH_PART_LENGTH], base[HASH_PART_LENGTH + 1 :])

    @property
    def base_name(self) -> str:
        return f"{self.hash_part}-{self.name}"

    @property
    def is_derivation(self) -> bool:
        return self.name.endswith(".drv")

    def __str__(self) -> str:
        return f"{_PREFIX}{self.hash_part}-{self.name}"


def _name_hint(name: str) -> str:
    if len(name) > MAX_NAME_LENGTH:
        return f"it has {len(name)} characters; {MAX_NAME_LENGTH} are allowed"
    return "1 to 211 letters, digits and + - . _ ? = are allowed, and no '.' or '..' before the first dash"


def compress(digest: bytes) -> bytes:
    """20 bytes of any digest: each byte is folded in by exclusive or, none is cut off."""
    folded = bytearray(20)
    for index, byte in enumerate(digest):
        folded[index % 20] ^= byte
    return bytes(folded)


def _make(kind: str, inner_hex: str, name: str) -> StorePath:
    if name.startswith("."):
        raise FormatError(f"'{name}' cannot name a store path", hint="it begins with a dot, which newer Nix refuses")
    if _NAME.fullmatch(name) is None:  # before anything is hashed: it may hold what has no bytes
        raise FormatError(f"{name[:300]!r} cannot name a store path", hint=_name_hint(name))
    fingerprint = f"{kind}:sha256:{inner_hex}:{STORE_DIR}:{name}"
    return StorePath(base32.encode(compress(Hash.sha256(fingerprint.encode()).digest)), name)


def _with_references(kind: str, references: Iterable[StorePath], self_reference: bool = False) -> str:
    parts = [kind, *(str(reference) for reference in sorted(set(references)))]
    return ":".join([*parts, "self"] if self_reference else parts)


def text_path(name: str, contents: bytes, references: Iterable[StorePath] = ()) -> StorePath:
    """Where a text with these contents and references lies (a .drv file, a toFile)."""
    return _make(_with_references("text", references), Hash.sha256(contents).base16, name)


def source_path(
    name: str, nar_hash: Hash, references: Iterable[StorePath] = (), self_reference: bool = False
) -> StorePath:
    """Where a tree whose NAR has this sha256 lies (with `self_reference`: its NAR modulo its own hash part)."""
    if nar_hash.algorithm != "sha256":
        raise FormatError(f"the store path of a source is made of a sha256 hash, not {nar_hash.algorithm}")
    return _make(_with_references("source", references, self_reference), nar_hash.base16, name)


def fixed_path(name: str, content_hash: Hash, recursive: bool) -> StorePath:
    """Where a fixed output lies: `content_hash` is of its NAR when `recursive`, else of the flat file."""
    if recursive and content_hash.algorithm == "sha256":
        return source_path(name, content_hash)
    inner = f"fixed:out:{'r:' if recursive else ''}{content_hash.hex_prefixed}:"
    return _make("output:out", Hash.sha256(inner.encode()).base16, name)


def output_path(output_name: str, modulo_hex: str, drv_name: str) -> StorePath:
    """Where an input-addressed output lies: `modulo_hex` is its derivation's masked hash modulo."""
    return _make(f"output:{output_name}", modulo_hex, output_path_name(drv_name, output_name))


def output_path_name(drv_name: str, output_name: str) -> str:
    """The name part of an output's path: `hello`, `hello-dev`."""
    return drv_name if output_name == "out" else f"{drv_name}-{output_name}"


_VERSION = re.compile(r"-(?=[^a-zA-Z])", re.DOTALL)


def parse_drv_name(name: str) -> tuple[str, str]:
    """(name, version) as Nix splits them: at the first dash that is followed by something other than a letter."""
    match = _VERSION.search(name)
    return (name, "") if match is None else (name[: match.start()], name[match.end() :])
