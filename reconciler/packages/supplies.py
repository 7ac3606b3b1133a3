"""What hosts can fetch from binary caches by themselves: whole closures, found out from narinfos alone.

A cache that only this controller can ask (a directory, a URL with a password) is none for hosts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.errors import ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache, Caches, Offer
from reconciler.core.store.order import topological
from reconciler.packages.sources import CachedPath, GivenPath
from reconciler.packages.substitution import LOOKUPS, fetchable

if TYPE_CHECKING:
    from reconciler.core.store.path_info import PathInfo
    from reconciler.packages.model import Package
    from reconciler.packages.resolver import Resolver


@dataclass(frozen=True)
class Supply:
    """Paths that `caches` have, whole closures, references first."""

    caches: Caches
    paths: tuple[PathInfo, ...]

    @property
    def public(self) -> tuple[BinaryCache, ...]:
        """The caches that a host can ask, the first choice first."""
        return tuple(cache for cache in self.caches.ordered() if cache.public_url is not None)


class Supplies:
    """Asks caches about packages, about each once. Not for several threads."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._offers: dict[int, dict[StorePath, Offer | None]] = {}
        self._closures: dict[tuple[int, tuple[StorePath, ...]], frozenset[StorePath] | None] = {}

    def has(self, package: Package) -> bool:
        """Whether hosts can fetch all that a profile gets of a package."""
        caches = self._caches(package)
        return caches is not None and self._closure(caches, package.paths) is not None

    def of(self, packages: Iterable[Package], built: Iterable[Package] = ()) -> list[Supply]:
        """What there is to fetch for `packages`, each of which is `had`, and of what `built` ones are made from."""
        wanted: dict[int, tuple[Caches, set[StorePath]]] = {}
        for package in packages:
            caches = self._caches(package)
            if caches is not None:
                found = self._closure(caches, package.paths) or frozenset()
                wanted.setdefault(id(caches), (caches, set()))[1].update(found)
        own = self._resolver.caches
        inputs = self._inputs(list(built))
        if own is not None and inputs:
            wanted.setdefault(id(own), (own, set()))[1].update(inputs)
        return [Supply(caches, self._ordered(caches, paths)) for caches, paths in wanted.values()]

    def _caches(self, package: Package) -> Caches | None:
        if package.derivation is not None:
            return self._resolver.caches
        source = self._resolver.graph([package]).sources.get(package.output)
        if isinstance(source, CachedPath):
            return source.caches
        return source.cached() if isinstance(source, GivenPath) else None

    def _inputs(self, packages: list[Package]) -> set[StorePath]:
        """The closures of what caches have of the inputs of builds."""
        own = self._resolver.caches
        if own is None or not packages:
            return set()
        derivations = [package.derivation for package in packages if package.derivation is not None]
        try:
            outputs = fetchable(self._resolver.graph(packages), derivations, None, own)
        except ReconcilerError:
            return set()  # it costs builds, not the run
        return {path for output in outputs for path in self._closure(own, (output,)) or ()}

    def _closure(self, caches: Caches, roots: tuple[StorePath, ...]) -> frozenset[StorePath] | None:
        """All that `roots` need; None when a part of it is in no cache that hosts can ask."""
        key = id(caches), roots
        if key not in self._closures:
            self._closures[key] = self._found(caches, roots)
        return self._closures[key]

    def _found(self, caches: Caches, roots: tuple[StorePath, ...]) -> frozenset[StorePath] | None:
        offers = self._offers.setdefault(id(caches), {})
        found: set[StorePath] = set()
        level = set(roots)
        with ThreadPoolExecutor(LOOKUPS, "caches") as pool:
            while level:
                fresh = sorted(level - offers.keys())
                offers.update(zip(fresh, pool.map(lambda path: _public(caches, path), fresh), strict=True))
                found |= level
                here = [offers[path] for path in level]
                if any(offer is None for offer in here):
                    return None
                level = {path for offer in here if offer for path in offer.narinfo.references} - found
        return frozenset(found)

    def _ordered(self, caches: Caches, paths: Iterable[StorePath]) -> tuple[PathInfo, ...]:
        offers: Mapping[StorePath, Offer | None] = self._offers.get(id(caches), {})
        infos = {path: offer.info for path in sorted(paths) if (offer := offers.get(path)) is not None}
        order = topological({path: set(info.other_references) & infos.keys() for path, info in infos.items()})
        return tuple(infos[path] for path in order)


def _public(caches: Caches, path: StorePath) -> Offer | None:
    """The first offer of a cache that hosts can ask."""
    return next((offer for offer in caches.offers(path) if offer.cache.public_url is not None), None)
