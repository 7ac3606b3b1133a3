"""Where each build of a run would be made, and what nobody can build: found out before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.choosing import TARGET, Makers, P, Placement, spread, why_nobody
from reconciler.fleet.prepared import Site
from reconciler.packages.model import Graph, Package


@dataclass(frozen=True)
class Siting:
    """`sites` in the order of the hosts; `nobody`: what is wrong with each derivation that no machine can build, and
    what to do about it."""

    sites: tuple[Site, ...]
    nobody: Mapping[StorePath, tuple[str, str]]


@dataclass(frozen=True)
class Outlook:
    """`graph`: all that packages are made from; `fetched`: derivations of it that need not be built, since what they
    make, or what needs them, comes from a cache; `valid`: whether the controller's store has a path."""

    graph: Graph
    fetched: frozenset[StorePath]
    valid: Callable[[StorePath], bool]

    def to_build(self, wanted: Mapping[StorePath, P]) -> dict[StorePath, P]:
        """What is to be built for `wanted`, each with its places."""
        makers = {
            output: path
            for path, derivation in self.graph.derivations.items()
            for output in derivation.output_paths().values()
        }
        return spread(
            wanted,
            self.graph.derivations.__getitem__,
            lambda output: makers[output] not in self.fetched and not self.valid(output),
        )


def siting(needed: Mapping[str, Sequence[Package]], placement: Placement, makers: Makers, outlook: Outlook) -> Siting:
    """`needed`: the packages of each host, by its name. Pure: no machine is asked."""
    pairs = [(host, one.derivation) for host, packages in needed.items() for one in packages if one.derivation]
    there = {path: TARGET for host, path in pairs if placement.of(host, path) == TARGET}
    names: dict[tuple[str, ...], dict[str, None]] = {}
    nobody: dict[StorePath, tuple[str, str]] = {}
    for path, places in outlook.to_build(placement.elsewhere(pairs)).items():
        derivation, label = outlook.graph.derivations[path], _label(path)
        options = makers.options(derivation, places)
        if not options:
            nobody[path] = why_nobody(derivation, label, places[0], makers)
        elif _is_built(derivation):
            names.setdefault(tuple(maker.name for maker in options[0]), {})[label] = None
    for path in outlook.to_build(there):
        if _is_built(outlook.graph.derivations[path]):
            names.setdefault((TARGET,), {})[_label(path)] = None
    return Siting(tuple(Site(who, tuple(sorted(builds))) for who, builds in names.items()), nobody)


def _is_built(derivation: Derivation) -> bool:
    """Rather than put together or fetched."""
    return not derivation.builder.startswith("builtin:")


def _label(path: StorePath) -> str:
    return path.name.removesuffix(".drv")
