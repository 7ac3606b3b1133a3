"""generations and history, read from the hosts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from reconciler.core.agent.messages import (
    Generation,
    HistoryEntry,
    HistoryRequest,
    ObserveRequest,
    ProfilesRequest,
)
from reconciler.core.errors import ReconcilerError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.executor import Threads
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, as_ours, close_all
from reconciler.transport.client import AgentClient

T = TypeVar("T")


@dataclass(frozen=True)
class HostGenerations:
    """By profile, oldest first; or the error that kept them from being read."""

    host: str
    profiles: dict[ProfileId, tuple[Generation, ...]]
    error: ReconcilerError | None = None


@dataclass(frozen=True)
class HostHistory:
    """The lines of one host's history, oldest first."""

    host: str
    entries: tuple[HistoryEntry, ...]
    error: ReconcilerError | None = None


def generations(project: Project, selection: Selection, forks: int | None) -> tuple[HostGenerations, ...]:
    """The generations of the selected profiles of the selected hosts."""

    def read(session: Session, agent: AgentClient) -> HostGenerations:
        found = agent.generations(ProfilesRequest()).profiles
        profiles = {ProfileId.parse(name): listed for name, listed in sorted(found.items())}
        return HostGenerations(session.host, {p: g for p, g in profiles.items() if selection.includes(p)})

    return each_host(project, selection, forks, read, lambda host, error: HostGenerations(host, {}, error))


def history(project: Project, selection: Selection, forks: int | None, limit: int) -> tuple[HostHistory, ...]:
    """The newest `limit` lines of each selected host's history."""

    def read(session: Session, agent: AgentClient) -> HostHistory:
        entries = agent.history(HistoryRequest(limit)).entries
        return HostHistory(session.host, tuple(e for e in entries if selection.includes(ProfileId.parse(e.profile))))

    return each_host(project, selection, forks, read, lambda host, error: HostHistory(host, (), error))


def each_host(
    project: Project,
    selection: Selection,
    forks: int | None,
    read: Callable[[Session, AgentClient], T],
    failed: Callable[[str, ReconcilerError], T],
) -> tuple[T, ...]:
    """What `read` says of each selected host, `failed` of one where it raises; every login is ended."""
    names = selection.names(project.inventory)
    sessions = [Session(name, project.inventory.connection(name), project.connect) for name in names]
    executor = Threads(project.forks(forks))

    def one(session: Session) -> T:
        try:
            session.probe(ObserveRequest())
            return read(session, session.agent)
        except ReconcilerError as error:
            return failed(session.host, error)
        except Exception as error:
            return failed(session.host, as_ours(error, session.host))

    try:
        return tuple(executor.run(one, sessions))
    finally:
        close_all(sessions, executor)
