"""Make what hosts lack, here or there, and put it onto them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.agent.messages import MissingRequest, PathMessage, RealiseRequest
from reconciler.core.agent.paths import to_message
from reconciler.core.build.events import BuildEvent, BuildLimits, BuildOptions
from reconciler.core.build.realise import BuildsError, realise
from reconciler.core.errors import BuildError, InternalError, ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import EnvironmentPlan
from reconciler.core.store.store import Store
from reconciler.fleet.events import Observer
from reconciler.fleet.sending import Bundle, send
from reconciler.fleet.targets import ProfileTarget, environment_graph, environments
from reconciler.packages.instantiate import instantiate
from reconciler.packages.model import Package
from reconciler.packages.resolver import Resolver
from reconciler.packages.substitution import fetchable

if TYPE_CHECKING:
    from reconciler.core.store.substitute import SubstituteEvent
    from reconciler.fleet.direct import Direct
    from reconciler.fleet.pool import Pool
    from reconciler.fleet.rollout import HostRun

NO_OTHER_LIMITS = BuildLimits()
# Of one host: the profiles' paths, the derivations that it builds, the packages that it fetches.
_Key = tuple[frozenset[str], frozenset[StorePath], frozenset[StorePath]]


@dataclass(frozen=True)
class Need:
    """Packages that are needed together, by the path of what needs them."""

    path: StorePath
    packages: tuple[Package, ...]


@dataclass(frozen=True)
class Made:
    """What came of making targets: the derivations that were built, and why each of the other targets (by its path)
    could not be made."""

    built: tuple[StorePath, ...]
    failures: Mapping[StorePath, ReconcilerError]


class Workshop:
    """The controller's store, and what is made in it for a run."""

    def __init__(
        self,
        store: Store,
        resolver: Resolver,
        observer: Observer,
        jobs: int,
        keep_failed: bool = False,
        *,
        limits: BuildLimits = NO_OTHER_LIMITS,
        pool: Pool | None = None,
    ) -> None:
        """`jobs` builds at a time; `keep_failed`: leave the directory of a build that fails; `limits`: what each build
        may use; `pool`: what makes packages, where that is not this controller alone."""
        self.store = store
        self._resolver = resolver
        self._observer = observer
        self._jobs = jobs
        self._keep_failed = keep_failed
        self._limits = limits
        self._pool = pool
        self._built: list[StorePath] = []

    def instantiate_packages(self, packages: Sequence[Package]) -> None:
        """Write the derivations of packages, and what they are made from, into the store."""
        with self._told():
            instantiate(self._resolver.graph(packages), self.store, self._fetching)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What the machine refuses, a full disk above all, as an error that names the store."""
        try:
            yield
        except OSError as error:
            raise StoreError(
                f"the controller's store, {self.store.store_dir}: {error.strerror or error}",
                hint="make room there, or name another place: RECONCILER_STORE=DIRECTORY",
            ) from error

    def realise(self, targets: Sequence[ProfileTarget]) -> Made:
        """Make these targets valid here. What cannot be made keeps only the targets that need it from being made;
        CollisionError where two packages of one environment have one file."""
        # Kept before it is asked whether they are there: a collection beside us shall not take what will be sent.
        with self._told():
            self.store.add_temp_roots([path for target in targets for path in (target.path, *_given(target))])
        lacking = [target for target in targets if not self.store.is_valid(target.path)]
        failures: dict[StorePath, ReconcilerError] = {}
        self._built = []
        self._packages([Need(target.path, target.packages) for target in lacking], failures)
        good = [target for target in lacking if target.path not in failures]
        # An environment's manifest refers to the packages, so it cannot be valid before they are.
        with self._told():
            instantiate(environment_graph(good), self.store)
        packages = tuple(self._built)
        self._realise([plan.drv_path for plan in environments(good)], keep_going=False)
        with self._told():
            for made in (target.toplevel for target in good if target.toplevel is not None):
                self.store.add_tree(made.path.name, made.tree, made.references)
        return Made(packages, failures)

    def ahead(self, packages: Sequence[Package]) -> Made:
        """Make packages valid here; the failures by their derivations."""
        failures: dict[StorePath, ReconcilerError] = {}
        self._built = []
        self._packages([Need(one.derivation, (one,)) for one in packages if one.derivation is not None], failures)
        return Made(tuple(self._built), failures)

    def _packages(self, targets: Sequence[Need], failures: dict[StorePath, ReconcilerError]) -> None:
        """Build the packages of `targets`, as far as they can be built."""
        try:
            self.build([package for target in targets for package in target.packages])
        except BuildsError as error:
            for target in targets:
                needed = self._resolver.graph(target.packages).derivations
                reasons = [one for path, one in error.errors.items() if path in needed]
                if reasons:
                    failures[target.path] = reasons[0]
        except ReconcilerError as error:
            # Nothing was built yet, since a source is missing, say: whose fault that is, is found one by one.
            if len(targets) == 1:
                failures[targets[0].path] = error
            else:
                for target in targets:
                    self._packages([target], failures)

    def build(self, packages: Sequence[Package]) -> tuple[StorePath, ...]:
        """Make packages valid here: what caches have is fetched, the rest is built. The derivations that were built;
        BuildsError for those that failed, when all else is made."""
        before = len(self._built)
        self._fetch(packages)
        lacking = [package for package in packages if not self._has(package)]
        self.instantiate_packages(lacking)
        wanted = list(dict.fromkeys(one.derivation for one in lacking if one.derivation))
        if self._pool is None:
            self._realise(wanted, keep_going=True)
        else:
            with self._told():
                self._pool.make(self.store, wanted, self._heard)
        return tuple(self._built[before:])

    def _has(self, package: Package) -> bool:
        return self.store.valid(package.paths) == set(package.paths)

    def _fetch(self, packages: Sequence[Package]) -> None:
        """Take what the caches have of what would be built. A cache that cannot be used costs a build, not the run."""
        caches = self._resolver.caches
        if caches is None:
            return
        graph = self._resolver.graph(packages)
        derivations = [package.derivation for package in packages if package.derivation is not None]
        try:
            wanted = fetchable(graph, derivations, self.store, caches)
            if wanted:
                from reconciler.core.store.substitute import substitute

                with self._told():
                    substitute(self.store, caches, wanted, on_event=self._fetching)
        except StoreError as error:
            self._observer.noted(f"caches: {error.message}; what is missing is built")

    def _fetching(self, event: SubstituteEvent) -> None:
        self._observer.fetching("here", event)

    def _realise(self, derivations: Sequence[StorePath], keep_going: bool) -> None:
        with self._told():
            options = BuildOptions(
                self._jobs,
                keep_going=keep_going,
                keep_failed=self._keep_failed,
                limits=self._limits,
                on_event=self._heard("here"),
            )
            realise(self.store, derivations, options)

    def _heard(self, where: str) -> Callable[[BuildEvent], None]:
        def heard(event: BuildEvent) -> None:
            if event.kind == "done":
                self._built.append(StorePath.parse(event.derivation))
            self._observer.building(where, event)

        return heard

    def bundle(self, paths: Iterable[StorePath]) -> Bundle:
        """The closure of `paths`, which are valid here, and are kept until the store is closed."""
        wanted = sorted(set(paths))
        self.store.add_temp_roots(wanted)
        return Bundle(tuple(to_message(self.store.info(path)) for path in self.store.closure(wanted)))

    def nar(self, path: str) -> Iterator[bytes]:
        """The NAR of a path of this store. Reads files only, so any thread may."""
        return nar.dump(self.store.real(StorePath.parse(path)))


def _given(target: ProfileTarget) -> list[StorePath]:
    return [path for package in target.packages for path in package.paths]


class FromHere:
    """Delivery of targets that were realised in the controller's store."""

    def __init__(self, workshop: Workshop, observer: Observer) -> None:
        self._workshop = workshop
        self._observer = observer
        self._bundles: dict[frozenset[str], Bundle] = {}
        self._lock = threading.Lock()
        self.sent: dict[str, int] = {}

    def prepare(self, runs: Iterable[HostRun]) -> None:
        """Read each distinct closure from the database once, in the thread that opened the store."""
        for run in runs:
            wanted = _wanted(run)
            if wanted not in self._bundles:
                self._bundles[wanted] = self._workshop.bundle(StorePath.parse(path) for path in wanted)

    def __call__(self, run: HostRun) -> None:
        size = send(run, self._bundles[_wanted(run)], self._workshop.nar, self._observer)
        with self._lock:
            self.sent[run.plan.host] = size


