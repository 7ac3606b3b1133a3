"""deploy: resolve, probe, plan; then, when nobody objects, realise, stage, switch and record."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import CollisionError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet import ask, delivery
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Threads
from reconciler.fleet.foresight import foresee, told, wanted_paths, wanted_targets
from reconciler.fleet.journal import Journal
from reconciler.fleet.outcomes import Event, State
from reconciler.fleet.plan import HostPlan, Plan, plan_host
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project, who
from reconciler.fleet.record import Recorder
from reconciler.fleet.report import Report
from reconciler.fleet.rollout import HostRun, Rollout, RunFacts
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, probe_all
from reconciler.fleet.targets import Targets, resolve

BUILD_PLACES = ("controller", "target")


@dataclass(frozen=True)
class DeployRequest:
    """What was asked for on the command line."""

    selection: Selection
    action: Action = Action.SWITCH
    build_on: str = "controller"
    forks: int | None = None
    message: str = ""
    all_or_nothing: bool = False

    def __post_init__(self) -> None:
        if self.build_on not in BUILD_PLACES:
            raise UsageError(
                f"--build-on {self.build_on}: not a place to build", hint=f"one of: {', '.join(BUILD_PLACES)}"
            )
        if self.action is Action.BUILD and self.build_on == "target":
            raise UsageError("--action build stays on the controller", hint="leave out --build-on target")

    @property
    def empties(self) -> bool:
        """Whether the profile of a user that left the inventory is emptied: only where all that is declared is looked
        at, since what was not selected is no more missing than what `test` does not activate."""
        return self.selection.everything and self.action is not Action.TEST

    def means(self, profile: ProfileId) -> bool:
        """Whether the profile takes part; `test` activates, so it concerns system profiles alone."""
        return self.selection.includes(profile) and (profile.is_system or self.action is not Action.TEST)


def prepare(project: Project, request: DeployRequest, observer: Observer) -> Prepared:
    """Resolve and probe; nothing is changed anywhere."""
    hosts = request.selection.names(project.inventory)
    request.selection.require_users(project.inventory, hosts)
    targets = _selected(resolve(project.inventory, project.resolver, hosts), request)
    facts = _facts(project, request)
    executor = Threads(project.forks(request.forks))
    if not request.action.reaches_hosts:
        plan = Plan(tuple(HostPlan(host, State.PLANNED) for host in hosts))
        prepared = Prepared(project, facts, plan, {}, executor, request.selection.hosts, targets=targets)
        foresee(prepared)
        return prepared
    sessions = {host: Session(host, project.inventory.connection(host), project.connect) for host in hosts}
    started = time.monotonic()
    observer.phase_begins(Phase.PROBE, hosts)
    probe_all(list(sessions.values()), [_probe_request(targets, host) for host in hosts], executor)
    observer.phase_ends(Phase.PROBE, "")
    prepared = Prepared(
        project,
        facts,
        Plan(tuple(_plan(session, targets, request) for session in sessions.values())),
        sessions,
        executor,
        request.selection.hosts,
        request.build_on,
        targets,
        seconds=time.monotonic() - started,
    )
    protected = [host for host in hosts if project.inventory.protected(host)]
    prepared.question = ask.about_deploy(prepared.plan, request.action, request.selection.hosts, protected)
    try:
        foresee(prepared)
    except BaseException:
        prepared.close()
        raise
    return prepared


def execute(prepared: Prepared, observer: Observer) -> Report:
    """Carry the plan out; the report says how every host ended."""
    with Recorder(prepared, Journal.of(prepared.project)) as recorder:
        runs = prepared.runs(observer)
        _deploy(prepared, runs, observer, recorder)
        return recorder.report(runs)


def _deploy(prepared: Prepared, runs: list[HostRun], observer: Observer, recorder: Recorder) -> None:
    facts = prepared.facts
    jobs = os.cpu_count() or 1
    with prepared.project.open_store() as store:
        workshop = delivery.Workshop(store, prepared.project.resolver, observer, jobs)
        deliver: delivery.FromHere | delivery.BuiltThere
        if prepared.build_on == "target":
            by_path = prepared.targets.by_path() if prepared.targets else {}
            deliver = delivery.BuiltThere(workshop, by_path, jobs, observer, lambda error: told(prepared, error))
        else:
            deliver = delivery.FromHere(workshop, observer)
        rollout = Rollout(facts, runs, prepared.executor, observer, deliver)
        recorder.begin(rollout)
        if prepared.build_on == "controller":
            _realise_here(workshop, prepared, rollout, observer)
        if facts.action.reaches_hosts:
            deliver.prepare(rollout.having(State.PLANNED, State.REALISED))
            rollout.stage()
            recorder.staged()
            if facts.action.switches:
                rollout.switch()


def _realise_here(workshop: delivery.Workshop, prepared: Prepared, rollout: Rollout, observer: Observer) -> None:
    """Make what the hosts need. A host whose packages cannot all be made is left out."""
    runs = rollout.having(State.PLANNED)
    observer.phase_begins(Phase.REALISE, tuple(run.plan.host for run in runs))
    started = time.monotonic()
    try:
        made = workshop.realise(wanted_targets(prepared))
    except CollisionError as error:
        raise told(prepared, error) from None
    for run in runs:
        failures = (made.failures.get(StorePath.parse(path)) for path in wanted_paths(prepared, run.plan))
        failure = next((one for one in failures if one is not None), None)
        if failure is None:
            run.happen(Event.REALISED)
        else:
            run.fail(failure)
    observer.phase_ends(Phase.REALISE, _made(made, time.monotonic() - started))


def _made(made: delivery.Made, seconds: float) -> str:
    names = ", ".join(path.name.removesuffix(".drv") for path in made.built)
    failed = dict.fromkeys(error.message.split("\n", 1)[0] for error in made.failures.values())
    built = f"{names} built in {seconds:.1f} s" if names else ""
    return "; ".join(part for part in (built, *failed) if part) or "nothing to build"


def _facts(project: Project, request: DeployRequest) -> RunFacts:
    return RunFacts(
        Journal.of(project).new_id(),
        "deploy",
        who(),
        request.message,
        request.action,
        all_or_nothing=request.all_or_nothing,
    )


def _selected(targets: Targets, request: DeployRequest) -> Targets:
    """Only the profiles that are meant."""
    chosen = {
        host: {profile: target for profile, target in profiles.items() if request.means(profile)}
        for host, profiles in targets.hosts.items()
    }
    return Targets(chosen, targets.empty)


def _probe_request(targets: Targets, host: str) -> ObserveRequest:
    wanted = targets.hosts[host]
    users = tuple(profile.user for profile in wanted if not profile.is_system)
    return ObserveRequest(users, tuple(sorted({str(target.path) for target in wanted.values()})))


def _plan(session: Session, targets: Targets, request: DeployRequest) -> HostPlan:
    if session.error is not None or session.observation is None:
        error = session.error or ReconcilerError(f"{session.host}: the probe gave nothing")
        return HostPlan(session.host, state_of(error), error=error)
    empty = targets.empty.target if request.empties else None
    return plan_host(session.host, targets.of(session.host), empty, session.observation)


def state_of(error: ReconcilerError) -> State:
    by_status = {state.status: state for state in (State.FAILED, State.REFUSED, State.UNREACHABLE)}
    # A link lost while probing changed nothing: the host was not reached, and nothing about it is in doubt.
    return by_status.get(error.status, State.UNREACHABLE if error.code == "link-lost" else State.FAILED)
