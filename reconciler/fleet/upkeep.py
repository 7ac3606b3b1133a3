"""Looking after the stores of hosts: gc, verify, optimise; one login a host, hosts side by side.

A gc first asks every host what would go, over the logins that then do it. `here` stands for the controller's own
store, on which the same is done without a login.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Protocol

from reconciler.core import values
from reconciler.core.agent.messages import (
    COLLECTED_NAMES,
    FINDINGS,
    CollectReply,
    CollectRequest,
    FindingMessage,
    OptimiseReply,
    OptimiseRequest,
    VerifyReply,
    VerifyRequest,
)
from reconciler.core.errors import ExitStatus, UsageError, worst
from reconciler.core.profile.names import ProfileId
from reconciler.core.profile.prune import Form, Retention
from reconciler.core.store import gc, optimise, verify
from reconciler.core.store.gc import GcOptions, GcResult
from reconciler.core.store.store import Store
from reconciler.fleet.ask import about_gc
from reconciler.fleet.logins import Foreseen, HostResult, Logins, Stage, status
from reconciler.fleet.project import Project, who
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session

# What the controller's own store is called among hosts.
HERE = "(here)"


class Heard(Protocol):
    """Told how far a host has come; from several threads, must not raise."""

    def __call__(self, host: str, event: Mapping[str, Any]) -> None: ...


def telling(heard: Heard, host: str) -> Callable[[Mapping[str, Any]], None]:
    """What a host's events are given to. They are data: what is not as it should be is not shown."""

    def tell(event: Mapping[str, Any]) -> None:
        count, size = event.get("count"), event.get("bytes")
        if isinstance(count, int) and isinstance(size, int):
            shown = {"kind": str(event.get("kind", "")), "path": str(event.get("path", "")), "count": count}
            heard(host, {**shown, "bytes": size})

    return tell


# --- gc ---------------------------------------------------------------------------------------------------------------


@dataclass
class Cleaning(Foreseen[CollectReply]):
    """What a gc would delete. `requests`: what each host is asked; `store`: the controller's own, if that is meant."""

    requests: Mapping[str, CollectRequest] = field(default_factory=dict)
    store: Store | None = None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, value, trace)
        if self.store is not None:
            self.store.close()


def prepare_gc(
    project: Project, selection: Selection, asked: Retention | Form | None, forks: int | None, heard: Heard
) -> Cleaning:
    """Ask every selected host what would go; nothing is changed. `asked` stands for whatever the inventory says.
    UsageError when no host has a profile that is named."""
    names = selection.names(project.inventory)
    keep = {name: asked or project.inventory.desired(name).keep or project.settings.keep for name in names}
    requests = {name: _request(name, how, selection) for name, how in keep.items()}
    logins = Logins.of(project, names, forks)

    def foresee(session: Session) -> HostResult[CollectReply]:
        reply = session.agent.collect(requests[session.host], telling(heard, session.host))
        return _planned(session.host, reply)

    hosts = logins.foresee(foresee)
    try:
        _require_there(project, selection, hosts)
    except UsageError:
        logins.__exit__(None, None, None)
        raise
    going = [host.host for host in hosts if host.stage is Stage.PLANNED]
    protected = [name for name in names if project.inventory.protected(name)]
    generations = sum(len(one.goes) for host in hosts if host.reply for one in host.reply.profiles)
    return Cleaning(hosts, about_gc(going, generations, selection.hosts, protected), logins, requests)


def _request(host: str, how: Retention | Form, selection: Selection) -> CollectRequest:
    """What a host is asked what would go by."""
    kept = how if isinstance(how, Retention) else Retention()
    delete = how.words if isinstance(how, Form) else ()
    return CollectRequest(
        True,
        who(),
        host,
        kept.generations,
        kept.days,
        delete=delete,
        system=selection.system,
        users=selection.users,
        places=selection.profiles,
    )


def _require_there(project: Project, selection: Selection, hosts: Sequence[HostResult[CollectReply]]) -> None:
    """UsageError for a part of the selection that is nowhere; none while a host could not say what it has."""
    replies = [host.reply for host in hosts if host.reply is not None]
    if len(replies) == len(hosts):
        managed = [ProfileId.parse(one.profile) for reply in replies for one in reply.profiles]
        selection.require_declared(project.inventory, [host.host for host in hosts], managed)


def _planned(host: str, reply: CollectReply) -> HostResult[CollectReply]:
    anything = reply.paths or any(one.goes for one in reply.profiles)
    return HostResult(host, Stage.PLANNED if anything else Stage.NOTHING, reply)


