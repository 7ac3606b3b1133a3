"""How the hosts of a run get what they need: made elsewhere and brought to them, or made by themselves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from reconciler.core.errors import ReconcilerError
from reconciler.core.store.store import Store
from reconciler.fleet.building_there import BuiltThere
from reconciler.fleet.choosing import Makers, Placement
from reconciler.fleet.delivery import FromHere, Workshop
from reconciler.fleet.direct import Direct
from reconciler.fleet.events import Observer
from reconciler.fleet.foresight import packages_of
from reconciler.fleet.pool import Pool
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.rollout import HostRun
from reconciler.fleet.signing import signed
from reconciler.packages.model import Package
from reconciler.packages.supplies import Supplies


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
        users = frozenset(host.host for host in prepared.plan.hosts if host.login)
        # A daemon takes no environment of ours from its users, and makes the same one for them.
        by_themselves = users | {host for host, paths in there.items() if paths or had[host]}
        deliver = BuiltThere(
            workshop, targets, jobs, observer, told, there=there, direct=direct, limits=limits, signed=signed(users)
        )
        others = frozenset(needed) - by_themselves
        yield Crews(
            (
                Crew(others, workshop, FromHere(workshop, observer), placement, direct),
                Crew(by_themselves, workshop, deliver, placement, direct),
            )
        )
