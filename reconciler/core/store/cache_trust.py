"""Whether what a cache says of a path is to be believed: a signature, or that it follows from its contents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.core.errors import StoreError
from reconciler.core.nix import base32, store_path
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.signature import PublicKey, Signature, any_trusted
from reconciler.core.nix.store_path import StorePath


def check_trust(found: NarInfo, keys: Sequence[PublicKey]) -> None:
    """StoreError, which names the field, when it is not."""
    if found.ca:
        _check_address(found)
    elif not any_trusted(found.fingerprint, found.signatures, keys):
        raise StoreError(*_distrust(found, keys))


def _check_address(found: NarInfo) -> None:
    """That the path follows from CA, the name and the references. That the contents have that hash is checked when
    they are unpacked."""
    method, _, rest = found.ca.partition(":")
    recursive = rest.startswith("r:")
    content_hash = Hash.parse(rest[2:] if recursive else rest)
    others = [reference for reference in found.references if reference != found.path]
    own = len(others) != len(found.references)
    if method == "text":
        right = _text_path(found.path.name, content_hash, found.references)
    elif recursive and content_hash.algorithm == "sha256":
        right = store_path.source_path(found.path.name, content_hash, others, own)
    elif found.references:
        raise StoreError(f"CA: a fixed output cannot have references, and {found.path} has")
    else:
        right = store_path.fixed_path(found.path.name, content_hash, recursive)
    if right != found.path:
        raise StoreError(f"CA: what has this content address lies at {right}, not at {found.path}")


def _text_path(name: str, contents: Hash, references: Iterable[StorePath]) -> StorePath:
    """Where a text lies of which only the hash is known."""
    kind = ":".join(["text", *map(str, sorted(references))])
    made = Hash.sha256(f"{kind}:sha256:{contents.base16}:{store_path.STORE_DIR}:{name}".encode())
    return StorePath(base32.encode(store_path.compress(made.digest)), name)


def _distrust(found: NarInfo, keys: Sequence[PublicKey]) -> tuple[str, str]:
    """Why no signature counts, and what can be done."""
    names = sorted({Signature.parse(signature).key_name for signature in found.signatures})
    trusted = ", ".join(sorted({key.name for key in keys})) or "none"
    if not names:
        return f"Sig: {found.path} is not signed", f"the keys that are trusted for this cache: {trusted}"
    known = sorted(set(names) & {key.name for key in keys})
    if known:
        signed = f"the StorePath, NarHash, NarSize and References of {found.path}"
        return (
            f"Sig: the signature by '{known[0]}' is not right for {signed}",
            "one of these was changed after it was signed, or another key of that name signed it",
        )
    return (
        f"Sig: {found.path} is signed by {', '.join(names)}, which is not trusted",
        f"the keys that are trusted for this cache: {trusted}",
    )
