"""Caches before builds: which outputs of a graph are better fetched than built."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.packages.model import Graph

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Caches, Offer

LOOKUPS = 16  # questions to caches at a time


def fetchable(graph: Graph, derivations: Iterable[StorePath], store: Store | None, caches: Caches) -> list[StorePath]:
    """The outputs that `caches` have and `store` lacks, of `derivations` and, where they have not, of what these are
    built from. What only serves to build an output that is fetched is left out."""
    found: list[StorePath] = []
    seen: set[StorePath] = set()
    level = list(dict.fromkeys(derivations))
    with ThreadPoolExecutor(LOOKUPS, "caches") as pool:
        while level:
            seen.update(level)
            lacking = {path: outputs for path in level if (outputs := _lacking(graph.derivations[path], store))}
            had = pool.map(lambda outputs: all(caches.find(one) is not None for one in outputs), lacking.values())
            following: dict[StorePath, None] = {}
            for (path, outputs), there in zip(lacking.items(), had, strict=True):
                if there:
                    found += outputs
                else:
                    following |= dict.fromkeys(graph.derivations[path].input_derivations)
            level = [path for path in following if path not in seen and path in graph.derivations]
    return found


def closure_lacking(paths: Iterable[StorePath], store: Store | None, caches: Caches) -> Mapping[StorePath, Offer]:
    """What `store` lacks of the closures of `paths`, as far as `caches` have it. Nothing is fetched or rooted."""
    found: dict[StorePath, Offer] = {}
    level = set(paths)
    seen: set[StorePath] = set()
    with ThreadPoolExecutor(LOOKUPS, "caches") as pool:
        while level:
            seen |= level
            asked = sorted(level - store.valid(level)) if store is not None else sorted(level)
            offers = zip(asked, pool.map(caches.find, asked), strict=True)
            fresh = {path: offer for path, offer in offers if offer is not None}
            found |= fresh
            level = {path for offer in fresh.values() for path in offer.narinfo.references} - seen
    return found


def _lacking(derivation: Derivation, store: Store | None) -> list[StorePath]:
    outputs = list(derivation.output_paths().values())
    valid = store.valid(outputs) if store is not None else set()
    return [path for path in outputs if path not in valid]
