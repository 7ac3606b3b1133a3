"""Where packages are built: each host and package with its place, and how hosts get what is made there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.choosing import ANYWHERE, BUILDERS, TARGET, Makers, Placement
from reconciler.fleet.delivery import BuiltThere, FromHere, Workshop
from reconciler.fleet.direct import Direct
from reconciler.fleet.events import Observer
from reconciler.fleet.foresight import packages_of
from reconciler.fleet.pool import Pool
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project
from reconciler.fleet.rollout import HostRun
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import BUILD_PLACES
from reconciler.packages.model import Package
from reconciler.packages.supplies import Supplies


def places(inventory: Inventory, hosts: Sequence[str], asked: str, reaches_hosts: bool = True) -> dict[str, str]:
    """Where what each host needs is built: what was `asked` for, else what the inventory says, else ANYWHERE.

    A run that reaches no host builds nothing on its targets. UsageError for a place that there is not.
    """
    require_place(inventory, asked)
    found = {host: asked or inventory.desired(host).build_on for host in hosts}
    return found if reaches_hosts else {host: _off_target(place) for host, place in found.items()}


def placement(project: Project, hosts: Sequence[str], asked: str, reaches_hosts: bool = True) -> Placement:
    """The place of every host, and of every package that has one of its own; `asked` wins over both."""
    by_host = places(project.inventory, hosts, asked, reaches_hosts)
    require_builders(project, asked, by_host.values())
    if asked:
        return Placement(by_host)
    packages = {}
    for host in hosts:
        own = _own_places(project, host)
        packages[host] = own if reaches_hosts else {path: _off_target(place) for path, place in own.items()}
    require_builders(project, asked, [place for own in packages.values() for place in own.values()])
    return Placement(by_host, packages)


def _off_target(place: str) -> str:
    return ANYWHERE if place == TARGET else place


def _own_places(project: Project, host: str) -> dict[StorePath, str]:
    """The packages of one host that say where they are built. What is not built has no place."""
    desired = project.inventory.desired(host)
    found: dict[StorePath, str] = {}
    for spec in desired.profiles.values():
        for entry in spec.packages.values():
            if entry.build_on:
                package = project.resolver.resolve(entry.reference, desired.architecture, entry.origin.position)
                if package.derivation is not None:
                    found.setdefault(package.derivation, entry.build_on)
    return found


def fetch_there(inventory: Inventory, hosts: Sequence[str], asked: str) -> frozenset[str]:
    """The hosts that fetch from binary caches by themselves: as it was `asked` for, else as the inventory says."""
    return frozenset(host for host in hosts if (asked or inventory.desired(host).substitute_on) == TARGET)


def require_place(inventory: Inventory, asked: str) -> None:
    """UsageError for a `--build-on` that is neither one of the places nor a host."""
    known = [*BUILD_PLACES, *inventory.hosts]
    if asked and asked not in known:
        hint = did_you_mean(asked, known) or f"one of: {', '.join(BUILD_PLACES)}, or a host of the inventory"
        raise UsageError(f"--build-on {asked}: not a place to build", hint)


def require_builders(project: Project, asked: str, said: Iterable[str]) -> None:
    """UsageError where builders are to build, and there are none."""
    if BUILDERS in (asked, *said) and not project.settings.builders:
        where = f"--build-on {BUILDERS}" if asked else f"build_on: {BUILDERS}"
        raise UsageError(f"{where}: reconciler.yml lists no builders", "builders: [HOST, …] names hosts that build")


@dataclass(frozen=True)
class Crew:
    """Hosts that get what they need in the same way. `there`: what one of them builds for itself."""

    hosts: frozenset[str]
    workshop: Workshop
    deliver: FromHere | BuiltThere
    placement: Placement
    direct: Direct

    @property
    def realises(self) -> bool:
        """Whether all that the hosts need is made before they are gone to; else their own packages are made there."""
        return isinstance(self.deliver, FromHere)

    def ahead(self, host: str, packages: Iterable[Package]) -> list[Package]:
        """What is made elsewhere for a host that builds or fetches for itself."""
        wanted = [package for package in packages if not self.direct.has(host, package)]
        there = self.placement.there(host, [package.derivation for package in wanted])
        return [package for package in wanted if package.derivation is not None and package.derivation not in there]


@dataclass(frozen=True)
class Crews:
    """All hosts of a run; as a delivery it does for each of them what its own crew does."""

    all: tuple[Crew, ...]

    def prepare(self, runs: Iterable[HostRun]) -> None:
        """In the thread that opened the store."""
        waiting = list(runs)
        for crew in self.all:
            crew.deliver.prepare([run for run in waiting if run.plan.host in crew.hosts])

    def __call__(self, run: HostRun) -> None:
        next(crew for crew in self.all if run.plan.host in crew.hosts).deliver(run)


@contextlib.contextmanager
def crews(
    prepared: Prepared,
    store: Store,
    observer: Observer,
    *,
    told: Callable[[ReconcilerError], ReconcilerError],
) -> Iterator[Crews]:
    """How the hosts of a run get what they need; `told`: see BuiltThere. Logins of builders end with the context."""
    project, jobs = prepared.project, os.cpu_count() or 1
    limits, placement = project.settings.builds, prepared.placement
    targets = prepared.targets.by_path() if prepared.targets else {}
    packages = {host.host: packages_of(prepared, host) for host in prepared.plan.hosts}
    direct = Direct(prepared.fetch_there, Supplies(project.resolver), store, observer)
    had = {host: [one for one in some if direct.has(host, one)] for host, some in packages.items()}
    needed = {host: [one.derivation for one in some if one not in had[host]] for host, some in packages.items()}
    pairs = [(host, path) for host, paths in needed.items() for path in paths if path is not None]
    there = {host: placement.there(host, paths) for host, paths in needed.items()}
    makers = Makers.of(project.inventory, project.settings)
    with Pool(project, makers, observer, placement.elsewhere(pairs), notes=prepared.notes) as pool:
        workshop = Workshop(store, project.resolver, observer, jobs, limits=limits, pool=pool)
        by_themselves = frozenset(host for host, paths in there.items() if paths or had[host])
        deliver = BuiltThere(workshop, targets, jobs, observer, told, there=there, direct=direct, limits=limits)
        others = frozenset(needed) - by_themselves
        yield Crews(
            (
                Crew(others, workshop, FromHere(workshop, observer), placement, direct),
                Crew(by_themselves, workshop, deliver, placement, direct),
            )
        )
