"""Writing what a graph is made of into a store: sources, then derivations, references first."""

from __future__ import annotations

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store, topological
from reconciler.packages.model import Graph


def instantiate(graph: Graph, store: Store) -> None:
    """Make every source and every .drv file of `graph` valid in `store`; nothing is built.

    Sources from Debian are fetched here. StoreError and BuildError as from the sources.
    """
    paths = [*graph.sources, *graph.derivations]
    store.add_temp_roots(paths)
    valid = store.valid(paths)
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
