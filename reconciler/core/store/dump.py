"""The database as text: `nix-store --dump-db`, `--load-db` and `--register-validity` (nix/registration.py)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar, registration
from reconciler.core.nix.registration import Registration
from reconciler.core.store.path_info import PathInfo

if TYPE_CHECKING:
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.store import Store


def dump_db(store: Store, paths: Iterable[StorePath] | None = None) -> Iterator[bytes]:
    """The registrations of all valid paths in the order of their names, or of `paths` in their order, one a piece.

    Equal to what Nix prints, byte for byte. FormatError for a row that cannot be right, StoreError when one of `paths`
    is not valid.
    """
    infos = (row.info() for row in store.rows()) if paths is None else iter(store.infos(paths))
    for info in infos:
        one = Registration(info.path, info.nar_hash, info.nar_size, info.deriver, info.references)
        yield one.serialise()


def load_db(store: Store, chunks: Iterable[bytes], shown: str = "registrations") -> list[StorePath]:
    """Register what such a text says, in one transaction, hashes taken on trust as Nix does; all paths in it.

    What is valid already keeps its registration. StoreError, and nothing registered, when files or references are
    missing, or a derivation has not the outputs that follow from it. `shown` is where the text is from.
    """
    infos = [_given(one) for one in registration.parse(chunks, shown)]
    store.register(infos)
    return [info.path for info in infos]


def register_validity(store: Store, chunks: Iterable[bytes], shown: str = "registrations") -> list[StorePath]:
    """Make paths valid whose files lie in the store; all paths in the text, which has no hashes.

    The files get the form of a store, are hashed here and made durable first. Errors as in `load_db`.
    """
    named = list(registration.parse(chunks, shown, hashes=False))
    store.add_temp_roots(one.path for one in named)
    valid = store.valid(one.path for one in named)
    infos = [_hashed(store, one) for one in named if one.path not in valid]
    with store.directory() as store_fd:
        fs.syncfs(store_fd)
    store.register(infos)
    return [one.path for one in named]


def _given(one: Registration) -> PathInfo:
    assert one.nar_hash is not None
    assert one.nar_size is not None
    return PathInfo(one.path, one.nar_hash, one.nar_size, one.references, one.deriver)


def _hashed(store: Store, one: Registration) -> PathInfo:
    real = store.real(one.path)
    try:
        store.canonicalise(real)
        nar_hash, size = nar.hash_path(real)
    except OSError as error:
        raise StoreError(f"{one.path}: {error.strerror or error}") from error
    return PathInfo(one.path, nar_hash, size, one.references, one.deriver)
