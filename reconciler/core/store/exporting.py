"""Paths out of a store and into it as one stream, as `nix-store --export` and `--import` have it (nix/export.py).

Neither signatures nor content addresses travel: what is imported is trusted as its sender is.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Callable

from reconciler.core.errors import StoreError
from reconciler.core.nix import export
from reconciler.core.nix.hashes import Hash
from reconciler.core.store.order import topological
from reconciler.core.store.path_info import PathInfo

if TYPE_CHECKING:
    from reconciler.core.nix.nar_format import Reader
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.batch import Batch
    from reconciler.core.store.store import Store

_IN_MEMORY = 1 << 20  # bytes of an archive that are kept in memory until its name comes; more are on disk
_AT_ONCE = 200  # paths that become valid together: each is locked until then


def export_paths(store: Store, paths: Iterable[StorePath], write: Callable[[bytes], object]) -> None:
    """Write the stream of exactly these paths, references before referrers, to `write` in pieces.

    StoreError when one is not valid; also when its contents are not those that are registered: the stream then ends in
    the middle, and nothing takes it for whole.
    """
    infos = {info.path: info for info in store.infos(set(paths))}
    for path in topological({path: infos.keys() & info.other_references for path, info in infos.items()}):
        info = infos[path]
        write(export.PATH)
        state = hashlib.sha256()
        for chunk in store.nar(info.path):
            state.update(chunk)
            write(chunk)
        found = Hash("sha256", state.digest())
        if found != info.nar_hash:
            raise StoreError(
                f"{info.path}: its contents have changed: their hash is {found}, registered is {info.nar_hash}",
                hint="repair it before it is copied",
            )
        write(export.trailer(info.path, info.references, info.deriver))
    write(export.END)


def import_paths(store: Store, stream: Reader) -> list[StorePath]:
    """Add every path of a stream; the paths in the stream's order, those included that were valid before.

    FormatError at the first byte that is not as it should be, StoreError when a path refers to one that is neither
    valid nor earlier in the stream. Of the paths before that, whole groups of 200 are valid then. Memory is bounded; an
    archive lies in an unnamed file beside the database until its name has come. What follows the stream's end may have
    been taken too: whoever has more in one stream bounds it.
    """
    exports = export.Exports(stream)
    done: list[StorePath] = []
    with store.batch() as batch:
        while exports.more():
            done.append(_import_one(store, batch, exports, set(done[-_AT_ONCE:])))
            if len(done) % _AT_ONCE == 0:
                batch.commit()
    return done


def _import_one(store: Store, batch: Batch, exports: export.Exports, earlier: set[StorePath]) -> StorePath:
    with tempfile.SpooledTemporaryFile(_IN_MEMORY, dir=store.state_dir) as spool:
        state = hashlib.sha256()
        size = exports.archive(_copy(store.state_dir, spool, state.update))
        trailer = exports.trailer()
        spool.seek(0)
        info = PathInfo(trailer.path, Hash("sha256", state.digest()), size, trailer.references, deriver=trailer.deriver)
        _check_references(store, info, earlier)
        batch.add_nar(info, spool)
    return info.path


def _copy(where: str, spool: IO[bytes], update: Callable[[bytes], object]) -> Callable[[bytes], None]:
    def write(data: bytes) -> None:
        update(data)
        try:
            spool.write(data)
        except OSError as error:
            raise StoreError(
                f"{where}: {error.strerror}", hint="an archive is kept here until its name comes"
            ) from error

    return write


def _check_references(store: Store, info: PathInfo, earlier: set[StorePath]) -> None:
    missing = set(info.other_references) - earlier
    missing -= store.valid(missing)
    if missing:
        raise StoreError(f"{info.path} refers to {min(missing)}, which is neither valid nor earlier in the stream")