def execute_gc(cleaning: Cleaning, heard: Heard) -> tuple[HostResult[CollectReply], ...]:
    """Delete what was shown; how each host ended, in the inventory's order."""

    def delete(host: str, foreseen: CollectReply) -> CollectReply:
        if cleaning.store is not None:
            return _collect_here(cleaning.store, False, heard)
        request = values.replace(cleaning.requests[host], check=False, expect=foreseen.profiles)
        return cleaning.logins.sessions[host].agent.collect(request, telling(heard, host))

    return cleaning.execute(delete, "gc")


def prepare_gc_here(root: str, heard: Heard) -> Cleaning:
    """The same for the controller's own store, which has no generations: only what no root keeps."""
    store = Store.open(root)
    try:
        host = _planned(HERE, _collect_here(store, True, heard))
    except BaseException:
        store.close()
        raise
    going = [HERE] if host.stage is Stage.PLANNED else []
    question = replace(about_gc(going, 0, "", ()), text="Delete what nothing keeps in this controller's store?")
    return Cleaning((host,), question, store=store)


def _collect_here(store: Store, check: bool, heard: Heard) -> CollectReply:
    counter = Counter(heard)
    result: GcResult = gc.collect(
        store, GcOptions(dry_run=check), lambda event: counter.step(event.kind, event.path, event.freed)
    )
    names = result.deleted[:COLLECTED_NAMES]
    return CollectReply(True, (), len(result.deleted), names, result.freed, result.kept)


# --- verify, optimise -------------------------------------------------------------------------------------------------


def verify_hosts(
    project: Project, selection: Selection, contents: bool, forks: int | None, heard: Heard
) -> tuple[HostResult[VerifyReply], ...]:
    """What is wrong with each host's store."""

    def look(session: Session) -> HostResult[VerifyReply]:
        reply = session.agent.verify(VerifyRequest(contents), telling(heard, session.host))
        return HostResult(session.host, Stage.DONE if reply.store else Stage.NOTHING, reply)

    with Logins.of(project, selection.names(project.inventory), forks) as logins:
        return logins.each(look)


def verify_status(hosts: Iterable[HostResult[VerifyReply]]) -> ExitStatus:
    """9 where something is wrong with a store."""
    found = [ExitStatus.PENDING for host in hosts if host.reply is not None and host.reply.found]
    return worst([*found, status(hosts)])


def verify_here(root: str, contents: bool, heard: Heard) -> tuple[HostResult[VerifyReply], ...]:
    """What is wrong with the controller's own store."""
    counter = Counter(heard)
    with opened(root) as store:
        result = verify.verify(store, contents, None, lambda event: counter.step(event.kind, event.path, event.size))
    findings = tuple(FindingMessage(one.path, one.kind, one.detail, one.repairable) for one in result.findings)
    reply = VerifyReply(True, result.checked, result.bytes, len(findings), findings[:FINDINGS])
    return (HostResult(HERE, Stage.DONE, reply),)


def optimise_hosts(
    project: Project, selection: Selection, forks: int | None, heard: Heard
) -> tuple[HostResult[OptimiseReply], ...]:
    """Store equal files once, on each host."""

    def link(session: Session) -> HostResult[OptimiseReply]:
        request = OptimiseRequest(who(), session.host)
        reply = session.agent.optimise(request, telling(heard, session.host))
        return HostResult(session.host, Stage.DONE if reply.managed else Stage.NOTHING, reply)

    with Logins.of(project, selection.names(project.inventory), forks) as logins:
        return logins.each(link)


def optimise_here(root: str, heard: Heard) -> tuple[HostResult[OptimiseReply], ...]:
    """The same for the controller's own store."""
    counter = Counter(heard)
    with opened(root) as store:
        result = optimise.optimise(store, lambda event: counter.step(event.kind, event.path, event.freed))
    return (HostResult(HERE, Stage.DONE, OptimiseReply(True, result.files, result.freed)),)


@contextmanager
def opened(root: str) -> Iterator[Store]:
    """The controller's own store; StoreError when there is none."""
    with Store.open(root) as store:
        yield store


class Counter:
    """Makes of single steps here what a host's agent tells: how many there were of each kind."""

    def __init__(self, heard: Heard) -> None:
        self._heard = heard
        self._counts: dict[str, tuple[int, int]] = {}

    def step(self, kind: str, path: str, size: int) -> None:
        count, total = self._counts.get(kind, (0, 0))
        self._counts[kind] = count, total = count + 1, total + size
        self._heard(HERE, {"kind": kind, "path": path, "count": count, "bytes": total})
