"""A run that is planned and not yet carried out: what the command line shows, and asks about."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from reconciler.core.agent.messages import HistoryEntry
from reconciler.fleet.ask import NOTHING_TO_ASK, Question
from reconciler.fleet.choosing import Placement
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


@dataclass(frozen=True)
class Site:
    """Builds, by their names, that any of `places` may make: `controller`, `target` (each host) or hosts' names."""

    places: tuple[str, ...]
    builds: tuple[str, ...]


@dataclass
class Prepared:
    """The plan, with the logins that it was made over. Leaving the `with` block ends them.

    `builds`: the packages that would be built. `fetches`: what would come from caches. `copy_bytes`: by host, what
    would be copied, where all of it is in this
    controller's store already. `nothing`: by host, why a rollback has nothing to do there. `told`: what a host's
    history says of the deployment that a rollback undoes. `seconds`: how long the probe took.
    `placement`: where what each host needs is built; `sites`: which builds would be made where, as far as they are
    made elsewhere than in the environments of profiles. `notes`: what went wrong beside the hosts, for the report.
    `adopt`: whether what something else made may be replaced. `fetch_there`: the hosts that fetch from caches by
    themselves.
    """

    project: Project
    facts: RunFacts
    plan: Plan
    sessions: dict[str, Session]
    executor: Executor
    pattern: str = ""
    placement: Placement = field(default_factory=Placement)
    targets: Targets | None = None
    question: Question = NOTHING_TO_ASK
    builds: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    fetches: Fetches = NO_FETCHES
    copy_bytes: dict[str, int] = field(default_factory=dict)
    nothing: dict[str, str] = field(default_factory=dict)
    told: HistoryEntry | None = None
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)
    adopt: bool = False
    fetch_there: frozenset[str] = frozenset()

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
