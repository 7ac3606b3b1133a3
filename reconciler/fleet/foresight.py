"""What can be said of a run before it makes anything: what is to be built and copied, and what cannot work."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.errors import BuildError, Faults, ReconcilerError, StoreError, UsageError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import CollisionError, EnvironmentPlan, build_environment
from reconciler.core.profile.names import ProfileId
from reconciler.core.store.store import Store
from reconciler.fleet.choosing import TARGET, Makers
from reconciler.fleet.declared import Declared, declared, located
from reconciler.fleet.plan import HostPlan
from reconciler.fleet.prepared import Fetches, Prepared
from reconciler.fleet.siting import Outlook, siting
from reconciler.fleet.targets import ProfileTarget, environment_graph, package_derivations
from reconciler.inventory.desired import Position
from reconciler.packages.instantiate import cached
from reconciler.packages.model import Graph, Package
from reconciler.packages.sources import CachedPath, GivenPath
from reconciler.packages.substitution import closure_lacking, fetchable

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Offer


def foresee(prepared: Prepared) -> None:
    """Fill in what will be built and how much is copied, as far as the controller's store tells.

    UsageError for what the inventory asks for and nobody can make: a store path that is nowhere, two packages with
    one file.
    """
    wanted = wanted_targets(prepared)
    if not wanted:
        return
    root = prepared.project.store_root
    if os.path.exists(os.path.join(root, "nix/var/nix/db/db.sqlite")):
        with Store.open(root, create=False) as store:
            _foresee(prepared, wanted, store)
    else:
        _foresee(prepared, wanted, None)


def _foresee(prepared: Prepared, wanted: Sequence[ProfileTarget], store: Store | None) -> None:
    _require_given(prepared, store)
    graph = prepared.project.resolver.graph(package for target in wanted for package in target.packages)
    whole = graph
    graph = _foresee_fetches(prepared, graph, wanted, store)
    _foresee_sites(prepared, whole, graph, store)
    prepared.builds = to_be_built(store, graph | environment_graph(wanted))
    if store is None:
        return
    _refuse_collisions(prepared, wanted, store)
    if prepared.sessions and all(store.is_valid(target.path) for target in wanted):
        _foresee_copies(prepared, store)


def wanted_targets(prepared: Prepared, hosts: Collection[str] | None = None) -> list[ProfileTarget]:
    """The targets that some host, of `hosts` where they are given, changes to; for a build, all of them."""
    if prepared.targets is None:
        return []
    by_path = prepared.targets.by_path()
    changing = [host for host in prepared.plan.changing if hosts is None or host.host in hosts]
    found = {path for host in changing for path in wanted_paths(prepared, host)}
    return [by_path[path] for path in sorted(found)]


def wanted_paths(prepared: Prepared, host: HostPlan) -> tuple[str, ...]:
    """What one host's profiles change to; for a build, what they shall be."""
    if prepared.targets is not None and not prepared.facts.action.reaches_hosts:
        return tuple(str(target.path) for target in prepared.targets.hosts[host.host].values())
    return tuple(change.to for change in host.changes if change.to)


def packages_of(prepared: Prepared, host: HostPlan) -> list[Package]:
    """The packages of the profiles that a host changes to."""
    if prepared.targets is None:
        return []
    by_path = prepared.targets.by_path()
    found = {package.output: package for path in wanted_paths(prepared, host) for package in by_path[path].packages}
    return list(found.values())


def _foresee_sites(prepared: Prepared, whole: Graph, left: Graph, store: Store | None) -> None:
    """Fill in where what is `left` of the `whole` graph will be built. Faults for what nobody can build."""
    project = prepared.project
    needed = {host.host: packages_of(prepared, host) for host in prepared.plan.changing}
    fetched = frozenset(whole.derivations.keys() - left.derivations.keys())
    outlook = Outlook(whole, fetched, lambda path: store is not None and store.is_valid(path))
    makers = Makers.of(project.inventory, project.settings)
    found = siting(needed, prepared.placement, makers, outlook)
    prepared.sites = found.sites
    if found.nobody:
        raise Faults(_nobody(prepared, found.nobody))


def _nobody(prepared: Prepared, nobody: Mapping[StorePath, tuple[str, str]]) -> list[UsageError]:
    """What nobody can build, with the lines of the inventory that ask for it and their hosts."""
    project = prepared.project
    asked: dict[tuple[StorePath, Position, str], list[str]] = {}
    for host in prepared.plan.changing:
        for profile in prepared.targets.hosts[host.host] if prepared.targets else ():
            for each in declared(project.inventory, project.resolver, host.host, profile):
                needed = project.resolver.graph([each.package]).derivations
                for path in nobody:
                    if path in needed and prepared.placement.of(host.host, each.package.derivation or path) != TARGET:
                        asked.setdefault((path, each.position, each.entry.reference), []).append(host.host)
    return [
        UsageError(f"{position}: {reference} of {', '.join(hosts)}: {nobody[path][0]}", nobody[path][1])
        for (path, position, reference), hosts in asked.items()
    ]


def to_be_built(store: Store | None, graph: Graph) -> tuple[str, ...]:
    """The names of the packages that would be built for `graph`, less what the store has and what is only fetched."""

    def is_there(derivation: Derivation) -> bool:
        return store is not None and all(o.path and store.is_valid(o.path) for o in derivation.outputs.values())

    return tuple(
        sorted(
            path.name.removesuffix(".drv")
            for path, derivation in graph.derivations.items()
            if not derivation.builder.startswith("builtin:") and not is_there(derivation)
        )
    )


