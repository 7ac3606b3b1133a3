"""Where packages are built: each host and package with its place."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reconciler.core.errors import UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.choosing import ANYWHERE, BUILDERS, TARGET, Placement
from reconciler.fleet.project import Project
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import BUILD_PLACES


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
