"""leave: the management of hosts is undone. First every host says what would go, then, when nobody objects, it goes."""

from __future__ import annotations

from reconciler.core.agent.messages import LeaveReply, LeaveRequest
from reconciler.fleet.ask import about_leave
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.logins import Foreseen, HostResult, Logins, Stage
from reconciler.fleet.project import Project, who
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session


def prepare(project: Project, selection: Selection, forks: int | None, observer: Observer) -> Foreseen[LeaveReply]:
    """Ask every selected host what would go; nothing is changed."""
    names = selection.names(project.inventory)
    logins = Logins.of(project, names, forks)
    observer.phase_begins(Phase.PROBE, names)
    hosts = logins.foresee(_ask)
    observer.phase_ends(Phase.PROBE, "")
    going = [host.host for host in hosts if host.stage is Stage.PLANNED]
    protected = [name for name in names if project.inventory.protected(name)]
    return Foreseen(hosts, about_leave(going, selection.hosts, protected), logins)


def execute(leaving: Foreseen[LeaveReply]) -> tuple[HostResult[LeaveReply], ...]:
    """Undo the management of every host that has one; how each ended, in the inventory's order."""

    def leave(host: str, foreseen: LeaveReply) -> LeaveReply:
        return leaving.logins.sessions[host].agent.leave(LeaveRequest(False, who(), host, foreseen.profiles))

    return leaving.execute(leave, "leave")


def _ask(session: Session) -> HostResult[LeaveReply]:
    reply = session.agent.leave(LeaveRequest(check=True, host=session.host))
    return HostResult(session.host, Stage.PLANNED if reply.managed else Stage.NOTHING, reply)
