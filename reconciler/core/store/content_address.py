"""Paths that follow from their contents: what `ca` says of a path, checked against its files.

The forms of `ca`:

    text:sha256:<base-32>               one file; the hash of its contents
    fixed:<algorithm>:<base-32>         one file, no references; the hash of its contents
    fixed:r:<algorithm>:<base-32>       the hash of the NAR; where the path refers to itself, of the NAR modulo itself
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar, store_path
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import HASH_PART_LENGTH, StorePath
from reconciler.core.store.path_info import PathInfo


def text(contents: bytes) -> str:
    return f"text:{Hash.sha256(contents).nix}"


def recursive(nar_hash: Hash) -> str:
    return f"fixed:r:{nar_hash.nix}"


def flat(content_hash: Hash) -> str:
    return f"fixed:{content_hash.nix}"


def check(info: PathInfo, real_path: str) -> None:
    """StoreError unless the files at `real_path` have the hash that `info.ca` says, and the path follows from it."""
    method, _, rest = info.ca.partition(":")
    is_recursive = rest.startswith("r:")
    if method not in ("text", "fixed") or (method == "text" and is_recursive):
        raise StoreError(f"{info.path}: '{info.ca}' is no content address")
    claimed = Hash.parse(rest[2:] if is_recursive else rest)
    if method == "text":
        found, path = _text(info, real_path)
    elif is_recursive:
        found, path = _recursive(info, real_path, claimed.algorithm)
    else:
        found, path = _flat(info, real_path, claimed.algorithm)
    if found != claimed:
        raise StoreError(f"{info.path}: its content address says {claimed}, its contents are {found}")
    if path != info.path:
        raise StoreError(f"{info.path}: contents like these belong at {path}")


def _text(info: PathInfo, real_path: str) -> tuple[Hash, StorePath]:
    with open(_regular(info, real_path), "rb") as file:
        contents = file.read()
    return Hash.sha256(contents), store_path.text_path(info.path.name, contents, info.references)


def _flat(info: PathInfo, real_path: str, algorithm: str) -> tuple[Hash, StorePath]:
    if info.references:
        raise StoreError(f"{info.path}: a fixed output cannot have references")
    found = hash_file(_regular(info, real_path), algorithm)
    return found, store_path.fixed_path(info.path.name, found, recursive=False)


def _recursive(info: PathInfo, real_path: str, algorithm: str) -> tuple[Hash, StorePath]:
    if algorithm != "sha256":
        if info.references:
            raise StoreError(f"{info.path}: a fixed output cannot have references")
        found = _hash(nar.dump(real_path), algorithm)
        return found, store_path.fixed_path(info.path.name, found, recursive=True)
    own = info.path in info.references
    found = modulo(nar.dump(real_path), info.path.hash_part) if own else info.nar_hash
    return found, store_path.source_path(info.path.name, found, info.other_references, own)


def _regular(info: PathInfo, real_path: str) -> str:
    if os.path.islink(real_path) or not os.path.isfile(real_path):
        raise StoreError(f"{info.path}: '{info.ca}' is the address of a file, and it is none")
    return real_path


def hash_file(path: str, algorithm: str) -> Hash:
    """The hash of a file's contents."""
    return _hash(_chunks(path), algorithm)


def _chunks(path: str) -> Iterator[bytes]:
    with open(path, "rb", buffering=0) as file:
        while True:
            data = file.read(nar.CHUNK)
            if not data:
                return
            yield data


def _hash(chunks: Iterable[bytes], algorithm: str) -> Hash:
    # md5 and sha1 are what some upstreams published, and a host under FIPS rules refuses them for security.
    state = hashlib.new(algorithm, usedforsecurity=False)
    for chunk in chunks:
        state.update(chunk)
    return Hash(algorithm, state.digest())


def modulo(chunks: Iterable[bytes], hash_part: str) -> Hash:
    """The sha256 of a stream in which each `hash_part` is NULs, followed by `|<offset>` for each of them."""
    needle = hash_part.encode()
    if len(needle) != HASH_PART_LENGTH:
        raise FormatError(f"'{hash_part}' is not the hash part of a store path")
    state = hashlib.sha256()
    blank = bytes(len(needle))
    offsets: list[int] = []
    held, start = b"", 0  # what may still be the beginning of the needle, and its offset
    for chunk in chunks:
        data = held + chunk
        at = data.find(needle)
        while at >= 0:
            offsets.append(start + at)
            at = data.find(needle, at + len(needle))
        data = data.replace(needle, blank)
        keep = min(len(data), len(needle) - 1)
        state.update(data[: len(data) - keep])
        held, start = data[len(data) - keep :], start + len(data) - keep
    state.update(held)
    for offset in offsets:
        state.update(f"|{offset}".encode())
    return Hash("sha256", state.digest())
