"""Make what hosts lack, here or there, and put it onto them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.agent.paths import to_message
from reconciler.core.build.events import BuildEvent, BuildLimits, BuildOptions
from reconciler.core.build.realise import BuildsError, realise
from reconciler.core.errors import ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
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
    from reconciler.fleet.pool import Pool
    from reconciler.fleet.rollout import HostRun

NO_OTHER_LIMITS = BuildLimits()


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
        self.take(self._offered(packages, self.store))
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

    def offered(self, packages: Sequence[Package]) -> list[StorePath]:
        """What caches have of packages that would be built, and of what those that they have not are built from."""
        return self._offered(packages, None)

    def _offered(self, packages: Sequence[Package], store: Store | None) -> list[StorePath]:
        caches = self._resolver.caches
        if caches is None:
            return []
        derivations = [package.derivation for package in packages if package.derivation is not None]
        try:
            return fetchable(self._resolver.graph(packages), derivations, store, caches)
        except StoreError as error:
            self._without_caches(error)
            return []

    def take(self, outputs: Sequence[StorePath]) -> set[StorePath]:
        """Fetch what caches have; those that are valid here now. A cache that cannot be used costs builds, not the
        run."""
        caches = self._resolver.caches
        if caches is not None and outputs:
            from reconciler.core.store.substitute import substitute

            try:
                with self._told():
                    substitute(self.store, caches, outputs, on_event=self._fetching)
            except StoreError as error:
                self._without_caches(error)
        return self.store.valid(outputs)

    def _without_caches(self, error: ReconcilerError) -> None:
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
            paths = wanted(run)
            if paths not in self._bundles:
                self._bundles[paths] = self._workshop.bundle(StorePath.parse(path) for path in paths)

    def __call__(self, run: HostRun) -> None:
        size = send(run, self._bundles[wanted(run)], self._workshop.nar, self._observer)
        with self._lock:
            self.sent[run.plan.host] = size


def wanted(run: HostRun) -> frozenset[str]:
    """What a host's profiles change to."""
    return frozenset(change.to for change in run.changes if change.to)
