"""leave: the management of hosts is undone. First every host says what would go, then, when nobody objects, it goes."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

from reconciler.core.agent.messages import LeaveReply, LeaveRequest, ObserveRequest
from reconciler.core.errors import ExitStatus, LinkLostError, ReconcilerError, worst
from reconciler.fleet.ask import Question, about_leave
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Executor, Threads
from reconciler.fleet.project import Project, who
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, as_ours, close_all


class Stage(enum.Enum):
    """How far a host came."""

    PLANNED = "planned"
    NOTHING = "nothing"
    LEFT = "left"
    FAILED = "failed"


@dataclass(frozen=True)
class HostLeaving:
    """One host: what would go, or what went, and why it did not."""

    host: str
    stage: Stage
    reply: LeaveReply | None = None
    error: ReconcilerError | None = None


@dataclass
class Leaving:
    """What would go, with the logins that it was asked over. Leaving the `with` block ends them."""

    hosts: tuple[HostLeaving, ...]
    question: Question
    sessions: dict[str, Session] = field(default_factory=dict)
    executor: Executor = field(default_factory=lambda: Threads(1))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_all(tuple(self.sessions.values()), self.executor)

    @property
    def going(self) -> tuple[HostLeaving, ...]:
        return tuple(host for host in self.hosts if host.stage is Stage.PLANNED)


def prepare(project: Project, selection: Selection, forks: int | None, observer: Observer) -> Leaving:
    """Ask every selected host what would go; nothing is changed."""
    names = selection.names(project.inventory)
    sessions = {name: Session(name, project.inventory.connection(name), project.connect) for name in names}
    executor = Threads(project.forks(forks))
    observer.phase_begins(Phase.PROBE, names)
    try:
        hosts = tuple(executor.run(_ask, list(sessions.values())))
    except BaseException:
        close_all(tuple(sessions.values()), executor)
        raise
    observer.phase_ends(Phase.PROBE, "")
    going = [host.host for host in hosts if host.stage is Stage.PLANNED]
    protected = [name for name in names if project.inventory.protected(name)]
    return Leaving(hosts, about_leave(going, selection.hosts, protected), sessions, executor)


def execute(leaving: Leaving) -> tuple[HostLeaving, ...]:
    """Undo the management of every host that has one; how each ended, in the inventory's order."""

    def one(host: HostLeaving) -> HostLeaving:
        if host.stage is not Stage.PLANNED or host.reply is None:
            return host
        request = LeaveRequest(False, who(), host.host, host.reply.profiles)
        try:
            return replace(host, stage=Stage.LEFT, reply=leaving.sessions[host.host].agent.leave(request))
        except LinkLostError as error:
            told = LinkLostError(error.message, "leave again finishes what was begun")
            return replace(host, stage=Stage.FAILED, error=told)
        except Exception as error:
            return replace(host, stage=Stage.FAILED, error=as_ours(error, host.host))

    return tuple(leaving.executor.run(one, leaving.hosts))


def status(hosts: tuple[HostLeaving, ...]) -> ExitStatus:
    """What the command ends with."""
    return worst(host.error.status for host in hosts if host.error is not None)


def _ask(session: Session) -> HostLeaving:
    try:
        session.probe(ObserveRequest())
        reply = session.agent.leave(LeaveRequest(check=True, host=session.host))
    except Exception as error:
        return HostLeaving(session.host, Stage.FAILED, error=as_ours(error, session.host))
    return HostLeaving(session.host, Stage.PLANNED if reply.managed else Stage.NOTHING, reply)
