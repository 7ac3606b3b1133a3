"""Store paths in the order in which they can become valid."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.errors import StoreError
from reconciler.core.nix.store_path import StorePath


def topological(references: Mapping[StorePath, Iterable[StorePath]]) -> list[StorePath]:
    """The keys in an order in which references come before referrers, always the same; StoreError for a circle."""
    order: list[StorePath] = []
    done: set[StorePath] = set()
    for start in sorted(references):
        if start in done:
            continue
        entered = {start}
        todo = [(start, iter(sorted(references[start])))]
        while todo:
            path, rest = todo[-1]
            following = next((reference for reference in rest if reference not in done), None)
            if following is None:
                todo.pop()
                entered.discard(path)
                done.add(path)
                order.append(path)
            elif following in entered:
                raise StoreError(f"{following} and {path} refer to each other in a circle")
            else:
                entered.add(following)
                todo.append((following, iter(sorted(references[following]))))
    return order
