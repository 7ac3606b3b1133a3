"""status: desired, profile and running side by side, for every host that is asked about."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterable
from dataclasses import dataclass

from reconciler.core.agent.messages import Observation, ProfileState
from reconciler.core.errors import ExitStatus, worst
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.deploy import DeployRequest, prepare
from reconciler.fleet.events import Observer
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection


class Word(enum.Enum):
    """How a host stands to what the inventory says of it."""

    OK = "ok"
    BEHIND = "behind"
    DRIFT = "DRIFT"
    NEW = "new"
    UNFIT = "NOT FIT"
    UNREACHABLE = "UNREACHABLE"

    @property
    def status(self) -> ExitStatus:
        """What `status --exit-code` ends with for such a host."""
        if self is Word.UNREACHABLE:
            return ExitStatus.UNREACHABLE
        if self is Word.UNFIT:
            return ExitStatus.FAILED
        return ExitStatus.OK if self is Word.OK else ExitStatus.PENDING


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it was left: what it concerns, what is so, and the command that mends it."""

    subject: str
    text: str
    remedy: str


@dataclass(frozen=True)
class HostStatus:
    """One host: `plan` is what a deploy would do to it."""

    host: str
    word: Word
    plan: HostPlan
    findings: tuple[Finding, ...] = ()

    @property
    def observation(self) -> Observation | None:
        return self.plan.observation


@dataclass(frozen=True)
class StatusReport:
    """`seconds`: how long the probe took."""

    hosts: tuple[HostStatus, ...]
    seconds: float

    @property
    def status(self) -> ExitStatus:
        return worst(host.word.status for host in self.hosts)


def status(project: Project, selection: Selection, forks: int | None, observer: Observer) -> StatusReport:
    """Probe the selected hosts and compare; nothing is changed."""
    started = time.monotonic()
    with prepare(project, DeployRequest(selection, forks=forks, adopt=True), observer) as prepared:
        hosts = tuple(judge(plan) for plan in prepared.plan.hosts)
    return StatusReport(hosts, time.monotonic() - started)


def judge(plan: HostPlan) -> HostStatus:
    """The word for one host, and the findings behind it."""
    if plan.observation is None:
        return HostStatus(plan.host, Word.UNREACHABLE if plan.state is State.UNREACHABLE else Word.UNFIT, plan)
    findings = tuple(_findings(plan.host, plan.observation))
    if plan.error is not None:
        return HostStatus(plan.host, Word.UNFIT, plan, findings)
    if findings:
        return HostStatus(plan.host, Word.DRIFT, plan, findings)
    if plan.first:
        return HostStatus(plan.host, Word.NEW, plan)
    behind = plan.changes or plan.problems
    return HostStatus(plan.host, Word.BEHIND if behind else Word.OK, plan)


def _findings(host: str, observed: Observation) -> Iterable[Finding]:
    for state in observed.profiles:
        if state.changed_outside:
            yield _outside(host, state)
        if state.current is not None and not state.complete:
            label = ProfileId.parse(state.profile).label
            text = f"{label} {state.current.number}: its closure is not complete on the host"
            yield Finding("store", text, f"deploy --hosts {host}")
        if state.cut_off:
            text = "a switch of NixOS did not come to its end: its system may be half started, and another may boot"
            yield Finding("activation", text, f"deploy --hosts {host}")
    system = observed.profile("system")
    if system and system.current and not system.changed_outside and observed.running != system.current.path:
        runs = observed.running or "nothing"
        yield Finding(
            "running",
            f"/run/current-system is {runs}; the system profile is {system.current.path}",
            f"deploy --hosts {host}",
        )


def _outside(host: str, state: ProfileState) -> Finding:
    label = ProfileId.parse(state.profile).label
    now = str(state.current.number) if state.current else "gone"
    left = str(state.last.after.number) if state.last and state.last.after else "none"
    return Finding(
        "profile", f"{label} is {now}, changed from outside (by nix-env, say); we left {left}", f"deploy --hosts {host}"
    )