class BuiltThere:
    """Delivery of derivations and sources, which the host itself realises."""

    def __init__(
        self,
        workshop: Workshop,
        targets: Mapping[str, ProfileTarget],
        jobs: int,
        observer: Observer,
        told: Callable[[ReconcilerError], ReconcilerError],
        *,
        there: Mapping[str, frozenset[StorePath]],
        direct: Direct,
        limits: BuildLimits = NO_OTHER_LIMITS,
    ) -> None:
        """`told` says of a host's error what the inventory has to do with it; `there`: by host, the packages that it
        builds for itself; `direct` knows those that it fetches; all others are valid here, or come from caches only
        this controller can ask; `limits`: what each build may use."""
        self._workshop = workshop
        self._targets = targets
        self._jobs = jobs
        self._observer = observer
        self._told = told
        self._limits = limits
        self._there = there
        self._direct = direct
        self._bundles: dict[_Key, Bundle] = {}
        self.sent: dict[str, int] = {}

    def prepare(self, runs: Iterable[HostRun]) -> None:
        for run in runs:
            host, there = run.plan.host, self._there[run.plan.host]
            needed = [package for path in _wanted(run) for package in self._targets[path].packages]
            packages = [package for package in needed if not self._direct.has(host, package)]
            built = [package for package in packages if package.derivation in there]
            self._direct.prepare(host, needed, built)
            key = self._key(run)
            if key in self._bundles:
                continue
            fetched = [package for package in packages if package.derivation is None]
            self._workshop.instantiate_packages([*built, *fetched])
            given = [path for package in packages if package.derivation not in there for path in package.paths]
            self._bundles[key] = self._workshop.bundle([*there, *given])

    def _key(self, run: HostRun) -> _Key:
        """What decides on what is sent to a host."""
        host = run.plan.host
        needed = {package for path in _wanted(run) for package in self._targets[path].packages}
        had = frozenset(package.output for package in needed if self._direct.has(host, package))
        return _wanted(run), self._there[host], had

    def __call__(self, run: HostRun) -> None:
        targets = [self._targets[path] for path in sorted(_wanted(run))]
        agent = run.live.agent
        paths = MissingRequest(tuple(sorted(_wanted(run))))
        if agent.missing(paths).missing:
            there = self._there[run.plan.host]
            bundle = self._bundles[self._key(run)]
            self._direct.fetch(run)
            self.sent[run.plan.host] = send(run, bundle, self._workshop.nar, self._observer)
            self._build(run, sorted(there))
            self._send_from_memory(run, [made for plan in environments(targets) for made in _environment_parts(plan)])
            try:
                self._build(run, [plan.drv_path for plan in environments(targets)])
            except BuildError as error:
                raise self._told(error) from error
            self._send_from_memory(run, [_toplevel_part(target) for target in targets if target.toplevel is not None])

    def _build(self, run: HostRun, derivations: Sequence[StorePath]) -> None:
        def tell(event: Mapping[str, object]) -> None:
            kind, derivation, detail = (str(event.get(key, "")) for key in ("kind", "derivation", "detail"))
            self._observer.building(run.plan.host, BuildEvent(kind, derivation, detail))

        if not derivations:
            return
        names = tuple(str(path) for path in derivations)
        try:
            run.live.agent.realise(RealiseRequest(names, jobs=self._jobs, limits=self._limits.by_name()), tell)
        except BuildError as error:
            there = f"on {run.plan.host}: {error.hint}" if error.hint else None
            raise BuildError(error.message, there) from error

    def _send_from_memory(self, run: HostRun, parts: Sequence[tuple[PathMessage, bytes]]) -> None:
        archives = {info.path: archive for info, archive in parts}
        infos = tuple({info.path: info for info, _ in parts}.values())
        send(run, Bundle(infos), lambda path: iter((archives[path],)), self._observer)


