"""How paths hang together: the tree of references or referrers, as values, and closures in both directions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from reconciler.core.errors import StoreError
from reconciler.core.store.order import topological
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.nix.store_path import StorePath
    from reconciler.core.store.store import Store


@value
class TreeLine:
    """One line of a tree: its path, and for each level from the top down whether that branch was the last of its level.
    `repeated`: what is below it stands further up. The top has no levels."""

    path: StorePath
    branches: tuple[bool, ...]
    repeated: bool

    def draw(self) -> str:
        """The line as Nix draws it."""
        above = "".join("    " if last else "│   " for last in self.branches[:-1])
        branch = "" if not self.branches else "└───" if self.branches[-1] else "├───"
        return f"{above}{branch}{self.path}{' [...]' if self.repeated else ''}"


def tree(store: Store, path: StorePath, referrers: bool = False) -> Iterator[TreeLine]:
    """The tree below `path`: what it refers to, or with `referrers` what refers to it; each path is opened once.

    Of the references of one path those come first that others of them refer to, as Nix has it. StoreError when `path`
    is not valid.
    """
    store.info(path)
    edges = _Edges(store, referrers)
    done: set[StorePath] = set()
    todo: list[tuple[StorePath, tuple[bool, ...]]] = [(path, ())]
    while todo:
        current, branches = todo.pop()
        repeated = current in done
        yield TreeLine(current, branches, repeated)
        if repeated:
            continue
        done.add(current)
        children = edges.ordered(current)
        todo += [(child, (*branches, child is children[-1])) for child in reversed(children)]


def closure(store: Store, paths: Iterable[StorePath], referrers: bool = False) -> list[StorePath]:
    """`paths` and all that they refer to, or with `referrers` all that refers to them; references before referrers."""
    if not referrers:
        return store.closure(paths)
    edges = _Edges(store, referrers)
    found: dict[StorePath, set[StorePath]] = {}
    todo = list(paths)
    invalid = set(todo) - store.valid(todo)
    if invalid:
        raise StoreError(f"{min(invalid)} is not valid in {store.store_dir}")
    while todo:
        path = todo.pop()
        if path not in found:
            found[path] = edges.of(path) - {path}
            todo += found[path]
    return list(reversed(topological(found)))


def deriver(store: Store, path: StorePath) -> StorePath | None:
    """The derivation that a valid path was made by, valid or not; None where that is not known."""
    return store.info(path).deriver


class _Edges:
    def __init__(self, store: Store, referrers: bool) -> None:
        self._store = store
        self._referrers = referrers
        self._known: dict[StorePath, set[StorePath]] = {}

    def of(self, path: StorePath) -> set[StorePath]:
        """What the path refers to, or what refers to it; itself included where it does."""
        if path not in self._known:
            references = self._store.referrers if self._referrers else self._references
            self._known[path] = set(references(path))
        return self._known[path]

    def _references(self, path: StorePath) -> Iterable[StorePath]:
        return self._store.info(path).references

    def ordered(self, path: StorePath) -> list[StorePath]:
        children = self.of(path)
        return topological({child: (self.of(child) & children) - {child} for child in children})
