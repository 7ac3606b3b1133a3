"""deploy: resolve, probe, plan; then, when nobody objects, realise, stage, switch and record."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.fleet import ask
from reconciler.fleet.adoption import judged
from reconciler.fleet.choosing import TARGET
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Threads
from reconciler.fleet.foresight import foresee, packages_of, told, wanted_paths, wanted_targets
from reconciler.fleet.journal import Journal
from reconciler.fleet.locking import require_locked
from reconciler.fleet.outcomes import Event, State
from reconciler.fleet.places import fetch_there, placement, require_place
from reconciler.fleet.plan import HostPlan, Plan, plan_host
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.project import Project, who
from reconciler.fleet.report import Report
from reconciler.fleet.rollout import HostRun, Rollout, RunFacts
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, probe_all
from reconciler.fleet.systems import other_system
from reconciler.fleet.targets import Targets, resolve

if TYPE_CHECKING:
    from reconciler.fleet.crews import Crew, Crews
    from reconciler.fleet.delivery import Made
    from reconciler.fleet.record import Recorder


@dataclass(frozen=True)
class DeployRequest:
    """What was asked for on the command line. `build_on` and `substitute_on` are empty where the inventory is to say
    it."""

    selection: Selection
    action: Action = Action.SWITCH
    build_on: str = ""
    forks: int | None = None
    message: str = ""
    all_or_nothing: bool = False
    locked: bool = False
    adopt: bool = False
    substitute_on: str = ""

    def __post_init__(self) -> None:
        if self.action is Action.BUILD and self.build_on == TARGET:
            raise UsageError("--action build stays on the controller", hint="leave out --build-on target")
        if self.action is Action.BUILD and self.substitute_on == TARGET:
            raise UsageError("--action build stays on the controller", hint="leave out --substitute-on target")

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
    request.selection.require_declared(project.inventory, hosts)
    require_place(project.inventory, request.build_on)
    targets = _selected(resolve(project.inventory, project.resolver, hosts), request)
    placed = placement(project, hosts, request.build_on, request.action.reaches_hosts)
    if request.locked:
        require_locked(project)
    facts = _facts(project, request)
    executor = Threads(project.forks(request.forks))
    if not request.action.reaches_hosts:
        plan = Plan(tuple(HostPlan(host, State.PLANNED) for host in hosts))
        prepared = Prepared(project, facts, plan, {}, executor, request.selection.hosts, placed, targets)
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
        Plan(tuple(_plan(project, session, targets, request) for session in sessions.values())),
        sessions,
        executor,
        request.selection.hosts,
        placed,
        targets,
        seconds=time.monotonic() - started,
        adopt=request.adopt,
        fetch_there=fetch_there(project.inventory, hosts, request.substitute_on) - _users_of_a_daemon(sessions),
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
    from reconciler.fleet.record import Recorder

    with Recorder(prepared, Journal.of(prepared.project)) as recorder:
        runs = prepared.runs(observer)
        _deploy(prepared, runs, observer, recorder)
        return recorder.report(runs)


def _deploy(prepared: Prepared, runs: list[HostRun], observer: Observer, recorder: Recorder) -> None:
    from reconciler.fleet.crews import crews

    facts, project = prepared.facts, prepared.project
    with (
        project.open_store() as store,
        crews(prepared, store, observer, told=lambda error: told(prepared, error)) as builders,
    ):
        rollout = Rollout(facts, runs, prepared.executor, observer, builders)
        recorder.begin(rollout)
        _realise(builders, prepared, rollout, observer)
        if facts.action.reaches_hosts:
            builders.prepare(rollout.having(State.PLANNED, State.REALISED))
            rollout.stage()
            recorder.staged()
            if facts.action.switches:
                rollout.switch()


def _realise(builders: Crews, prepared: Prepared, rollout: Rollout, observer: Observer) -> None:
    """Make what the hosts need, here and on builders. A host whose packages cannot all be made is left out."""
    crews_at_work = [
        (crew, [run for run in rollout.having(State.PLANNED) if run.plan.host in crew.hosts]) for crew in builders.all
    ]
    hosts = tuple(
        run.plan.host
        for crew, runs in crews_at_work
        for run in runs
        if crew.realises or crew.ahead(run.plan.host, packages_of(prepared, run.plan))
    )
    if not hosts:
        return
    observer.phase_begins(Phase.REALISE, hosts)
    started = time.monotonic()
    made = [_realise_for(crew, runs, prepared) for crew, runs in crews_at_work if runs]
    observer.phase_ends(Phase.REALISE, _made(made, time.monotonic() - started))


def _realise_for(crew: Crew, runs: list[HostRun], prepared: Prepared) -> Made:
    from reconciler.core.profile.environment import CollisionError

    if not crew.realises:
        return _realise_ahead(crew, runs, prepared)
    try:
        made = crew.workshop.realise(wanted_targets(prepared, crew.hosts))
    except CollisionError as error:
        raise told(prepared, error) from None
    for run in runs:
        failures = (made.failures.get(StorePath.parse(path)) for path in wanted_paths(prepared, run.plan))
        failure = next((one for one in failures if one is not None), None)
        if failure is None:
            run.happen(Event.REALISED)
        else:
            run.fail(failure)
    return made


def _realise_ahead(crew: Crew, runs: list[HostRun], prepared: Prepared) -> Made:
    """Make what hosts that build for themselves are not to build. One whose part cannot be made is left out."""
    ahead = {run.plan.host: crew.ahead(run.plan.host, packages_of(prepared, run.plan)) for run in runs}
    made = crew.workshop.ahead([package for packages in ahead.values() for package in packages])
    for run in runs:
        failed = [made.failures.get(one.derivation) for one in ahead[run.plan.host] if one.derivation is not None]
        failure = next((one for one in failed if one is not None), None)
        if failure is not None:
            run.fail(failure)
    return made


def _made(made: Sequence[Made], seconds: float) -> str:
    names = ", ".join(path.name.removesuffix(".drv") for one in made for path in one.built)
    failed = dict.fromkeys(error.message.split("\n", 1)[0] for one in made for error in one.failures.values())
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


def _users_of_a_daemon(sessions: Mapping[str, Session]) -> frozenset[str]:
    """The hosts whose store takes only what their Nix's daemon takes: archives come to them through here."""
    found = ((host, session.observation) for host, session in sessions.items())
    return frozenset(host for host, observed in found if observed is not None and observed.login)


