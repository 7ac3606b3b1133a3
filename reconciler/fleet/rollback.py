"""rollback: put back exactly what each host had, by the history that stands on the hosts themselves.

A generation is known by its number *and* its store path. Nix reuses numbers, so where the recorded number now leads
elsewhere, the path decides.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import (
    Generation,
    GenerationRef,
    HistoryEntry,
    HistoryRequest,
    ObserveRequest,
    ProfilesRequest,
    ProfileState,
)
from reconciler.core.errors import ReconcilerError, RefusedError, StoreError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.fleet import ask
from reconciler.fleet.deploy import state_of
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Executor, Threads
from reconciler.fleet.journal import Journal, JournalEntry
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan, Plan, ProfileChangePlan, next_number, package_changes
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project, who
from reconciler.fleet.record import Recorder
from reconciler.fleet.report import Report
from reconciler.fleet.rollout import Rollout, RunFacts
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
                hint="rollback --hosts PATTERN, or rollback --deployment ID (reconciler history lists them)",
            )
        if self.deployment is not None and self.to is not None:
            raise UsageError("--deployment and --to exclude each other", hint="leave one of them out")


@dataclass
class _Found:
    """What was learnt of one host."""

    session: Session
    entries: tuple[HistoryEntry, ...] = ()
    generations: Mapping[str, tuple[Generation, ...]] = field(default_factory=dict)
    valid: frozenset[str] = frozenset()


def prepare(project: Project, request: RollbackRequest, observer: Observer) -> Prepared:
    """Probe, read the histories, and plan; nothing is changed anywhere."""
    journal = Journal(project.state_directory)
    entry = journal.find(request.deployment) if request.deployment else None
    hosts = _hosts(project, request, entry)
    executor = Threads(project.forks(request.forks))
    sessions = {host: Session(host, project.inventory.connection(host), project.connect) for host in hosts}
    started = time.monotonic()
    observer.phase_begins(Phase.PROBE, hosts)
    probe_all(list(sessions.values()), [ObserveRequest()] * len(sessions), executor)
    found = _read(list(sessions.values()), executor)
    observer.phase_ends(Phase.PROBE, "")
    undoes = entry.id if entry else ("" if request.to is not None else _latest(found))
    nothing: dict[str, str] = {}
    plan = Plan(tuple(_plan(host, request, undoes, nothing) for host in found))
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
        seconds=time.monotonic() - started,
    )


def execute(prepared: Prepared, observer: Observer) -> Report:
    """Switch every host back; the report says how each ended."""
    with Recorder(prepared, Journal(prepared.project.state_directory)) as recorder:
        runs = prepared.runs(observer)
        # What is gone back to is on its host already: there is nothing to deliver.
        rollout = Rollout(prepared.facts, runs, prepared.executor, observer, deliver=lambda run: None)
        recorder.begin(rollout)
        rollout.stage()
        recorder.staged()
        rollout.switch()
        return recorder.report(runs)


def _hosts(project: Project, request: RollbackRequest, entry: JournalEntry | None) -> tuple[str, ...]:
    if request.selection is not None:
        return request.selection.names(project.inventory)
    touched = [report.host for report in entry.hosts] if entry else []
    known = tuple(host for host in touched if host in project.inventory.hosts)
    if not known:
        raise UsageError(
            f"none of the hosts of {entry.id if entry else request.deployment} is in this inventory",
            hint="name the inventory with -i",
        )
    return known


def _read(sessions: Sequence[Session], executor: Executor) -> list[_Found]:
    def read(session: Session) -> _Found:
        if session.observation is None or session.error is not None:
            return _Found(session)
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
            return _Found(session)
        return _Found(session, entries, generations, frozenset(valid))

    return executor.run(read, sessions)


def _latest(found: Iterable[_Found]) -> str:
    """The newest deployment on any of these hosts that has not been undone."""
    best: HistoryEntry | None = None
    for host in found:
        undone = {entry.undoes for entry in host.entries if entry.kind == "rollback"}
        for entry in host.entries:
            if entry.kind == "deploy" and entry.deployment not in undone and (best is None or entry.when > best.when):
                best = entry
    if best is None:
        raise UsageError("no deployment of these hosts is left to undo", hint="reconciler generations lists what is there")
    return best.deployment


def _plan(found: _Found, request: RollbackRequest, undoes: str, nothing: dict[str, str]) -> HostPlan:
    session = found.session
    if session.error is not None or session.observation is None:
        error = session.error or ReconcilerError(f"{session.host}: the probe gave nothing")
        return HostPlan(session.host, state_of(error), error=error)
    try:
        goals = _goals_to(found, request) if request.to is not None else _goals_undoing(found, request, undoes)
        changes = tuple(_change(found, state, goal) for state, goal in goals if state.current != goal)
    except ReconcilerError as error:
        return HostPlan(session.host, state_of(error), session.observation, error=error)
    if not changes:
        nothing[session.host] = "it has that already" if goals else f"{undoes or 'it'} did not change it"
    return HostPlan(session.host, State.PLANNED if changes else State.UNCHANGED, session.observation, changes)


Goal = tuple[ProfileState, GenerationRef | None]


def _goals_to(found: _Found, request: RollbackRequest) -> list[Goal]:
    """With `--to N`: that generation of the selected profiles, by default of the system's."""
    selection = request.selection
    goals: list[Goal] = []
    for state in _states(found):
        profile = ProfileId.parse(state.profile)
        meant = profile.is_system if selection is None or selection.everything else selection.includes(profile)
        if meant:
            listed = {g.number: g for g in found.generations.get(state.profile, ())}
            if request.to not in listed:
                have = ", ".join(str(number) for number in listed) or "none"
                raise StoreError(
                    f"{found.session.host}: {profile.label} has no generation {request.to}", hint=f"there are: {have}"
                )
            goals.append((state, GenerationRef(listed[request.to].number, listed[request.to].path)))
    return goals