def _foresee_copies(prepared: Prepared, store: Store) -> None:
    """Ask every host that changes what it lacks. The store is read here, in the thread that opened it."""
    sizes: dict[StorePath, int] = {}

    def needs(host: HostPlan) -> tuple[HostPlan, tuple[StorePath, ...]]:
        paths = store.closure(sorted({StorePath.parse(change.to) for change in host.changes}))
        sizes.update((path, store.info(path).nar_size) for path in paths if path not in sizes)
        return host, tuple(paths)

    def lacking(pair: tuple[HostPlan, tuple[StorePath, ...]]) -> int | None:
        host, paths = pair
        try:
            request = ObserveRequest(paths=tuple(str(path) for path in paths))
            valid = set(prepared.sessions[host.host].agent.observe(request).valid)
        except ReconcilerError:
            return None  # the stage will say what is wrong with this host
        return sum(sizes[path] for path in paths if str(path) not in valid)

    questions = [needs(host) for host in prepared.plan.changing]
    answers = zip(questions, prepared.executor.run(lacking, questions), strict=True)
    prepared.copy_bytes = {host.host: size for (host, _), size in answers if size is not None}


# --- what cannot work -------------------------------------------------------------------------------------------------


def _profiles(prepared: Prepared) -> Iterator[tuple[ProfileId, ProfileTarget, tuple[Declared, ...]]]:
    """Every profile that some host changes, with what the inventory says of it."""
    project, targets = prepared.project, prepared.targets
    for host in prepared.plan.changing:
        wanted = set(wanted_paths(prepared, host))
        for profile, target in (targets.hosts[host.host] if targets else {}).items():
            if str(target.path) in wanted:
                yield profile, target, declared(project.inventory, project.resolver, host.host, profile)


def _require_given(prepared: Prepared, store: Store | None) -> None:
    """A store path that was given as such, or is pinned, cannot be made: it has to be here, or in a cache."""
    faults: dict[str, UsageError] = {}
    for _, target, packages in _profiles(prepared):
        if all(package.derivation is not None for package in target.packages):
            continue
        for each in packages:
            if each.package.derivation is None and (error := _missing(prepared, each.package, store)) is not None:
                faults.setdefault(str(each.position), UsageError(f"{each.position}: {error.message}", error.hint))
    if faults:
        raise Faults(faults.values())


def _missing(prepared: Prepared, package: Package, store: Store | None) -> ReconcilerError | None:
    """Why a package that nothing builds cannot be had; None when it can."""
    for path, source in prepared.project.resolver.graph([package]).sources.items():
        if store is not None and store.is_valid(path):
            continue
        if isinstance(source, GivenPath) and source.cached() is None:
            return source.missing
        if isinstance(source, CachedPath) and source.caches.find(path) is None:
            return UsageError(
                f"{path} is locked, and its cache does not have it any more", "reconciler lock --outdated"
            )
    return None


def _foresee_fetches(prepared: Prepared, graph: Graph, wanted: Sequence[ProfileTarget], store: Store | None) -> Graph:
    """Fill in what comes from caches; the part of the graph that is still to be built."""
    by_caches = cached(graph, store)
    own = prepared.project.resolver.caches
    if own is not None:
        try:
            outputs = fetchable(graph, package_derivations(wanted), store, own)
        except StoreError:
            outputs = []  # the run says it, and builds
        by_caches += [(own, outputs)] if outputs else []
        done = set(outputs)
        graph = _less(graph, package_derivations(wanted), done)
    offers: dict[StorePath, Offer] = {}
    for caches, paths in by_caches:
        offers |= closure_lacking(paths, store, caches)
    sizes = (offer.narinfo.file_size or offer.narinfo.nar_size for offer in offers.values())
    prepared.fetches = Fetches(len(offers), sum(sizes))
    return graph


def _less(graph: Graph, derivations: Iterable[StorePath], fetched: set[StorePath]) -> Graph:
    """The derivations of a graph that are needed to make `derivations`, when the outputs `fetched` are there."""
    kept: dict[StorePath, Derivation] = {}
    todo = list(derivations)
    while todo:
        path = todo.pop()
        derivation = graph.derivations[path]
        if path not in kept and not fetched.issuperset(derivation.output_paths().values()):
            kept[path] = derivation
            todo += derivation.input_derivations
    return Graph(kept, graph.sources)


def _refuse_collisions(prepared: Prepared, wanted: Sequence[ProfileTarget], store: Store) -> None:
    """Put together, for nothing, each environment whose packages are all here: what cannot be is better told now."""
    plans = {target.environment.output: (target.environment, target) for target in wanted if target.environment}
    for plan, target in plans.values():
        made = store.is_valid(plan.output)
        if not made and all(store.is_valid(path) for package in target.packages for path in package.paths):
            _try_environment(prepared, plan, store)


def _try_environment(prepared: Prepared, plan: EnvironmentPlan, store: Store) -> None:
    with tempfile.TemporaryDirectory(prefix="reconciler-") as scratch:
        try:
            build_environment(plan.derivation.environment, store, os.path.join(scratch, "environment"))
        except CollisionError as error:
            raise told(prepared, error) from None
        except BuildError:
            return  # the run itself says it, with its log


def told(prepared: Prepared, error: ReconcilerError) -> ReconcilerError:
    """A collision with the user and the lines of the inventory; any other error as it is."""
    found = (located(error, profile, packages) for profile, _, packages in _profiles(prepared))
    return next((one for one in found if one is not None), error)
