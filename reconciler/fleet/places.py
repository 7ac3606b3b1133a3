"""Where packages are built: each place with the hosts whose packages are made there, and how these get them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.store.store import Store
from reconciler.fleet.builders import Builder
from reconciler.fleet.delivery import BuiltThere, FromHere, Workshop
from reconciler.fleet.events import Observer
from reconciler.fleet.project import Project
from reconciler.fleet.rollout import HostRun
from reconciler.fleet.targets import ProfileTarget
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import BUILD_PLACES

CONTROLLER, TARGET = BUILD_PLACES


def places(inventory: Inventory, hosts: Sequence[str], asked: str, reaches_hosts: bool = True) -> dict[str, str]:
    """Where what each host needs is built: what was `asked` for, else what the inventory says, else the controller.

    A run that reaches no host builds nothing on its targets. UsageError for a place that there is not.
    """
    require_place(inventory, asked)
    found = {host: asked or inventory.desired(host).build_on or CONTROLLER for host in hosts}
    if not reaches_hosts:
        found = {host: CONTROLLER if place == TARGET else place for host, place in found.items()}
    return found


def require_place(inventory: Inventory, asked: str) -> None:
    """UsageError for a `--build-on` that is neither of the two places nor a host."""
    known = [*BUILD_PLACES, *inventory.hosts]
    if asked and asked not in known:
        hint = did_you_mean(asked, known) or f"one of: {', '.join(BUILD_PLACES)}, or a host of the inventory"
        raise UsageError(f"--build-on {asked}: not a place to build", hint)


@dataclass(frozen=True)
class Crew:
    """The hosts of one place, with what makes and delivers what they need."""

    place: str
    hosts: frozenset[str]
    workshop: Workshop
    deliver: FromHere | BuiltThere

    @property
    def realises(self) -> bool:
        """Whether what the hosts need is made before they are gone to."""
        return self.place != TARGET


@dataclass(frozen=True)
class Crews:
    """All places of a run; as a delivery it does for each host what its own place does."""

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
    project: Project,
    store: Store,
    by_host: Mapping[str, str],
    targets: Mapping[str, ProfileTarget],
    observer: Observer,
    *,
    told: Callable[[ReconcilerError], ReconcilerError],
) -> Iterator[Crews]:
    """The places of a run. `by_host`: see `places`; `targets` and `told`: see BuiltThere. Logins of builders end with
    the context."""
    jobs, limits = os.cpu_count() or 1, project.settings.builds
    found = []
    with contextlib.ExitStack() as stack:
        for place in dict.fromkeys(by_host.values()):
            builder = None if place in BUILD_PLACES else stack.enter_context(Builder.of(project, place))
            workshop = Workshop(store, project.resolver, observer, jobs, limits=limits, builder=builder)
            deliver: FromHere | BuiltThere = FromHere(workshop, observer)
            if place == TARGET:
                deliver = BuiltThere(workshop, targets, jobs, observer, told, limits=limits)
            hosts = frozenset(host for host, where in by_host.items() if where == place)
            found.append(Crew(place, hosts, workshop, deliver))
        yield Crews(tuple(found))
