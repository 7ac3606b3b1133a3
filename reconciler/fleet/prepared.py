"""A run that is planned and not yet carried out: what the command line shows, and asks about."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from reconciler.core.agent.messages import HistoryEntry
from reconciler.fleet.ask import NOTHING_TO_ASK, Question
from reconciler.fleet.events import Observer
from reconciler.fleet.executor import Executor
from reconciler.fleet.plan import Plan
from reconciler.fleet.project import Project
from reconciler.fleet.rollout import HostRun, RunFacts
from reconciler.fleet.session import Session, close_all
from reconciler.fleet.targets import Targets


@dataclass
class Prepared:
    """The plan, with the logins that it was made over. Leaving the `with` block ends them.

    `builds`: the packages that would be built. `copy_bytes`: by host, what would be copied, where all of it is in this
    controller's store already. `nothing`: by host, why a rollback has nothing to do there. `told`: what a host's
    history says of the deployment that a rollback undoes. `seconds`: how long the probe took.
    """

    project: Project
    facts: RunFacts
    plan: Plan
    sessions: dict[str, Session]
    executor: Executor
    pattern: str = ""
    build_on: str = "controller"
    targets: Targets | None = None
    question: Question = NOTHING_TO_ASK
    builds: tuple[str, ...] = ()
    copy_bytes: dict[str, int] = field(default_factory=dict)
    nothing: dict[str, str] = field(default_factory=dict)
    told: HistoryEntry | None = None
    seconds: float = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the logins."""
        close_all(tuple(self.sessions.values()), self.executor)

    @property
    def id(self) -> str:
        return self.facts.id

    def runs(self, observer: Observer) -> list[HostRun]:
        return [HostRun(host, self.sessions.get(host.host), observer) for host in self.plan.hosts]