def _selected(targets: Targets, request: DeployRequest) -> Targets:
    """Only the profiles that are meant."""
    chosen = {
        host: {profile: target for profile, target in profiles.items() if request.means(profile)}
        for host, profiles in targets.hosts.items()
    }
    return Targets(chosen, targets.empty)


def _probe_request(targets: Targets, host: str) -> ObserveRequest:
    wanted = targets.hosts[host]
    users = tuple(profile.user for profile in wanted if profile.user)
    places = tuple(profile.place for profile in wanted if profile.place)
    return ObserveRequest(users, tuple(sorted({str(target.path) for target in wanted.values()})), places)


def _plan(project: Project, session: Session, targets: Targets, request: DeployRequest) -> HostPlan:
    if session.error is not None or session.observation is None:
        error = session.error or ReconcilerError(f"{session.host}: the probe gave nothing")
        return HostPlan(session.host, state_of(error), error=error)
    foreign = other_system(project.inventory.desired(session.host), session.observation.system)
    if foreign is not None:
        return HostPlan(session.host, State.FAILED, session.observation, error=foreign)
    empty = targets.empty.target if request.empties else None
    plan = plan_host(session.host, targets.of(session.host), empty, session.observation)
    return judged(plan, request.adopt) if request.action.switches else plan


def state_of(error: ReconcilerError) -> State:
    by_status = {state.status: state for state in (State.FAILED, State.REFUSED, State.UNREACHABLE)}
    # A link lost while probing changed nothing: the host was not reached, and nothing about it is in doubt.
    return by_status.get(error.status, State.UNREACHABLE if error.code == "link-lost" else State.FAILED)
