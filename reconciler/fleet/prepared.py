"""A run that is planned and not yet carried out: what the command line shows, and asks about."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True)
class Fetches:
    """What comes from binary caches: how many store paths, and their bytes as they travel."""

    paths: int = 0
    bytes: int = 0


NO_FETCHES = Fetches()


@dataclass
class Prepared:
    """The plan, with the logins that it was made over. Leaving the `with` block ends them.

    `builds`: the packages that would be built. `fetches`: what would come from caches. `copy_bytes`: by host, what
    would be copied, where all of it is in this
    controller's store already. `nothing`: by host, why a rollback has nothing to do there. `told`: what a host's
    history says of the deployment that a rollback undoes. `seconds`: how long the probe took.
    `places`: by host, where what it needs is built: `controller`, `target` or a host's name.
    `adopt`: whether what something else made may be replaced.
    """

    project: Project
    facts: RunFacts
    plan: Plan
    sessions: dict[str, Session]
    executor: Executor
    pattern: str = ""
    places: Mapping[str, str] = field(default_factory=dict)
    targets: Targets | None = None
    question: Question = NOTHING_TO_ASK
    builds: tuple[str, ...] = ()
    fetches: Fetches = NO_FETCHES
    copy_bytes: dict[str, int] = field(default_factory=dict)
    nothing: dict[str, str] = field(default_factory=dict)
    told: HistoryEntry | None = None
    seconds: float = 0.0
    adopt: bool = False

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

    def place(self, host: str) -> str:
        """Where what `host` needs is built."""
        return self.places.get(host, "controller")

    def runs(self, observer: Observer) -> list[HostRun]:
        return [HostRun(host, self.sessions.get(host.host), observer) for host in self.plan.hosts]
