"""A store on disk: paths, what is registered of them, and what keeps them.

Logical paths always begin with /nix/store; the files lie below `root`, as in Nix's chroot stores (`--store ROOT`).
Several processes, ours and Nix's, may work on one store at a time.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import derivation
from reconciler.core.nix.derivation import Derivation, ModuloCache
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.nar_format import Node, Reader
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import canonical, files, roots, schema, temp_roots
from reconciler.core.store.batch import Batch
from reconciler.core.store.database import Database, Graph, Row
from reconciler.core.store.locks import PathLock
from reconciler.core.store.order import topological
from reconciler.core.store.path_info import PathInfo


class Store:
    """The store below `root`. Nothing is touched until it is asked for something; `close` when done."""

    def __init__(self, root: str = "/") -> None:
        self.root = os.path.abspath(root)
        self.store_dir = os.path.join(self.root, "nix/store")
        self.state_dir = os.path.join(self.root, "nix/var/nix")
        self._database = Database(self.state_dir)
        self._temp_roots: temp_roots.TempRoots | None = None
        self._locks: dict[StorePath, PathLock] = {}
        self._locks_wanted = 64
        self._locks_guard = threading.Lock()
        self._inherits_attributes: bool | None = None
        self._modulo = ModuloCache()

    @classmethod
    def open(cls, root: str = "/", create: bool = False) -> Store:
        """The store below `root`; StoreError when there is none, unless it is to be created."""
        store = cls(root)
        if create:
            store._create()
        elif not store._database.exists:
            raise StoreError(f"{store.store_dir}: there is no store")
        return store

    def _create(self) -> None:
        for directory in ("nix", "nix/store"):
            path = os.path.join(self.root, directory)
            if os.path.islink(path):
                raise StoreError(f"{path}: is a link, and a store cannot lie behind one")
        try:
            for directory in schema.STORE_DIRECTORIES:
                fs.ensure_directory(os.path.join(self.root, directory))
            for directory in schema.STATE_DIRECTORIES:
                fs.ensure_directory(os.path.join(self.state_dir, directory))
            profiles = os.path.join(self.state_dir, "gcroots/profiles")
            if not os.path.lexists(profiles):
                fs.replace_symlink(os.path.join(self.state_dir, "profiles"), profiles)
            self._database.create()
        except OSError as error:
            raise StoreError(f"{error.filename or self.store_dir}: {error.strerror or error}") from error

    def close(self) -> None:
        """Let go of the database, of locks and of temporary roots."""
        for lock in list(self._locks.values()):
            lock.release()
        self._locks.clear()
        if self._temp_roots is not None:
            self._temp_roots = None
            temp_roots.detach(self.state_dir)
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- files --------------------------------------------------------------------------------------------------------

    def real(self, path: StorePath) -> str:
        """Where the files of `path` lie."""
        return f"{self.store_dir}/{path.base_name}"

    @contextlib.contextmanager
    def directory(self) -> Iterator[int]:
        """A descriptor of the store directory."""
        fd = os.open(self.store_dir, fs.OPEN_DIRECTORY)
        try:
            yield fd
        finally:
            os.close(fd)

    def nar(self, path: StorePath) -> Iterator[bytes]:
        """The archive of a valid path, in chunks of at most 256 KiB; StoreError when it is not valid."""
        self._require([path])
        return files.archive(self.real(path), path)

    @staticmethod
    def canonicalise(real_path: str, uid: int | None = None, gid: int | None = None) -> None:
        """Give files the one form that files in a store have; see `canonical.canonicalise`."""
        canonical.canonicalise(real_path, uid, gid)

    @property
    def inherits_attributes(self) -> bool:
        if self._inherits_attributes is None:
            self._inherits_attributes = canonical.inherits_attributes(self.store_dir)
        return self._inherits_attributes

    # --- questions ----------------------------------------------------------------------------------------------------

    def is_valid(self, path: StorePath) -> bool:
        return bool(self._database.valid([path]))

    def valid(self, paths: Iterable[StorePath]) -> set[StorePath]:
        """Those of `paths` that are valid."""
        return self._database.valid(paths)

    def info(self, path: StorePath) -> PathInfo:
        """What is registered of `path`; StoreError when it is not valid."""
        info = self._database.info(path)
        if info is None:
            raise StoreError(f"{path} is not valid in {self.store_dir}")
        return info

    def infos(self, paths: Iterable[StorePath]) -> list[PathInfo]:
        """What is registered of each of `paths`, in their order; StoreError when one is not valid."""
        paths = list(paths)
        found = self._database.infos(paths)
        missing = [path for path in paths if path not in found]
        if missing:
            raise StoreError(f"{missing[0]} is not valid in {self.store_dir}")
        return [found[path] for path in paths]

    def closure(self, paths: Iterable[StorePath]) -> list[StorePath]:
        """`paths` and all that they refer to, references before referrers; StoreError when one is not valid."""
        wanted = list(paths)
        reachable = self._database.reachable(wanted)
        for path in wanted:
            if path not in reachable:
                raise StoreError(f"{path} is not valid in {self.store_dir}")
        return topological(reachable)

    def referrers(self, path: StorePath) -> set[StorePath]:
        """The valid paths that refer to `path`."""
        return self._database.referrers(path)

    def derivation_outputs(self, drv: StorePath) -> dict[str, StorePath]:
        """The outputs registered of a valid derivation, by name."""
        return self._database.outputs(drv)

    def derivers(self, output: StorePath) -> set[StorePath]:
        """The valid derivations that make `output`."""
        return self._database.derivers(output)

    def rows(self) -> Iterator[Row]:
        """What is registered, row by row in the order of the paths, right or not; in little memory."""
        page = self._database.rows()
        while page:
            yield from page
            page = self._database.rows(page[-1].path)

    def rows_of(self, paths: Iterable[StorePath]) -> list[Row]:
        """The same of those of `paths` that are valid, in no order."""
        return self._database.rows_of(paths)

    def damage(self) -> list[str]:
        """What SQLite itself finds wrong with the database; see Database.damage."""
        return self._database.damage()

    def graph(self) -> Graph:
        """All that is registered, as plain rows: for questions about the whole store."""
        return self._database.graph()

    def read_derivation(self, path: StorePath) -> Derivation:
        """The derivation in a valid .drv file; StoreError when it is not valid."""
        self._require([path])
        return self._parse_derivation(path)

    def _require(self, paths: Iterable[StorePath]) -> None:
        wanted = list(paths)
        valid = self.valid(wanted)
        for path in wanted:
            if path not in valid:
                raise StoreError(f"{path} is not valid in {self.store_dir}")

    def _parse_derivation(self, path: StorePath) -> Derivation:
        return files.derivation(self.real(path), path)

    # --- adding -------------------------------------------------------------------------------------------------------

    def batch(self) -> Batch:
        """A set of paths to be added together."""
        return Batch(self)

    def add_nar(self, info: PathInfo, stream: Reader) -> None:
        """Add one path from its archive; see Batch.add_nar. References must be valid."""
        with self.batch() as batch:
            batch.add_nar(info, stream)

    def add_text(self, name: str, contents: bytes, references: Iterable[StorePath] = ()) -> StorePath:
        """Add a text file; its path."""
        with self.batch() as batch:
            return batch.add_text(name, contents, references)

    def add_path(self, name: str, source: str) -> StorePath:
        """Add a copy of the file, link or directory `source`; its path."""
        with self.batch() as batch:
            return batch.add_path(name, source)

    def add_fixed(self, name: str, file: str, content_hash: Hash) -> StorePath:
        """Add a copy of a file as a flat fixed output; its path. StoreError when its hash is another."""
        with self.batch() as batch:
            return batch.add_fixed(name, file, content_hash)

    def add_tree(self, name: str, node: Node, references: Iterable[StorePath] = ()) -> StorePath:
        """Add a tree that is in memory; its path."""
        with self.batch() as batch:
            return batch.add_tree(name, node, references)

    def write_derivation(self, drv: Derivation, name: str) -> StorePath:
        """Add the .drv file of a derivation whose outputs are computed; `name` is without `.drv`."""
        with self.batch() as batch:
            return batch.add_derivation(drv, name)

    def register(self, infos: Iterable[PathInfo], known: Mapping[StorePath, Derivation] | None = None) -> None:
        """Make paths valid whose files lie in the store, durable and canonical, in one transaction.

        `known`: derivations among them whose text is what was written to their file, and was hashed on its way there;
        the others are read. StoreError, and nothing registered, when a reference is missing, paths refer to each other
        in a circle, or a derivation does not have the outputs that it says.
        """
        infos = list(infos)
        for info in infos:
            if not os.path.lexists(self.real(info.path)):
                raise StoreError(f"{info.path}: nothing lies at {self.real(info.path)}")
        by_path = {info.path: info for info in infos}
        topological({path: set(info.other_references) & by_path.keys() for path, info in by_path.items()})
        outputs = {path: self._checked_outputs(path, known or {}) for path in by_path if path.is_derivation}
        self._database.register(infos, outputs)

    def _checked_outputs(self, path: StorePath, known: Mapping[StorePath, Derivation]) -> Mapping[str, StorePath]:
        def look_up(one: StorePath) -> Derivation:
            return known.get(one) or self._parse_derivation(one)

        drv = look_up(path)
        right = derivation.with_outputs(drv, files.name_of(path), look_up, self._modulo)
        if right.outputs != drv.outputs or right.environment != drv.environment:
            raise StoreError(f"{path}: its outputs are not those that follow from it")
        return drv.output_paths()

    def unregister(self, paths: Sequence[str], unknown: Sequence[str] = ()) -> set[str]:
        """Make paths valid no more, referrers first; which are not valid then. Only a collection does this."""
        return self._database.unregister(paths, unknown)

    # --- what keeps paths ---------------------------------------------------------------------------------------------

    def add_temp_root(self, path: StorePath) -> None:
        """Keep `path` while this store is open. Whether it is valid must be asked (again) afterwards."""
        self.add_temp_roots([path])

    def add_temp_roots(self, paths: Iterable[StorePath]) -> None:
        if self._temp_roots is None:
            self._temp_roots = temp_roots.attach(self.state_dir)
        self._temp_roots.add(paths)

    def path_lock(self, path: StorePath) -> PathLock:
        """Nix's lock of one path: the one that this thread holds through this store, so that whoever holds an output's
        lock can add the output, else one that is not taken yet."""
        with self._locks_guard:
            held = self._locks.get(path)
            if held is not None and held.held_here:
                return held
            if len(self._locks) >= self._locks_wanted:
                # Not at each call: a batch may hold ten thousand.
                self._locks = {key: lock for key, lock in self._locks.items() if lock.held}
                self._locks_wanted = 2 * len(self._locks) + 64
            lock = PathLock(self.real(path))
            if held is None or not held.held:
                self._locks[path] = lock
            return lock

    def add_root(self, link: str, target: StorePath) -> None:
        """Make `link`, a name below gcroots/ (relative to it, or the full physical path), keep `target`, durably."""
        roots.add(os.path.join(self.state_dir, "gcroots", link), str(target))

    def remove_root(self, link: str) -> bool:
        """Remove such a root; whether it was there."""
        return roots.remove(os.path.join(self.state_dir, "gcroots", link))

    def add_indirect_root(self, link: str) -> str:
        """Make a link that lies anywhere and points into the store a root; the path of the entry in gcroots/auto."""
        return roots.add_indirect(self.state_dir, link)
