"""A run that is planned and not yet carried out: what the command line shows, and asks about."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from reconciler.core.agent.messages import HistoryEntry
from reconciler.core.errors import RefusedError
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
    controller's store already. `nothing`: by host, why a rollback has nothing to do there. `seconds`: how long the
    probe took.
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
    seconds: float = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        close_all(tuple(self.sessions.values()), self.executor)

    @property
    def id(self) -> str:
        return self.facts.id

    def runs(self, observer: Observer) -> list[HostRun]:
        return [HostRun(host, self.sessions.get(host.host), observer) for host in self.plan.hosts]

    @property
    def brings_back(self) -> tuple[tuple[str, HistoryEntry], ...]:
        """What was rolled back and would be made current again, host by host."""
        return self.plan.undone

    def refusal(self) -> RefusedError | None:
        """The refusal to bring back what was rolled back; the way past it is `--again`."""
        if not self.brings_back:
            return None
        hosts = ", ".join(dict.fromkeys(host for host, _ in self.brings_back))
        entry = self.brings_back[0][1]
        what = self._named(entry)
        return RefusedError(
            f"this would bring back {what} on {hosts}, which {entry.who} rolled back"
            f" ({entry.deployment}{f': {entry.message!r}' if entry.message else ''})",
            hint="change the inventory, or deploy --again",
        )

    def _named(self, entry: HistoryEntry) -> str:
        """The packages that come back, as a person knows them."""
        for host in self.plan.changing:
            for change in host.changes:
                if entry.before is not None and change.to == entry.before.path:
                    named = [f"{c.name} {c.after}".strip() for c in change.packages if c.after or not c.before]
                    return ", ".join(named) or f"the {change.profile.label} profile of {entry.undoes}"
        return f"what {entry.undoes} had made"
