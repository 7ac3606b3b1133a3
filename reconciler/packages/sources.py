"""What derivations are made from, besides each other: each knows its store path before it is in any store."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath, fixed_path, source_path, text_path
from reconciler.core.store.store import Store
from reconciler.packages.specs import DebianSpec, PathSpec, PypiSpec

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Caches

_NOT_ALLOWED = re.compile(r"[^0-9a-zA-Z+\-._?=]")


@dataclass(frozen=True)
class TextSource:
    """A text without references."""

    path: StorePath
    contents: bytes

    @classmethod
    def of(cls, name: str, contents: bytes) -> TextSource:
        return cls(text_path(name, contents), contents)

    def add_to(self, store: Store) -> None:
        store.add_text(self.path.name, self.contents)


@dataclass(frozen=True)
class TreeSource:
    """A file or directory of the project, as it was when it was read; its times and modes do not count."""

    path: StorePath
    real: Path

    @classmethod
    def of(cls, spec: PathSpec) -> TreeSource:
        real = spec.path.resolve()
        try:
            nar_hash, _ = nar.hash_path(str(real))
        except (OSError, StoreError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            raise UsageError(f"{spec.position}: {real} cannot be a source: {reason}") from error
        # What lies above a recipe is called as somebody's checkout is.
        above = spec.path.name == ".."
        name = "source" if above else _NOT_ALLOWED.sub("-", real.name).lstrip(".") or "source"
        return cls(source_path(name, nar_hash), real)

    def add_to(self, store: Store) -> None:
        if store.is_valid(self.path):
            return
        added = store.add_path(self.path.name, str(self.real))
        if added != self.path:
            raise StoreError(f"{self.real} was changed while it was read", hint="run the same command again")


@dataclass(frozen=True)
class DebianSource:
    """The orig tarball of a Debian source package."""

    path: StorePath
    spec: DebianSpec

    @classmethod
    def of(cls, spec: DebianSpec) -> DebianSource:
        return cls(fixed_path(spec.file, spec.sha256, recursive=False), spec)

    def add_to(self, store: Store) -> None:
        if not store.is_valid(self.path):
            from reconciler.packages import debian

            file = debian.fetch(self.spec)
            store.add_fixed(self.spec.file, str(file), self.spec.sha256)


@dataclass(frozen=True)
class PypiSource:
    """A wheel of the Python package index."""

    path: StorePath
    spec: PypiSpec

    @classmethod
    def of(cls, spec: PypiSpec) -> PypiSource:
        return cls(fixed_path(spec.file, spec.sha256, recursive=False), spec)

    def add_to(self, store: Store) -> None:
        if not store.is_valid(self.path):
            from reconciler.packages import pypi

            store.add_fixed(self.spec.file, str(pypi.fetch(self.spec)), self.spec.sha256)


@dataclass(frozen=True)
class CachedPath:
    """A store path of a channel: fetched from its binary cache, with all that it refers to."""

    path: StorePath
    caches: Caches

    def add_to(self, store: Store) -> None:
        from reconciler.core.store.substitute import substitute

        substitute(store, self.caches, [self.path])


@dataclass(frozen=True)
class GivenPath:
    """A store path that was given as such: nothing says how to make it, but a cache may have it."""

    path: StorePath
    caches: tuple[Caches, ...] = ()

    def add_to(self, store: Store) -> None:
        if store.is_valid(self.path):
            return
        caches = self.cached()
        if caches is None:
            raise self.missing
        from reconciler.core.store.substitute import substitute

        substitute(store, caches, [self.path])

    def cached(self) -> Caches | None:
        """The caches that have it; None when none does."""
        return next((caches for caches in self.caches if caches.find(self.path) is not None), None)

    @property
    def missing(self) -> StoreError:
        nor = ", no cache has it" if self.caches else ""
        return StoreError(
            f"{self.path} is not in this controller's store{nor}, and nothing says how to build it",
            hint="name a package instead of a store path, or copy it here from a host: reconciler import --copy",
        )
