"""doctor: is a host fit for deployments, and if not, what is to be done about it?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reconciler.core.agent.messages import Observation, ObserveRequest
from reconciler.core.errors import ExitStatus, ReconcilerError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Threads
from reconciler.fleet.plan import not_of_login
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, close_all, how_to_bring, probe_all
from reconciler.fleet.systems import other_system
from reconciler.inventory.desired import ConnectionSettings


@dataclass(frozen=True)
class Fitness:
    """`facts` describe a fit host; `problem` and `remedy` an unfit one. `brought`: the store path of the Python that
    was brought to it now."""

    host: str
    facts: str = ""
    problem: str = ""
    remedy: str = ""
    status: ExitStatus = ExitStatus.OK
    brought: str = ""

    @property
    def ready(self) -> bool:
        return not self.problem


def doctor(project: Project, selection: Selection, forks: int | None, observer: Observer) -> tuple[Fitness, ...]:
    """Log in to each selected host and judge it; nothing is left on it."""
    names = selection.names(project.inventory)
    sessions = [Session(name, project.inventory.connection(name), project.connect) for name in names]
    executor = Threads(project.forks(forks))
    observer.phase_begins(Phase.PROBE, names)
    try:
        probe_all(sessions, [probe_request(project, name) for name in names], executor)
        return tuple(_offered(project, session, judge(project, session, selection)) for session in sessions)
    finally:
        close_all(sessions, executor)
        observer.phase_ends(Phase.PROBE, "")


def _offered(project: Project, session: Session, found: Fitness) -> Fitness:
    """With what would be brought to a host that has Nix and no fit Python."""
    if session.nix is None or foreign_to(project, session) is not None:
        return found
    reference, system = project.settings.python, project.inventory.desired(session.host).architecture
    try:
        what = project.resolver.resolve(reference, system).output.name
    except ReconcilerError as error:
        what = f"one ({error.message}: reconciler.yml names another by `python:`)"
    other = found.remedy.rpartition("; or ")[2]
    remedy = f"{how_to_bring(session.nix, what)}; or {other}"
    return replace(found, remedy=remedy)


def probe_request(project: Project, host: str) -> ObserveRequest:
    desired = project.inventory.desired(host)
    return ObserveRequest(tuple(desired.users), places=tuple(desired.places))


def foreign_to(project: Project, session: Session) -> ReconcilerError | None:
    """What is wrong where a host is of another system than the inventory says, as far as it says what it is."""
    if session.observation is not None:
        found = session.observation.system
    else:
        found = session.nix.system if session.nix is not None else ""
    return other_system(project.inventory.desired(session.host), found) if found else None


def judge(project: Project, session: Session, selection: Selection | None = None) -> Fitness:
    """One host, from its probe; with `selection`, for the profiles that it names."""

    def meant(profile: ProfileId) -> bool:
        return selection is None or selection.includes(profile)

    observed, foreign = session.observation, foreign_to(project, session)
    if session.error is not None or observed is None:
        return _unfit(session.host, foreign or session.error or ReconcilerError("the probe gave nothing"))
    wanted = [profile for profile in project.inventory.desired(session.host).profiles if meant(profile)]
    others = not_of_login(session.host, wanted, observed)
    if others is not None and not observed.problems:
        return replace(_unfit(session.host, others), facts=_facts(observed, session.settings))
    states = [state for state in observed.profiles if meant(ProfileId.parse(state.profile))]
    problems = [*observed.problems, *(state.problem for state in states if state.problem)]
    if problems:
        facts = _facts(observed, session.settings)
        return Fitness(session.host, facts, "; ".join(problems), _remedy(problems), ExitStatus.FAILED)
    if foreign is not None:
        return replace(_unfit(session.host, foreign), facts=_facts(observed, session.settings))
    return Fitness(session.host, _facts(observed, session.settings))


# What a probe finds wrong, by the words that tell it, and what helps. A profile's problem brings its own remedy.
_REMEDIES = (
    ("not root", "ansible_become: true, or log in as root"),
    ("has no sqlite3", "install it there, or name another: ansible_python_interpreter"),
    ("has no ctypes", "install it there, or name another: ansible_python_interpreter"),
    ("is a link", "make it a directory, or a mount point"),
    ("mounted read-only", "mount it writable"),
)


def _remedy(problems: Sequence[str]) -> str:
    known = (remedy for problem in problems for sign, remedy in _REMEDIES if sign in problem)
    return "; ".join(dict.fromkeys(known))


def _unfit(host: str, error: ReconcilerError) -> Fitness:
    return Fitness(host, problem=error.message.removeprefix(f"{host}: "), remedy=error.hint or "", status=error.status)


def _facts(observed: Observation, settings: ConnectionSettings) -> str:
    parts = [
        observed.os,
        f"Python {observed.python}",
        _who(observed, settings),
        f"/nix {observed.store_free / 2**30:.0f} GiB free",
        f"systemd {observed.systemd}" if observed.systemd else "no systemd",
    ]
    return ", ".join([*parts, *([f"Nix {observed.nix}"] if observed.nix else [])])


def _who(observed: Observation, settings: ConnectionSettings) -> str:
    if observed.login:
        return f"{observed.login} by its Nix daemon"
    if settings.become:
        return "root by sudo"
    return "root" if observed.uid == 0 else f"uid {observed.uid}"
