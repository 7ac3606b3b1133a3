"""From desired states to the store path of every profile, before anything is built and without asking any host."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.errors import Faults, ReconcilerError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, EnvironmentPlan, environment
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.toplevel import toplevel
from reconciler.core.store.store import Store
from reconciler.fleet.plan import Target
from reconciler.inventory.desired import DesiredState, PackageEntry, ProfileSpec
from reconciler.inventory.inventory import Inventory
from reconciler.packages.model import Graph, Package
from reconciler.packages.resolver import Resolver


@dataclass(frozen=True)
class TextSource:
    """A text in the store, such as an environment's manifest."""

    path: StorePath
    name: str
    contents: bytes
    references: tuple[StorePath, ...]

    def add_to(self, store: Store) -> None:
        store.add_text(self.name, self.contents, self.references)


@dataclass(frozen=True)
class Toplevel:
    """A system profile: its store path and the tree that stands there."""

    path: StorePath
    tree: nar.Directory
    references: tuple[StorePath, ...]


@dataclass(frozen=True)
class ProfileTarget:
    """How one profile is made: its environment, and for a system profile the toplevel above it. A NixOS system is a
    package itself, and has no environment."""

    path: StorePath
    environment: EnvironmentPlan | None
    packages: tuple[Package, ...]
    toplevel: Toplevel | None = None

    @property
    def target(self) -> Target:
        paths = tuple(path for package in self.packages for path in package.paths)
        return Target(str(self.path), paths, nixos=self.environment is None)


@dataclass(frozen=True)
class Targets:
    """What every host's profiles shall be, and everything needed to make them."""

    hosts: Mapping[str, Mapping[ProfileId, ProfileTarget]]
    empty: ProfileTarget
    graph: Graph = field(default_factory=Graph)

    def of(self, host: str) -> Mapping[ProfileId, Target]:
        return {profile: target.target for profile, target in self.hosts[host].items()}

    def all(self) -> tuple[ProfileTarget, ...]:
        """Each distinct target once."""
        found = {self.empty.path: self.empty}
        for profiles in self.hosts.values():
            found |= {target.path: target for target in profiles.values()}
        return tuple(found.values())

    def by_path(self) -> Mapping[str, ProfileTarget]:
        return {str(target.path): target for target in self.all()}


def resolve(inventory: Inventory, resolver: Resolver, hosts: Sequence[str]) -> Targets:
    """The targets of `hosts`; Faults with every reference that leads nowhere, each once."""
    maker = _Maker(resolver)
    resolved = {}
    for host in hosts:
        desired = inventory.desired(host)
        resolved[host] = {profile: maker.profile(profile, spec, desired) for profile, spec in desired.profiles.items()}
    if maker.errors:
        raise Faults(maker.errors.values())
    return Targets(resolved, maker.environment_target((), ()), maker.graph())


class _Maker:
    """Resolves each reference, and makes each environment, once for all hosts that share it."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._packages: dict[tuple[str, str], Package | None] = {}
        self._targets: dict[tuple[object, ...], ProfileTarget] = {}
        self.errors: dict[str, ReconcilerError] = {}

    def profile(self, profile: ProfileId, spec: ProfileSpec, desired: DesiredState) -> ProfileTarget:
        found = [
            (package, entry.priority)
            for entry in spec.packages.values()
            if (package := self._package(entry, desired.architecture)) is not None
        ]
        packages = tuple(package for package, _ in found)
        if spec.nixos and packages:
            return ProfileTarget(packages[0].output, None, packages)
        target = self.environment_target(packages, tuple(priority for _, priority in found))
        return self._system(target, desired.architecture) if profile.is_system else target

    def environment_target(self, packages: Sequence[Package], priorities: Sequence[int]) -> ProfileTarget:
        pairs = zip(packages, priorities, strict=True)
        key = tuple(sorted((str(path), priority) for package, priority in pairs for path in package.paths))
        if key not in self._targets:
            plan = environment([Element(StorePath.parse(path), priority) for path, priority in key])
            self._targets[key] = ProfileTarget(plan.output, plan, tuple(packages))
        return self._targets[key]

    def _system(self, target: ProfileTarget, architecture: str) -> ProfileTarget:
        key = ("system", architecture, str(target.path))
        if key not in self._targets:
            made = Toplevel(*toplevel(target.path, architecture))
            self._targets[key] = ProfileTarget(made.path, target.environment, target.packages, made)
        return self._targets[key]

    def _package(self, entry: PackageEntry, architecture: str) -> Package | None:
        key = (entry.reference, architecture)
        if key not in self._packages:
            try:
                self._packages[key] = self._resolver.resolve(entry.reference, architecture, entry.origin.position)
            except UsageError as error:
                self._packages[key] = None
                self.errors.setdefault(error.message, error)
        return self._packages[key]

    def graph(self) -> Graph:
        graph = self._resolver.graph(package for package in self._packages.values() if package is not None)
        return graph | environment_graph(self._targets.values())


def environment_graph(targets: Iterable[ProfileTarget]) -> Graph:
    """The derivations of the targets' user environments, and their manifests."""
    derivations = {}
    sources = {}
    for plan in environments(targets):
        derivations[plan.drv_path] = plan.derivation
        sources[plan.manifest_path] = TextSource(
            plan.manifest_path, plan.manifest_path.name, plan.manifest_contents, plan.manifest_references
        )
    return Graph(derivations, sources)


def environments(targets: Iterable[ProfileTarget]) -> list[EnvironmentPlan]:
    """The environments of those targets that have one."""
    return [target.environment for target in targets if target.environment is not None]


def package_derivations(targets: Iterable[ProfileTarget]) -> list[StorePath]:
    """The derivations of the targets' packages, each once."""
    found = {
        package.derivation: None for target in targets for package in target.packages if package.derivation is not None
    }
    return list(found)
