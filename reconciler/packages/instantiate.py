"""Writing what a graph is made of into a store: what caches have, sources, then derivations, references first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.order import topological
from reconciler.core.store.store import Store
from reconciler.packages.model import Graph
from reconciler.packages.sources import CachedPath, GivenPath

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Caches
    from reconciler.core.store.substitute import SubstituteEvent

Heard = Callable[["SubstituteEvent"], None]


def instantiate(graph: Graph, store: Store, on_event: Heard | None = None) -> None:
    """Make every source and every .drv file of `graph` valid in `store`; nothing is built.

    What comes from binary caches and from Debian is fetched here; `on_event` hears of the former. StoreError and
    BuildError as from the sources.
    """
    paths = [*graph.sources, *graph.derivations]
    store.add_temp_roots(paths)
    valid = store.valid(paths)
    for caches, wanted in cached(graph, store):
        from reconciler.core.store.substitute import substitute

        substitute(store, caches, wanted, on_event=on_event)
    for path, source in graph.sources.items():
        if path not in valid:
            source.add_to(store)
    missing = [path for path in _references_first(graph) if path not in valid]
    with store.batch() as batch:
        for path in missing:
            batch.add_derivation(graph.derivations[path], path.name.removesuffix(".drv"))


def _references_first(graph: Graph) -> list[StorePath]:
    inside = graph.derivations.keys()
    return topological({path: set(drv.input_derivations) & inside for path, drv in graph.derivations.items()})


def cached(graph: Graph, store: Store | None) -> list[tuple[Caches, list[StorePath]]]:
    """The sources of a graph that `store` lacks and that come from caches, by the caches that have them."""
    valid = store.valid(graph.sources) if store is not None else set()
    found: dict[int, tuple[Caches, list[StorePath]]] = {}
    for path, source in graph.sources.items():
        if path in valid:
            continue
        caches = source.caches if isinstance(source, CachedPath) else None
        if isinstance(source, GivenPath):
            caches = source.cached()
        if caches is not None:
            found.setdefault(id(caches), (caches, []))[1].append(path)
    return list(found.values())
