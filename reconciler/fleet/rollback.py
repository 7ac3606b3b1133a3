"""rollback: put back exactly what each host had, by the history that stands on the hosts themselves."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import HistoryRequest, ObserveRequest, ProfilesRequest
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet import ask, undo
from reconciler.fleet.deploy import state_of
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Executor, Threads
from reconciler.fleet.journal import Journal, JournalEntry
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan, Plan, not_of_login
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project, who
from reconciler.fleet.record import Recorder
from reconciler.fleet.report import Report
from reconciler.fleet.rollout import HostRun, Rollout, RunFacts
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, probe_all


@dataclass(frozen=True)
class RollbackRequest:
    """What was asked for: a deployment to undo, or a generation to go `to`, or neither: the latest deployment that
    touched the selected hosts. `selection` may be None only where a deployment says which hosts are meant."""

    selection: Selection | None
    deployment: str | None = None
    to: int | None = None
    forks: int | None = None
    message: str = ""

    def __post_init__(self) -> None:
        if self.selection is None and self.deployment is None:
            raise UsageError(
                "rollback of what? Neither hosts nor a deployment are named",
                hint="reconciler rollback --hosts PATTERN, or --deployment ID (reconciler history lists them)",
            )
        if self.deployment is not None and self.to is not None:
            raise UsageError("--deployment and --to exclude each other", hint="leave one of them out")

    def means(self, profile: ProfileId) -> bool:
        return self.selection is None or self.selection.includes(profile)

    def means_to(self, profile: ProfileId) -> bool:
        """`--to N` means the system's generation N, unless profiles are selected."""
        return profile.is_system if self.selection is None or self.selection.everything else self.means(profile)


def prepare(project: Project, request: RollbackRequest, observer: Observer) -> Prepared:
    """Probe, read the histories, and plan; nothing is changed anywhere."""
    journal = Journal.of(project)
    entry = _entry(journal, request)
    hosts = _hosts(project, request, entry)
    executor = Threads(project.forks(request.forks))
    sessions = {host: Session(host, project.inventory.connection(host), project.connect) for host in hosts}
    started = time.monotonic()
    observer.phase_begins(Phase.PROBE, hosts)
    probe_all(list(sessions.values()), [ObserveRequest()] * len(sessions), executor)
    pasts = _read(list(sessions.values()), executor)
    observer.phase_ends(Phase.PROBE, "")
    undoes = _undoes(request, entry, pasts)
    told = next((e for past in pasts.values() for e in past.entries if e.deployment == undoes), None)
    if entry is None and undoes and told is None and len(pasts) == len(hosts):
        raise UsageError(
            f"no host of this inventory knows of a deployment {undoes}",
            hint="reconciler history --host HOST lists what a host knows",
        )
    nothing: dict[str, str] = {}
    plan = Plan(tuple(_plan(session, pasts.get(host), request, undoes, nothing) for host, session in sessions.items()))
    facts = RunFacts(journal.new_id(), "rollback", who(), request.message, Action.SWITCH, undoes)
    question = ask.about_rollback(plan, undoes)
    return Prepared(
        project,
        facts,
        plan,
        sessions,
        executor,
        request.selection.hosts if request.selection else ",".join(hosts),
        question=question,
        nothing=nothing,
        told=told,
        seconds=time.monotonic() - started,
    )


def execute(prepared: Prepared, observer: Observer) -> Report:
    """Switch every host back; the report says how each ended."""
    with Recorder(prepared, Journal.of(prepared.project)) as recorder:
        runs = prepared.runs(observer)
        # What is gone back to is on its host already: there is nothing to deliver.
        rollout = Rollout(prepared.facts, runs, prepared.executor, observer, deliver=_nothing)
        recorder.begin(rollout)
        rollout.stage()
        recorder.staged()
        rollout.switch()
        return recorder.report(runs)


def _nothing(_run: HostRun) -> None:
    """Deliver nothing."""


_WHOLE_ID = re.compile(r"\d{6}-\d{4}-[a-z][0-9]")


def _entry(journal: Journal, request: RollbackRequest) -> JournalEntry | None:
    """The journal's entry of the deployment. A whole id that another controller gave is known to the hosts alone."""
    if request.deployment is None:
        return None
    try:
        return journal.find(request.deployment)
    except UsageError:
        if _WHOLE_ID.fullmatch(request.deployment):
            return None
        raise


def _undoes(request: RollbackRequest, entry: JournalEntry | None, pasts: Mapping[str, undo.Past]) -> str:
    if request.to is not None:
        return ""
    if request.deployment is None:
        return undo.latest(pasts.values())
    return entry.id if entry else request.deployment


def _hosts(project: Project, request: RollbackRequest, entry: JournalEntry | None) -> tuple[str, ...]:
    if request.selection is not None:
        return request.selection.names(project.inventory)
    if entry is None:
        return tuple(project.inventory.hosts)
    touched = [report.host for report in entry.hosts]
    known = tuple(host for host in touched if host in project.inventory.hosts)
    if not known:
        raise UsageError(
            f"none of the hosts of {entry.id} is in this inventory",
            hint="name the inventory with -i",
        )
    return known


def _read(sessions: Sequence[Session], executor: Executor) -> dict[str, undo.Past]:
    def read(session: Session) -> undo.Past | None:
        if session.observation is None or session.error is not None:
            return None
        try:
            agent = session.agent
            entries = agent.history(HistoryRequest()).entries
            names = tuple(state.profile for state in session.observation.profiles)
            generations = agent.generations(ProfilesRequest(names)).profiles
            paths = {entry.before.path for entry in entries if entry.before is not None}
            paths |= {generation.path for each in generations.values() for generation in each}
            valid = agent.observe(ObserveRequest(paths=tuple(sorted(paths)))).valid
        except ReconcilerError as error:
            session.error = error
            return None
        return undo.Past(session.host, session.observation, entries, generations, frozenset(valid))

    return {past.host: past for past in executor.run(read, sessions) if past is not None}


def _require_mine(past: undo.Past, request: RollbackRequest) -> None:
    meant = [
        profile for state in past.observation.profiles if request.means_to(profile := ProfileId.parse(state.profile))
    ]
    others = not_of_login(past.host, meant, past.observation, "the generation is to be of")
    if others is not None:
        raise others


def _plan(
    session: Session, past: undo.Past | None, request: RollbackRequest, undoes: str, nothing: dict[str, str]
) -> HostPlan:
    host = session.host
    if past is None:
        error = session.error or ReconcilerError(f"{host}: the probe gave nothing")
        return HostPlan(host, state_of(error), error=error)
    try:
        if request.to is not None:
            _require_mine(past, request)
            goals = undo.goals_to(past, request.to, request.means_to)
        else:
            goals = undo.goals_undoing(past, undoes, request.means)
        changes = tuple(undo.change_to(past, state, goal) for state, goal in goals if state.current != goal)
    except ReconcilerError as error:
        return HostPlan(host, state_of(error), past.observation, error=error)
    if not changes:
        nothing[host] = "it has that already" if goals else f"{undoes or 'it'} did not change it"
    return HostPlan(host, State.PLANNED if changes else State.UNCHANGED, past.observation, changes)
