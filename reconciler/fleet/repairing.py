"""repair: what is wrong with the stores of hosts is put right, from wherever the right contents can be had.

1. Every host is verified; what only lost its form (modes, owners, times) gets it back where it lies.
2. For each path whose contents are wrong somewhere, its archive is looked for: in the controller's store, on the other
   hosts of the selection, on the other hosts of the inventory, in the caches given. An archive counts only when its
   bytes have the hash that the broken host has registered.
3. It is sent to every host that needs it, and swapped in there; what was touched is verified once more.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.messages import (
    FindingMessage,
    PathMessage,
    RepairRequest,
    VerifyReply,
    VerifyRequest,
)
from reconciler.core.agent.paths import from_message, to_message
from reconciler.core.errors import ExitStatus, LinkLostError, ReconcilerError, worst
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import repair as repairing
from reconciler.core.store import verify
from reconciler.core.store.binary_cache import Caches
from reconciler.core.store.store import Store
from reconciler.fleet.executor import Executor
from reconciler.fleet.logins import HostResult, Logins, Stage
from reconciler.fleet.project import Project, who
from reconciler.fleet.repair_sources import Archive, Cached, Controller, Donors, Selected, Source
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, as_ours
from reconciler.fleet.upkeep import HERE, Counter, Heard, telling

IN_PLACE = "in place"
# Paths in one request: what is said of each comes back, and a reply has its limit.
_AT_ONCE = 1000
# Findings that a garbage collection takes away, and that are no fault of any valid path.
GARBAGE = "unregistered"


@dataclass(frozen=True)
class Repaired:
    """A path that is right again, and where its contents came from."""

    path: str
    source: str


@dataclass(frozen=True)
class Broken:
    """What could not be repaired, and why."""

    path: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Repairs:
    """What came of one host: what was found, what was repaired, what was not; `garbage`: entries for a collection."""

    found: int = 0
    repaired: tuple[Repaired, ...] = ()
    broken: tuple[Broken, ...] = ()
    garbage: int = 0


def status(hosts: Iterable[HostResult[Repairs]]) -> ExitStatus:
    """3 where something could not be repaired."""
    left = [ExitStatus.FAILED for host in hosts if host.reply is not None and host.reply.broken]
    return worst([*left, *(host.error.status for host in hosts if host.error is not None)])


def repair_hosts(
    project: Project, selection: Selection, caches: Sequence[Caches], forks: int | None, heard: Heard
) -> tuple[HostResult[Repairs], ...]:
    """Repair the selected hosts; how each ended, in the inventory's order."""
    names = selection.names(project.inventory)
    with Logins.of(project, names, forks) as logins, contextlib.ExitStack() as stack:
        examined = logins.each(lambda session: _examined(session, heard))
        patients = {host.host: host.reply for host in examined if host.reply is not None}
        others = Donors(project, [name for name in project.inventory.hosts if name not in names], logins.executor)
        stack.callback(others.close)
        selected = Selected(logins.sessions, lambda name, path: _useless(patients, name, path), _losing(patients))
        sources = [Controller(project.store_root), selected, others, *map(Cached, caches)]
        for path, needing in _by_path(patients).items():
            _bring(path, needing, sources, logins.executor)
        return tuple(logins.executor.run(lambda host: _told(host, heard), examined))


def _useless(patients: Mapping[str, Patient], name: str, path: str) -> bool:
    return name not in patients or patients[name].broken(path)


def _losing(patients: Mapping[str, Patient]) -> Callable[[str, ReconcilerError], None]:
    def lost(name: str, error: ReconcilerError) -> None:
        patients[name].error = error

    return lost


def repair_here(root: str, caches: Sequence[Caches], heard: Heard) -> tuple[HostResult[Repairs], ...]:
    """The same for the controller's own store, with the caches given."""
    counter = Counter(heard)
    with Store.open(root) as store:
        result = verify.verify(store, on_event=lambda event: counter.step(event.kind, event.path, event.size))
        patient = Patient(HERE, tuple(FindingMessage(f.path, f.kind, f.detail, f.repairable) for f in result.findings))
        if patient.links:
            patient.mended(f"{store.store_dir}/.links/{name}" for name in repairing.repair_links(store))
        for text in patient.paths:
            path = StorePath.parse(text)
            if repairing.repair_in_place(store, path):
                patient.mended([text])
            else:
                patient.lacking[text] = to_message(store.info(path))
        for wanted in patient.lacking.values():
            _replace_here(store, patient, wanted, caches)
        touched = [StorePath.parse(text) for text in patient.paths]
        again = verify.verify(store, paths=sorted(store.valid(touched))).findings if touched else ()
        still = tuple(FindingMessage(f.path, f.kind, f.detail, f.repairable) for f in again)
    return (HostResult(HERE, Stage.DONE, patient.repairs(still)),)


def _replace_here(store: Store, patient: Patient, wanted: PathMessage, caches: Sequence[Caches]) -> None:
    for source in map(Cached, caches):
        with source.archive(wanted, patient.reasons.setdefault(wanted.path, [])) as archive:
            if archive is not None:
                archive.file.seek(0)
                repairing.repair_path(store, archive.file, from_message(wanted))
                patient.sources[wanted.path] = archive.source
                return


# --- one host ---------------------------------------------------------------------------------------------------------


