"""What a package reference resolves to, before anything is built: derivations, sources and the paths they will have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from reconciler.core.errors import UsageError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store


class NotThereError(UsageError):
    """A reference means nothing, or more than one thing; without the place where the reference stands."""


class Source(Protocol):
    """Something whose store path is known and whose content can be put into a store."""

    @property
    def path(self) -> StorePath: ...

    def add_to(self, store: Store) -> None:
        """Make `path` valid in `store`; nothing when it is."""


@dataclass(frozen=True)
class Package:
    """One resolved package: what its reference means on one architecture.

    `derivation` is None for a store path that was given as such, or comes from a channel. `also` are outputs that go
    along, such as the manual's; `outputs` all those of a derivation, by name.
    """

    name: str
    version: str
    output: StorePath
    derivation: StorePath | None
    also: tuple[StorePath, ...] = ()
    outputs: Mapping[str, StorePath] = field(default_factory=dict, hash=False)

    @property
    def paths(self) -> tuple[StorePath, ...]:
        """Every store path that a profile gets of it."""
        return (self.output, *self.also)

    @property
    def everything(self) -> tuple[StorePath, ...]:
        """Every store path that a build which has it as input sees."""
        return tuple(self.outputs[name] for name in sorted(self.outputs)) or self.paths


@dataclass(frozen=True)
class Graph:
    """Derivations by their .drv path, and the sources that they and the paths given as such need."""

    derivations: Mapping[StorePath, Derivation] = field(default_factory=dict)
    sources: Mapping[StorePath, Source] = field(default_factory=dict)

    def __or__(self, other: Graph) -> Graph:
        return Graph({**self.derivations, **other.derivations}, {**self.sources, **other.sources})
