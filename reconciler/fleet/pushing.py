"""What a push to a cache is of: hosts' profiles and packages, made in the controller's store when they are missing."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.events import Observer
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection
from reconciler.fleet.targets import ProfileTarget, resolve


def profiles(project: Project, selection: Selection, store: Store, observer: Observer) -> tuple[StorePath, ...]:
    """The selected profiles of the selected hosts, built when missing. No host is asked anything."""
    hosts = selection.names(project.inventory)
    selection.require_declared(project.inventory, hosts)
    targets = resolve(project.inventory, project.resolver, hosts)
    wanted = {
        target.path: target
        for host in hosts
        for profile, target in targets.hosts[host].items()
        if selection.includes(profile)
    }
    _make(project, list(wanted.values()), store, observer)
    return tuple(wanted)


def packages(project: Project, references: Iterable[str], store: Store, observer: Observer) -> tuple[StorePath, ...]:
    """What the package references mean on this machine's system, built when missing; with the other outputs that are
    here, which builds need that have such a package as input."""
    found = [project.resolver.resolve(reference, host_system()) for reference in references]
    wanted = {path for package in found for path in package.paths}
    paths = tuple(dict.fromkeys(path for package in found for path in (*package.paths, *package.everything)))
    if found:
        # They shall outlive a collection that runs beside us, until they are in the cache.
        store.add_temp_roots(paths)
        _workshop(project, store, observer).build(found)
    return tuple(path for path in paths if path in wanted or store.is_valid(path))


def _make(project: Project, targets: Sequence[ProfileTarget], store: Store, observer: Observer) -> None:
    """Make all of `targets`; an error when one cannot be made."""
    made = _workshop(project, store, observer).realise(targets)
    failures = {error.message: error for error in made.failures.values()}
    if len(failures) == 1:
        raise next(iter(failures.values()))
    if failures:
        raise ReconcilerError("\n".join(failures), "nothing was pushed")


def _workshop(project: Project, store: Store, observer: Observer) -> Workshop:
    return Workshop(store, project.resolver, observer, os.cpu_count() or 1)
