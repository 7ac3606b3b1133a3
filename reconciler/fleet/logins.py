"""Work on hosts that is no deployment: one login a host, hosts side by side, and how each ended."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.errors import ExitStatus, LinkLostError, ReconcilerError, worst
from reconciler.fleet.ask import Question
from reconciler.fleet.executor import Executor, Threads
from reconciler.fleet.project import Project
from reconciler.fleet.session import Session, as_ours, close_all

T = TypeVar("T")
R = TypeVar("R")


class Stage(enum.Enum):
    """How far a host came."""

    PLANNED = "planned"
    NOTHING = "nothing"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class HostResult(Generic[T]):
    """What a host answered, or why it did not."""

    host: str
    stage: Stage
    reply: T | None = None
    error: ReconcilerError | None = None


@dataclass
class Logins:
    """Sessions of the selected hosts, in the inventory's order. Leaving the `with` block ends them."""

    sessions: dict[str, Session]
    executor: Executor

    @classmethod
    def of(cls, project: Project, names: Sequence[str], forks: int | None) -> Logins:
        sessions = {name: Session(name, project.inventory.connection(name), project.connect) for name in names}
        return cls(sessions, Threads(project.forks(forks)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_all(tuple(self.sessions.values()), self.executor)

    def each(self, work: Callable[[Session], HostResult[R]]) -> tuple[HostResult[R], ...]:
        """Log in to every host, and do `work` there; what goes wrong is in the host's result."""

        def one(session: Session) -> HostResult[R]:
            try:
                if session.client is None:
                    session.probe(ObserveRequest())
                return work(session)
            except Exception as error:
                return HostResult(session.host, Stage.FAILED, error=as_ours(error, session.host))

        return tuple(self.executor.run(one, list(self.sessions.values())))

    def foresee(self, work: Callable[[Session], HostResult[R]]) -> tuple[HostResult[R], ...]:
        """As `each`; the logins stay for what is foreseen to be done, unless this is interrupted."""
        try:
            return self.each(work)
        except BaseException:
            close_all(tuple(self.sessions.values()), self.executor)
            raise


def status(hosts: Iterable[HostResult[Any]]) -> ExitStatus:
    """What a command ends with that only did something."""
    return worst(host.error.status for host in hosts if host.error is not None)


@dataclass
class Foreseen(Generic[T]):
    """What work would do on each host, with the logins that it was asked over. Leaving the `with` block ends them."""

    hosts: tuple[HostResult[T], ...]
    question: Question
    logins: Logins = field(default_factory=lambda: Logins({}, Threads(1)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.logins.__exit__(kind, value, trace)

    @property
    def going(self) -> tuple[HostResult[T], ...]:
        """The hosts on which there is something to do."""
        return tuple(host for host in self.hosts if host.stage is Stage.PLANNED)

    def execute(self, work: Callable[[str, T], T], again: str) -> tuple[HostResult[T], ...]:
        """Do `work`, given a host's name and what it foresaw, on those hosts; how all ended, in the inventory's order.
        `again`: what finishes what was begun on a host whose link was lost."""

        def one(host: HostResult[T]) -> HostResult[T]:
            if host.stage is not Stage.PLANNED or host.reply is None:
                return host
            try:
                return replace(host, stage=Stage.DONE, reply=work(host.host, host.reply))
            except LinkLostError as error:
                told = LinkLostError(error.message, f"{again} again finishes what was begun")
                return replace(host, stage=Stage.FAILED, error=told)
            except Exception as error:
                return replace(host, stage=Stage.FAILED, error=as_ours(error, host.host))

        return tuple(self.logins.executor.run(one, self.hosts))
