"""Which entries of a store are garbage: all that no root reaches, and in which order they may go.

An entry is known by its base name, whether it is a valid path or not: what lies in the store directory unregistered
(the leftovers of a killed import, files of nobody) is garbage too, unless a temporary root has its hash part. A path
that is valid but whose files are gone counts as well.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.store import live
from reconciler.core.store.gc_socket import hash_part

if TYPE_CHECKING:
    from reconciler.core.store.database import Graph
    from reconciler.core.store.store import Store

LINKS = ".links"
LINKING = ".tmp-link-"  # made and renamed at once by whoever stores equal files once: .tmp-link-<pid>-<random>
_STAGING = "tmp-"  # directories of newer Nix, locked while they are filled


class Keeping:
    """What keeps what among the valid paths of a store.

    A path keeps its references. With `derivations` it keeps its deriver, if that says that it makes the path; with
    `outputs` a derivation keeps what it makes.
    """

    def __init__(self, graph: Graph, derivations: bool, outputs: bool) -> None:
        prefix = len(STORE_DIR) + 1
        self.sizes = {path[prefix:]: size or 0 for _, path, _, size in graph.paths}
        names = {id_: path[prefix:] for id_, path, *_ in graph.paths}
        self._references: dict[str, list[str]] = defaultdict(list)
        self._more: dict[str, list[str]] = defaultdict(list)
        for referrer, reference in graph.references:
            self._references[names[referrer]].append(names[reference])
        derivers = {path[prefix:]: deriver[prefix:] for _, path, deriver, _ in graph.paths if deriver}
        for id_, path in graph.outputs:
            drv, output = names[id_], path[prefix:]
            if derivations and derivers.get(output) == drv:
                self._more[output].append(drv)
            if outputs and output in self.sizes:
                self._more[drv].append(output)

    def closure(self, start: Iterable[str]) -> set[str]:
        """`start`, and of what is valid in it all that it keeps."""
        reached = set(start)
        todo = list(reached)
        while todo:
            name = todo.pop()
            for kept in (*self._references.get(name, ()), *self._more.get(name, ())):
                if kept not in reached:
                    reached.add(kept)
                    todo.append(kept)
        return reached

    def referrers_first(self, names: Collection[str]) -> list[str]:
        """`names` in an order in which no path comes after one that it refers to; always the same.

        Paths that refer to each other in a circle, which no store should have, come last.
        """
        waiting = dict.fromkeys(sorted(names), 0)
        for name in names:
            for reference in self._references.get(name, ()):
                if reference in waiting:
                    waiting[reference] += 1
        order = [name for name, count in waiting.items() if count == 0]
        for name in order:
            for reference in self._references.get(name, ()):
                if reference in waiting:
                    waiting[reference] -= 1
                    if waiting[reference] == 0:
                        order.append(reference)
        done = set(order)
        return order + [name for name in waiting if name not in done]


class Marked:
    """What a search for garbage found: base names. `dead` are in the order in which they may go; `gone` are those that
    did. `unregistered` of the dead come first: they need no room in the database, of which a full disk has none."""

    def __init__(self, keeping: Keeping, alive: set[str], dead: set[str]) -> None:
        self.keeping = keeping
        self.alive = alive
        self.unregistered = sorted(dead - keeping.sizes.keys())
        self.registered = keeping.referrers_first(dead & keeping.sizes.keys())
        self.dead = self.unregistered + self.registered
        self.gone: set[str] = set()
        self._by_part: dict[str, list[str]] | None = None

    def revive(self, hash_parts: Iterable[str]) -> set[str]:
        """Take what these temporary roots keep for alive from now on; what of it had been dead."""
        if self._by_part is None:
            self._by_part = defaultdict(list)
            for name in self.dead:
                self._by_part[hash_part(name)].append(name)
        return self.keep(name for part in hash_parts for name in self._by_part.get(part, ()))

    def keep(self, names: Iterable[str]) -> set[str]:
        """Take these for alive, with all that they keep; what of it had been dead."""
        revived = self.keeping.closure(names) - self.alive - self.gone
        self.alive |= revived
        return revived


def mark(
    store: Store, derivations: bool, outputs: bool, clean: bool = False, without: Collection[str] = ()
) -> tuple[Marked, set[str]]:
    """Search a store for garbage; also the hash parts of all temporary roots.

    gc.lock must be held exclusively, and new temporary roots be heard of. With `clean`, links and files of ended
    processes that mean nothing any more are removed. Roots whose names are in `without` are passed over.
    """
    # Read first, for whoever ends meanwhile may have made a permanent root that the search has passed by; and last, for
    # clients of Nix 2.8 that lost the connection write theirs down untold.
    temporary = _hash_parts(live.temporary(store))
    keeping = Keeping(store.graph(), derivations, outputs)
    roots = live.permanent(store, keeping.sizes, clean)
    roots.update(live.of_processes(store, keeping.sizes))
    temporary |= _hash_parts(live.temporary(store, clean))
    entries = set(_entries(store))
    everything = entries | keeping.sizes.keys()
    kept = {name for name, names in roots.names.items() if not names.issubset(without)}
    kept.update(name for name in everything if hash_part(name) in temporary)
    alive = keeping.closure(kept)
    return Marked(keeping, alive, everything - alive), temporary


def _hash_parts(roots: live.Roots) -> set[str]:
    return {hash_part(name) for name in roots.names}


def _entries(store: Store) -> Iterator[str]:
    """What lies in the store directory and is not somebody's work in progress."""
    with store.directory() as store_fd:
        for name in os.listdir(store_fd):
            if name != LINKS and not in_use(name, store_fd):
                yield name


def in_use(name: str, store_fd: int) -> bool:
    """Whether an entry that is no store path is being worked on: a link about to be renamed, a locked directory."""
    if name.startswith(LINKING):
        number = name[len(LINKING) :].partition("-")[0]
        return number.isdecimal() and os.path.exists(f"/proc/{number}")
    if name.startswith(_STAGING):
        try:
            fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=store_fd)
        except OSError:
            return False
        try:
            return not fs.flock(fd, exclusive=True, wait=False)
        finally:
            os.close(fd)
    return False