def _goals_undoing(found: _Found, request: RollbackRequest, undoes: str) -> list[Goal]:
    """What each profile had before the deployment `undoes`."""
    goals: list[Goal] = []
    moved = []
    for state in _states(found):
        mine = [e for e in found.entries if e.deployment == undoes and e.profile == state.profile]
        profile = ProfileId.parse(state.profile)
        if not mine or not (request.selection is None or request.selection.includes(profile)):
            continue
        before, left = mine[0].before, mine[-1].after
        if state.current not in (left, before):
            moved.append(f"{profile.label} was left at {_number(left)}, is {_number(state.current)}{_by(state)}")
        goals.append((state, before))
    if moved:
        raise RefusedError(
            f"{found.session.host} has changed since {undoes}: {'; '.join(moved)}",
            hint="roll back what came after it first, or name a generation: rollback --hosts HOST --to N",
        )
    return goals


def _states(found: _Found) -> tuple[ProfileState, ...]:
    return found.session.observation.profiles if found.session.observation else ()


def _number(generation: GenerationRef | None) -> str:
    return str(generation.number) if generation else "nothing"


def _by(state: ProfileState) -> str:
    last = state.last
    if last is None or last.after != state.current:
        return " (by something else)"
    return f" ({last.who}, {last.deployment}{f' {last.message!r}' if last.message else ''})"


def _change(found: _Found, state: ProfileState, goal: GenerationRef | None) -> ProfileChangePlan:
    profile = ProfileId.parse(state.profile)
    now = [StorePath.parse(path) for path in state.packages]
    if goal is None:
        return ProfileChangePlan(profile, state.current, "", 0, 0, package_changes(now, ()))
    if goal.path not in found.valid:
        raise StoreError(
            f"{found.session.host}: generation {goal.number} of {profile.label} is no longer complete on the host",
            hint="deploy the revision of the inventory that made it",
        )
    listed = {(g.number, g.path): g for g in found.generations.get(state.profile, ())}
    same = listed.get((goal.number, goal.path))
    like = same or next((g for g in listed.values() if g.path == goal.path), None)
    packages = package_changes(now, [StorePath.parse(path) for path in (like.packages if like else ())])
    number = goal.number if same else 0
    return ProfileChangePlan(
        profile, state.current, goal.path, number, number or next_number(state, goal.path), packages
    )
