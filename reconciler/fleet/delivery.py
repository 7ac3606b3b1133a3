"""Make what hosts lack, here or there, and put it onto them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.agent.messages import MissingRequest, PathMessage, RealiseRequest
from reconciler.core.agent.paths import to_message
from reconciler.core.build.events import BuildEvent, BuildOptions
from reconciler.core.build.realise import BuildsError, realise
from reconciler.core.errors import BuildError, InternalError, ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.events import Observer
from reconciler.fleet.rollout import HostRun
from reconciler.fleet.targets import ProfileTarget, environment_graph
from reconciler.packages.instantiate import instantiate
from reconciler.packages.resolver import Resolver

# A host needs room for what it gets and for the database and directories that come with it.
ROOM_FACTOR = 1.05


@dataclass(frozen=True)
class Bundle:
    """Store paths to be sent, references before referrers."""

    paths: tuple[PathMessage, ...]

    @property
    def bytes(self) -> int:
        return sum(path.nar_size for path in self.paths)


@dataclass(frozen=True)
class Made:
    """What came of making targets: the derivations that were built, and why each of the other targets (by its path)
    could not be made."""

    built: tuple[StorePath, ...]
    failures: Mapping[StorePath, ReconcilerError]


class Workshop:
    """The controller's store, and what is made in it for a run."""

    def __init__(self, store: Store, resolver: Resolver, observer: Observer, jobs: int) -> None:
        self.store = store
        self._resolver = resolver
        self._observer = observer
        self._jobs = jobs
        self._built: list[StorePath] = []

    def instantiate(self, targets: Sequence[ProfileTarget]) -> None:
        """Write the derivations and sources of these targets' packages into the store."""
        with self._told():
            instantiate(self._resolver.graph(package for target in targets for package in target.packages), self.store)

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
        self._built = []
        lacking = [target for target in targets if not self.store.is_valid(target.path)]
        failures: dict[StorePath, ReconcilerError] = {}
        self._packages(lacking, failures)
        good = [target for target in lacking if target.path not in failures]
        # An environment's manifest refers to the packages, so it cannot be valid before they are.
        with self._told():
            instantiate(environment_graph(target.environment for target in good), self.store)
        packages = tuple(self._built)
        self._realise([target.environment.drv_path for target in good], keep_going=False)
        with self._told():
            for made in (target.toplevel for target in good if target.toplevel is not None):
                self.store.add_tree(made.path.name, made.tree, made.references)
        return Made(packages, failures)

    def _packages(self, targets: Sequence[ProfileTarget], failures: dict[StorePath, ReconcilerError]) -> None:
        """Build the packages of `targets`, as far as they can be built."""
        try:
            self.instantiate(targets)
            self._realise(package_derivations(targets), keep_going=True)
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

    def _realise(self, derivations: Sequence[StorePath], keep_going: bool) -> None:
        with self._told():
            realise(self.store, derivations, BuildOptions(self._jobs, keep_going=keep_going, on_event=self._heard))

    def _heard(self, event: BuildEvent) -> None:
        if event.kind == "done":
            self._built.append(StorePath.parse(event.derivation))
        self._observer.building("here", event)

    def bundle(self, paths: Iterable[StorePath]) -> Bundle:
        """The closure of `paths`, which are valid here."""
        return Bundle(tuple(to_message(self.store.info(path)) for path in self.store.closure(sorted(set(paths)))))

    def nar(self, path: str) -> Iterator[bytes]:
        """The NAR of a path of this store. Reads files only, so any thread may."""
        return nar.dump(self.store.real(StorePath.parse(path)))


def package_derivations(targets: Iterable[ProfileTarget]) -> list[StorePath]:
    """The derivations of the targets' packages, each once."""
    found = {
        package.derivation: None for target in targets for package in target.packages if package.derivation is not None
    }
    return list(found)


def send(run: HostRun, bundle: Bundle, read: Callable[[str], Iterator[bytes]], observer: Observer) -> int:
    """Send what the host lacks of `bundle`; the number of bytes sent."""
    agent = run.live.agent
    lacking = set(agent.missing(MissingRequest(tuple(path.path for path in bundle.paths))).missing)
    wanted = Bundle(tuple(path for path in bundle.paths if path.path in lacking))
    if not wanted.paths:
        return 0
    _require_room(run, wanted.bytes)
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        observer.copying(run.plan.host, done, wanted.bytes)

    agent.import_paths(wanted.paths, read, sent)
    return wanted.bytes


def _require_room(run: HostRun, size: int) -> None:
    observed = run.plan.observation
    if observed is not None and size * ROOM_FACTOR > observed.store_free:
        needed, free = size / 2**20, observed.store_free / 2**20
        raise StoreError(
            f"{run.plan.host}: {needed:.1f} MiB are to be copied, and {free:.1f} MiB are free",
            hint="make room on the file system of /nix",
        )


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
    ) -> None:
        """`told` says of a host's error what the inventory has to do with it."""
        self._workshop = workshop
        self._targets = targets
        self._jobs = jobs
        self._observer = observer
        self._told = told
        self._bundles: dict[frozenset[str], Bundle] = {}
        self.sent: dict[str, int] = {}

    def prepare(self, runs: Iterable[HostRun]) -> None:
        for run in runs:
            wanted = _wanted(run)
            if wanted in self._bundles:
                continue
            targets = [self._targets[path] for path in wanted]
            self._workshop.instantiate(targets)
            given = [p.output for t in targets for p in t.packages if p.derivation is None]
            self._bundles[wanted] = self._workshop.bundle([*package_derivations(targets), *given])

    def __call__(self, run: HostRun) -> None:
        targets = [self._targets[path] for path in sorted(_wanted(run))]
        agent = run.live.agent
        paths = MissingRequest(tuple(sorted(_wanted(run))))
        if agent.missing(paths).missing:
            self.sent[run.plan.host] = send(run, self._bundles[_wanted(run)], self._workshop.nar, self._observer)
            self._build(run, package_derivations(targets))
            self._send_from_memory(run, [made for target in targets for made in _environment_parts(target)])
            try:
                self._build(run, [target.environment.drv_path for target in targets])
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
            run.live.agent.realise(RealiseRequest(names, jobs=self._jobs), tell)
        except BuildError as error:
            there = f"on {run.plan.host}: {error.hint}" if error.hint else None
            raise BuildError(error.message, there) from error

    def _send_from_memory(self, run: HostRun, parts: Sequence[tuple[PathMessage, bytes]]) -> None:
        archives = {info.path: archive for info, archive in parts}
        infos = tuple({info.path: info for info, _ in parts}.values())
        send(run, Bundle(infos), lambda path: iter((archives[path],)), self._observer)


def _environment_parts(target: ProfileTarget) -> list[tuple[PathMessage, bytes]]:
    """An environment's manifest and its derivation. They refer to packages, so they can be valid only where those
    are, and when those are built on a host that is there alone."""
    plan = target.environment
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