def _environment_parts(plan: EnvironmentPlan) -> list[tuple[PathMessage, bytes]]:
    """An environment's manifest and its derivation. They refer to packages, so they can be valid only where those
    are, and when those are built on a host that is there alone."""
    drv = plan.derivation
    return [
        _text(plan.manifest_path, plan.manifest_contents, plan.manifest_references),
        _text(plan.drv_path, drv.serialise(), drv.references),
    ]


def _text(path: StorePath, contents: bytes, references: Sequence[StorePath]) -> tuple[PathMessage, bytes]:
    return _part(path, nar.File(contents), references, f"text:{Hash.sha256(contents).nix}")


def _toplevel_part(target: ProfileTarget) -> tuple[PathMessage, bytes]:
    if target.toplevel is None:
        raise InternalError(f"{target.path} has no toplevel")
    made = target.toplevel
    return _part(made.path, made.tree, made.references, f"fixed:r:{Hash.sha256(nar.encode(made.tree)).nix}")


def _part(path: StorePath, node: nar.Node, references: Sequence[StorePath], ca: str) -> tuple[PathMessage, bytes]:
    archive = nar.encode(node)
    names = tuple(str(reference) for reference in references)
    return PathMessage(str(path), Hash.sha256(archive).nix, len(archive), names, ca=ca), archive


def _wanted(run: HostRun) -> frozenset[str]:
    return frozenset(change.to for change in run.changes if change.to)
