"""Hosts that build for themselves (`build_on: target`), or that fetch for themselves all that they get."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from reconciler.core.agent.messages import MissingRequest, PathMessage, RealiseRequest
from reconciler.core.build.events import BuildEvent, BuildLimits
from reconciler.core.errors import BuildError, InternalError, ReconcilerError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import EnvironmentPlan
from reconciler.fleet.cached import Builder, Share, shares
from reconciler.fleet.delivery import NO_OTHER_LIMITS, Workshop, wanted
from reconciler.fleet.events import Observer
from reconciler.fleet.sending import Bundle, send
from reconciler.fleet.signing import UNSIGNED, Signed
from reconciler.fleet.targets import ProfileTarget, environments
from reconciler.packages.model import Package

if TYPE_CHECKING:
    from reconciler.fleet.direct import Direct
    from reconciler.fleet.rollout import HostRun


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
        signed: Signed = UNSIGNED,
    ) -> None:
        """`told` says of a host's error what the inventory has to do with it; `there`: by host, the packages that it
        builds for itself where no cache has them; `direct` knows those that it fetches; all others are valid here, or
        come from caches only this controller can ask; `limits`: what each build may use; `signed`: for whom paths are
        signed on their way."""
        self._workshop = workshop
        self._targets = targets
        self._jobs = jobs
        self._observer = observer
        self._told = told
        self._limits = limits
        self._signed = signed
        self._there = there
        self._direct = direct
        self._read: dict[frozenset[StorePath], Bundle] = {}
        self._bundles: dict[str, Bundle] = {}
        self._builds: dict[str, list[StorePath]] = {}
        self.sent: dict[str, int] = {}

    def prepare(self, runs: Iterable[HostRun]) -> None:
        """In the thread that opened the store."""
        builders, elsewhere = [], []
        for run in runs:
            host, there = run.plan.host, self._there[run.plan.host]
            needed = list(dict.fromkeys(one for path in sorted(wanted(run)) for one in self._targets[path].packages))
            packages = [package for package in needed if not self._direct.has(host, package)]
            built = tuple(package for package in packages if package.derivation in there)
            self._direct.prepare(host, needed, built)
            builders.append(Builder(run, built, self._direct.fetches(host)))
            elsewhere.append([package for package in packages if package.derivation not in there])
        found = shares(self._workshop, builders)
        for builder, packages in zip(builders, elsewhere, strict=True):
            self._load(builder.run.plan.host, packages, found[builder.run.plan.host])

    def _load(self, host: str, given: Sequence[Package], share: Share) -> None:
        """Read what is sent to a host, `given` packages and its share of what it builds; once for hosts that get the
        same."""
        self._builds[host] = [one.derivation for one in share.builds if one.derivation is not None]
        paths = frozenset((*self._builds[host], *share.brought, *(path for one in given for path in one.paths)))
        if paths not in self._read:
            fetched = [package for package in given if package.derivation is None]
            self._workshop.instantiate_packages([*share.builds, *fetched])
            self._read[paths] = self._workshop.bundle(paths)
        self._bundles[host] = self._read[paths]

    def __call__(self, run: HostRun) -> None:
        targets = [self._targets[path] for path in sorted(wanted(run))]
        agent = run.live.agent
        paths = MissingRequest(tuple(sorted(wanted(run))))
        if agent.missing(paths).missing:
            host = run.plan.host
            self._direct.fetch(run)
            self.sent[host] = send(run, self._signed(host, self._bundles[host]), self._workshop.nar, self._observer)
            self._build(run, sorted(self._builds[host]))
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
