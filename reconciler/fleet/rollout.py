"""Carry a plan out: stage every host, then switch every host that is staged.

Nothing here decides what is to change; that stands in the plan. Every host goes through `outcomes`' table, and what is
reported of it is what the agent answered, or what a new probe found when the answer was lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import (
    BeginRequest,
    GenerationRef,
    Observation,
    ObserveRequest,
    ProfileChange,
    StageRequest,
    SwitchReply,
    SwitchRequest,
)
from reconciler.core.errors import (
    LinkLostError,
    ReconcilerError,
    RefusedError,
    RevertedError,
    UnreachableError,
    UnsettledError,
)
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.aftermath import Aftermath
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Executor
from reconciler.fleet.outcomes import Event, State, after
from reconciler.fleet.plan import HostPlan, ProfileChangePlan
from reconciler.fleet.report import HostReport, ProfileReport
from reconciler.fleet.session import Session, as_ours

# How long a host is asked again after the answer to a switch was lost: the agent may still be at work.
PROBE_AGAIN_SECONDS = 30.0
PROBE_PAUSE_SECONDS = 1.0
# A host that waited longer than this for the others to be staged is asked whether it is still there.
WAITED_SECONDS = 1.0
SWITCH_SECONDS = 300.0
# A NixOS system takes what its units take to stop and start, at most four times (nixos_program.DEADLINE).
NIXOS_SECONDS = 3700.0
_UNSETTLED = "look on the host: systemctl --failed; then deploy what shall run"
_LOST = "the link was lost during the switch"


@dataclass(frozen=True)
class RunFacts:
    """What every host is told of the run."""

    id: str
    kind: str
    who: str
    message: str
    action: Action
    undoes: str = ""
    all_or_nothing: bool = False


@dataclass
class HostRun:
    """One host on its way through the run. `sent`: bytes of archives that it got from here, `fetched`: those that it
    got from caches by itself; `notes`: what the report is to say beside its state."""

    plan: HostPlan
    session: Session | None
    observer: Observer
    state: State = State.PLANNED
    detail: str = ""
    hint: str = ""
    changes: tuple[ProfileChangePlan, ...] = ()
    problems: dict[str, str] = field(default_factory=dict)
    now: dict[str, GenerationRef | None] = field(default_factory=dict)
    probed: bool = True
    staged_at: float = 0.0
    sent: int = 0
    fetched: int = 0
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = self.plan.state
        self.changes = self.plan.changes
        self.problems = dict(self.plan.problems)
        if self.plan.error is not None:
            self.detail, self.hint = self.plan.error.message, self.plan.error.hint or ""
        self._take(self.plan.observation)

    def happen(self, event: Event, detail: str = "", hint: str = "") -> None:
        self.state = after(self.state, event)
        if detail:
            self.detail, self.hint = detail, hint
        self.observer.host_changed(self.plan.host, self.state, detail)

    def fail(self, error: ReconcilerError) -> None:
        """A failure before the switch: the host is as it was."""
        if isinstance(error, UnreachableError):
            event = Event.UNREACHABLE
        else:
            event = Event.REFUSED if isinstance(error, RefusedError) else Event.FAILED
        self.happen(event, error.message, error.hint or "")

    @property
    def live(self) -> Session:
        if self.session is None:
            raise LinkLostError(f"{self.plan.host}: not connected")
        return self.session

    def _take(self, observation: Observation | None) -> None:
        if observation is not None:
            self.now = {state.profile: state.current for state in observation.profiles}

    def report(self) -> HostReport:
        planned = {str(change.profile): change for change in self.changes}
        profiles = tuple(self._profile(name, planned.get(name)) for name in sorted(planned.keys() | self.now.keys()))
        detail = self.detail or "; ".join(f"{name}: {problem}" for name, problem in self.problems.items())
        partial = bool(self.problems) and self.state not in (State.FAILED, State.UNREACHABLE)
        return HostReport(
            self.plan.host,
            self.state,
            profiles,
            detail,
            self.hint,
            self.probed,
            partial,
            sent=self.sent,
            fetched=self.fetched,
        )

    def _profile(self, name: str, change: ProfileChangePlan | None) -> ProfileReport:
        now = self.now.get(name)
        if change is None:
            return ProfileReport(ProfileId.parse(name), now, now, now)
        planned = GenerationRef(change.will_be, change.to) if change.to else None
        return ProfileReport(change.profile, change.before, planned, now, change.packages)


class Rollout:
    """All hosts of one run. `deliver` puts onto a host what it needs; it may take long, and fail."""

    def __init__(
        self,
        facts: RunFacts,
        runs: Sequence[HostRun],
        executor: Executor,
        observer: Observer,
        deliver: Callable[[HostRun], None],
    ) -> None:
        self.facts = facts
        self.runs = tuple(runs)
        self._executor = executor
        self._observer = observer
        self._deliver = deliver
        self._cancelled = threading.Event()
        self._switching = False
        self.under_way = False

    def having(self, *states: State) -> tuple[HostRun, ...]:
        return tuple(run for run in self.runs if run.state in states)

    def cancel(self) -> bool:
        """Stop before anything is switched; False when the switch has begun and is seen through.

        May be called from a signal handler.
        """
        if self._switching:
            return False
        self._cancelled.set()
        # Threads that wait for a host notice that its session is gone; the host's agent sees the end of its input.
        threading.Thread(target=self._close_open_sessions, daemon=True).start()
        return True

    def _close_open_sessions(self) -> None:
        for run in self.runs:
            if run.session is not None:
                run.session.close()

    @property
    def switching(self) -> bool:
        """Whether the switch has begun."""
        return self._switching

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    # --- stage ----------------------------------------------------------------------------------------------------

    def stage(self) -> None:
        """Copy to, verify and root on every host that changes; none of them runs anything else afterwards."""
        self._hold_back_unless_all(State.PLANNED, State.REALISED)
        runs = self.having(State.PLANNED, State.REALISED)
        if not runs:
            return
        self.under_way = True
        self._observer.phase_begins(Phase.STAGE, tuple(run.plan.host for run in runs))
        started = time.monotonic()
        self._executor.run(self._stage, runs)
        waited = [run for run in self.having(State.STAGED) if time.monotonic() - run.staged_at > WAITED_SECONDS]
        self._executor.run(self._still_there, waited)
        self._hold_back_unless_all(State.STAGED)
        staged = len(self.having(State.STAGED))
        self._observer.phase_ends(Phase.STAGE, f"{staged} of {len(runs)} in {time.monotonic() - started:.1f} s")

    def _stage(self, run: HostRun) -> None:
        try:
            self._stop_when_cancelled()
            agent = run.live.agent
            begun = agent.begin(BeginRequest(self.facts.id, self.facts.who, self.facts.message, run.plan.host))
            if begun.collecting:
                self._observer.noted(f"{run.plan.host}: a garbage collection is at work there; waiting for its end")
            self._deliver(run)
            if run.state is State.PLANNED:
                run.happen(Event.REALISED)
            wanted = {str(change.profile): change.to for change in run.changes if change.to}
            reply = agent.stage(StageRequest(self.facts.id, wanted))
            self._leave_out(run, reply.problems)
            self._stop_when_cancelled()
            run.happen(Event.STAGED)
            run.staged_at = time.monotonic()
        except Exception as error:
            run.fail(self._told(as_ours(error, run.plan.host)))
            run.live.close()

    def _still_there(self, run: HostRun) -> None:
        """A link that broke while the host waited for others is told before anything is asked of it: a switch that was
        never sent has changed nothing."""
        try:
            run.live.agent.observe(ObserveRequest())
            self._stop_when_cancelled()
        except Exception as error:
            run.fail(self._told(as_ours(error, run.plan.host)))
            run.live.close()

    def _leave_out(self, run: HostRun, problems: Mapping[str, str]) -> None:
        run.problems |= {ProfileId.parse(name).label: problem for name, problem in problems.items()}
        run.changes = tuple(change for change in run.changes if str(change.profile) not in problems)
        if not run.changes:
            raise ReconcilerError("; ".join(f"{name}: {problem}" for name, problem in run.problems.items()))

    def _stop_when_cancelled(self) -> None:
        if self.cancelled:
            raise ReconcilerError("interrupted before the switch")

    def _told(self, error: ReconcilerError) -> ReconcilerError:
        return ReconcilerError("interrupted before the switch") if self.cancelled else error

    def _hold_back_unless_all(self, *needed: State) -> None:
        """With --all-or-nothing, one host that cannot take part keeps all as they are."""
        if not self.facts.all_or_nothing:
            return
        missing = [run.plan.host for run in self.runs if run.state not in (*needed, State.UNCHANGED)]
        if missing:
            for run in self.having(*needed):
                run.happen(Event.FAILED, f"left as it was: --all-or-nothing, and {', '.join(missing)} cannot follow")
                if run.session is not None:
                    run.session.close()

    # --- switch ---------------------------------------------------------------------------------------------------

    def switch(self) -> None:
        """Switch every host that is staged."""
        if self.cancelled:
            for run in self.having(State.STAGED):
                run.happen(Event.FAILED, "interrupted before the switch")
            return
        self._switching = True
        runs = self.having(State.STAGED)
        if not runs:
            return
        self._observer.phase_begins(Phase.SWITCH, tuple(run.plan.host for run in runs))
        started = time.monotonic()
        self._executor.run(self._switch, runs)
        done = len([run for run in runs if run.state is State.CONFIRMED])
        self._observer.phase_ends(Phase.SWITCH, f"{done} of {len(runs)} within {time.monotonic() - started:.1f} s")

    def _switch(self, run: HostRun) -> None:
        try:
            observed = run.plan.observation
            deadline = NIXOS_SECONDS if observed is not None and observed.nixos else SWITCH_SECONDS
            self._confirmed(run, run.live.agent.switch(self._request(run), deadline))
        except LinkLostError as error:
            run.probed = False
            run.happen(Event.LOST, error.message, "reconciler status")
            self._find_out(run)
        except RefusedError as error:
            run.fail(error)
        except Exception as error:
            self._failed(run, as_ours(error, run.plan.host))

    def _failed(self, run: HostRun, error: ReconcilerError) -> None:
        """The agent puts everything back before it tells of an error; whether it could, a probe says."""
        try:
            found = run.live.agent.observe(self._question(run))
        except ReconcilerError:
            found = None
        if found is not None and self._judge(run, found).as_it_was:
            if isinstance(error, RevertedError):
                run.happen(Event.ACTIVATED)
                run.happen(Event.REVERTED, error.message, error.hint or "")
            elif isinstance(error, UnsettledError):
                # The profile and the link of what runs are as they were; what its services do, no probe sees.
                run.happen(Event.LOST, error.message, error.hint or _UNSETTLED)
            else:
                run.fail(error)
            return
        run.probed = False
        run.happen(Event.LOST, error.message, error.hint or "reconciler status")
        if found is None or not self._settle(run, found, error.message):
            self._find_out(run)

    def _request(self, run: HostRun) -> SwitchRequest:
        facts = self.facts
        changes = tuple(
            ProfileChange(str(change.profile), change.before, change.to, change.number) for change in run.changes
        )
        return SwitchRequest(
            facts.id, facts.kind, facts.who, facts.message, facts.action.value, changes, undoes=facts.undoes
        )

    def _confirmed(self, run: HostRun, reply: SwitchReply) -> None:
        run.now |= {switched.profile: switched.after for switched in reply.switched}
        run.happen(Event.CONFIRMED)

    def _find_out(self, run: HostRun) -> None:
        """The answer to a switch was lost: ask the host what it runs, until it says or the time is up."""
        deadline = time.monotonic() + PROBE_AGAIN_SECONDS
        while time.monotonic() < deadline:
            run.live.close()
            try:
                found = run.live.probe(self._question(run))
            except ReconcilerError as error:
                run.detail = f"{_LOST}, and then: {error.message}"
            else:
                if found.lock is not None:
                    run.detail = f"{_LOST}, and the agent there is still at work"
                elif self._settle(run, found, _LOST):
                    return
            time.sleep(PROBE_PAUSE_SECONDS)

    def _question(self, run: HostRun) -> ObserveRequest:
        profiles = [change.profile for change in run.changes]
        users = tuple(profile.user for profile in profiles if profile.user)
        return ObserveRequest(users, places=tuple(profile.place for profile in profiles if profile.place))

    def _judge(self, run: HostRun, found: Observation) -> Aftermath:
        return Aftermath.of(run.changes, self.facts.action, run.plan.observation, found)

    def _settle(self, run: HostRun, found: Observation, cause: str) -> bool:
        """Whether a new probe says how the switch ended; then that is how it is told."""
        aftermath = self._judge(run, found)
        if not aftermath.can_be_told:
            run.detail = f"{cause}; a new probe found neither what was before nor what was planned"
            return False
        run.now, run.probed = {state.profile: state.current for state in found.profiles}, True
        if aftermath.as_it_was:
            run.happen(Event.FOUND_OLD, f"{cause}; a new probe found it not done", "deploy again")
        elif aftermath.all_done:
            run.happen(Event.FOUND_NEW, f"{cause}; a new probe found it done")
        else:
            self._tell_partial(run, aftermath, cause)
        return True

    def _tell_partial(self, run: HostRun, aftermath: Aftermath, cause: str) -> None:
        """The agent was killed between two profiles, or could not undo what it had done of a switch that failed."""
        found = {label: f"a new probe found it {came.value}" for label, came in aftermath.left.items()}
        words = f"{cause}; {'; '.join(f'{label}: {what}' for label, what in found.items())}"
        if aftermath.some_done:
            run.problems |= found
            run.happen(Event.FOUND_NEW, words, "deploy again")
        else:
            run.detail, run.hint = words, "deploy again"