@dataclass
class Patient:
    """A host whose store was verified: what was found, and what has come of it."""

    host: str
    findings: tuple[FindingMessage, ...]
    session: Session | None = None
    found: int = 0
    sources: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, PathMessage] = field(default_factory=dict)
    reasons: dict[str, list[str]] = field(default_factory=dict)
    error: ReconcilerError | None = None

    @property
    def paths(self) -> tuple[str, ...]:
        """The store paths that are to be repaired."""
        return tuple(dict.fromkeys(f.path for f in self.findings if f.repairable and f.kind != "links"))

    @property
    def links(self) -> bool:
        return any(f.repairable and f.kind == "links" for f in self.findings)

    def mended(self, paths: Iterable[str]) -> None:
        self.sources.update(dict.fromkeys(paths, IN_PLACE))

    def broken(self, path: str) -> bool:
        """Whether this host is of no use as a source of `path`."""
        return self.session is None or self.error is not None or any(f.path == path for f in self.findings)

    def repairs(self, still: Sequence[FindingMessage]) -> Repairs:
        """What came of it; `still`: what is wrong with the paths that were touched, now."""
        wrong = {f.path: f for f in still}
        left = [
            Broken(f.path, f.kind, self._reason(f))
            for f in _one_each(self.findings)
            if f.kind != GARBAGE and (not self._is_right(f) or f.path in wrong)
        ]
        right = [Repaired(path, source) for path, source in sorted(self.sources.items()) if path not in wrong]
        garbage = sum(f.kind == GARBAGE for f in self.findings)
        return Repairs(self.found or len(self.findings), tuple(right), tuple(left), garbage)

    def _is_right(self, finding: FindingMessage) -> bool:
        if finding.kind == "links":
            return finding.repairable
        return finding.repairable and finding.path in self.sources

    def _reason(self, finding: FindingMessage) -> str:
        tried = self.reasons.get(finding.path, [])
        return "; ".join([finding.detail, *tried]) if finding.repairable else finding.detail


def _one_each(findings: Sequence[FindingMessage]) -> list[FindingMessage]:
    """The worst finding of each path: one that cannot be repaired, else the first."""
    found: dict[str, FindingMessage] = {}
    for finding in findings:
        if finding.path not in found or (found[finding.path].repairable and not finding.repairable):
            found[finding.path] = finding
    return list(found.values())


def _examined(session: Session, heard: Heard) -> HostResult[Patient]:
    """Verify a host, and mend what can be mended there."""
    tell = telling(heard, session.host)
    reply: VerifyReply = session.agent.verify(VerifyRequest(), tell)
    patient = Patient(session.host, reply.findings, session, reply.found)
    if patient.paths or patient.links:
        for start in range(0, max(1, len(patient.paths)), _AT_ONCE):
            some = patient.paths[start : start + _AT_ONCE]
            request = RepairRequest(who(), session.host, some, patient.links and start == 0)
            answer = session.agent.repair(request, on_event=tell)
            patient.mended(answer.mended)
            patient.lacking |= {one.path: one for one in answer.lacking}
            patient.reasons |= {path: [reason] for path, reason in answer.failed.items()}
    return HostResult(session.host, Stage.DONE, patient)


def _told(examined: HostResult[Patient], heard: Heard) -> HostResult[Repairs]:
    """Look once more at what was touched, and say what came of the host."""
    name, patient = examined.host, examined.reply
    if patient is None:
        return HostResult(name, Stage.FAILED, error=examined.error)
    still: tuple[FindingMessage, ...] = ()
    if patient.paths and patient.error is None and patient.session is not None:
        request = VerifyRequest(paths=patient.paths, lenient=True)
        try:
            still = patient.session.agent.verify(request, telling(heard, name)).findings
        except Exception as failure:
            patient.error = as_ours(failure, name)
    if patient.error is not None:
        return HostResult(name, Stage.FAILED, patient.repairs(still), patient.error)
    return HostResult(name, Stage.DONE, patient.repairs(still))


# --- bringing ---------------------------------------------------------------------------------------------------------


def _by_path(patients: Mapping[str, Patient]) -> dict[tuple[str, str], list[Patient]]:
    """Who lacks what: by path and registered hash, for two hosts may have built one path differently."""
    found: dict[tuple[str, str], list[Patient]] = {}
    for patient in patients.values():
        for wanted in patient.lacking.values():
            found.setdefault((wanted.path, wanted.nar_hash), []).append(patient)
    return found


def _bring(key: tuple[str, str], needing: Sequence[Patient], sources: Sequence[Source], executor: Executor) -> None:
    """Find one path's archive, and give it to every host that needs it."""
    path, _ = key
    reasons: list[str] = []
    for source in sources:
        with source.archive(needing[0].lacking[path], reasons) as archive:
            if archive is None:
                continue
            executor.run(lambda patient: _give(patient, path, archive), needing)
            return
    for patient in needing:
        patient.reasons.setdefault(path, []).extend(reasons)


def _give(patient: Patient, path: str, archive: Archive) -> None:
    try:
        if patient.error is None and patient.session is not None:
            request = RepairRequest(who(), patient.host, replace=(patient.lacking[path],))
            patient.session.agent.repair(request, lambda _: archive.chunks())
            patient.sources[path] = archive.source
    except LinkLostError as error:
        patient.error = LinkLostError(error.message, "repair again finishes what was begun")
    except Exception as error:
        patient.reasons.setdefault(path, []).append(as_ours(error, patient.host).message)
