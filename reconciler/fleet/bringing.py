"""doctor --bring-python: a Python for hosts that have Nix and none of their own that is fit.

Without an agent nothing can be said of a host's profiles, so this comes before any plan, on its own. The package is
the project's (`python:` in reconciler.yml), made valid in the controller's store, copied by the host's own Nix, and
kept there by a root at which every later login finds it (transport/interpreters.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from reconciler.core.agent.host import PYTHON_ROOT
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.fleet.ask import Question, about_python
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.doctor import Fitness, foreign_to, judge, probe_request
from reconciler.fleet.events import Observer, Phase
from reconciler.fleet.executor import Executor, Threads
from reconciler.fleet.locking import require_locked
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session, as_ours, close_all, probe_all
from reconciler.packages.model import Package
from reconciler.transport.connection import connect
from reconciler.transport.nix_program import set_root
from reconciler.transport.nix_serve import ServeClient

INTERPRETER = "bin/python3"


@dataclass(frozen=True)
class Bringing:
    """What was found of the hosts, in the inventory's order, and the package for each of those that lack a Python and
    whose Nix takes one from us."""

    project: Project
    found: tuple[Fitness, ...]
    packages: Mapping[str, Package]
    question: Question
    executor: Executor


def prepare(
    project: Project, selection: Selection, forks: int | None, observer: Observer, *, locked: bool = False
) -> Bringing:
    """Log in to each selected host and judge it; nothing is changed anywhere. UsageError when the package is not
    there, or with `locked` is not in the lock."""
    names = selection.names(project.inventory)
    executor = Threads(project.forks(forks))
    sessions = _probed(project, names, executor, observer)
    lacking = [
        session.host
        for session in sessions
        if session.nix is not None and session.nix.uid == 0 and foreign_to(project, session) is None
    ]
    packages = {
        host: project.resolver.resolve(project.settings.python, project.inventory.desired(host).architecture)
        for host in lacking
    }
    if locked:
        require_locked(project)
    wanted = ", ".join(dict.fromkeys(package.output.name for package in packages.values()))
    protected = [host for host in lacking if project.inventory.protected(host)]
    question = about_python(lacking, wanted, selection.hosts, protected)
    return Bringing(project, tuple(judge(project, session) for session in sessions), packages, question, executor)


def execute(bringing: Bringing, observer: Observer) -> tuple[Fitness, ...]:
    """Bring it, and judge the hosts again; what went wrong on one host is told there, and keeps no other from it."""
    if not bringing.packages:
        return bringing.found
    project = bringing.project
    hosts = tuple(bringing.packages)
    with project.open_store() as store:
        carrier = _Carrier(bringing, store, _made(bringing, store, observer), observer)
        observer.phase_begins(Phase.STAGE, hosts)
        bringing.executor.run(carrier.bring, hosts)
        observer.phase_ends(Phase.STAGE, "")
    failures = carrier.failures
    good = [host for host in hosts if host not in failures]
    again = {session.host: judge(project, session) for session in _probed(project, good, bringing.executor, observer)}
    for host, fitness in again.items():
        again[host] = replace(fitness, brought=str(bringing.packages[host].output))
    failed = {host: _failed(host, error) for host, error in failures.items()}
    return tuple({**again, **failed}.get(each.host, each) for each in bringing.found)


def _probed(project: Project, hosts: Sequence[str], executor: Executor, observer: Observer) -> list[Session]:
    sessions = [Session(host, project.inventory.connection(host), project.connect) for host in hosts]
    observer.phase_begins(Phase.PROBE, tuple(hosts))
    try:
        probe_all(sessions, [probe_request(project, host) for host in hosts], executor)
    finally:
        close_all(sessions, executor)
        observer.phase_ends(Phase.PROBE, "")
    return sessions


def _made(bringing: Bringing, store: Store, observer: Observer) -> dict[StorePath, list[PathInfo]]:
    """Each package's closure, valid in the controller's store, references before referrers."""
    packages = tuple({package.output: package for package in bringing.packages.values()}.values())
    workshop = Workshop(store, bringing.project.resolver, observer, os.cpu_count() or 1)
    store.add_temp_roots([package.output for package in packages])
    workshop.build(packages)
    for package in packages:
        if not os.access(os.path.join(store.real(package.output), INTERPRETER), os.X_OK):
            raise UsageError(
                f"{package.output} has no {INTERPRETER}",
                "reconciler.yml: `python:` names a package with a Python 3.9 or newer",
            )
    closures = {package.output: store.infos(store.closure([package.output])) for package in packages}
    store.add_temp_roots([info.path for infos in closures.values() for info in infos])
    return closures


@dataclass(frozen=True)
class _Carrier:
    """Takes the closures to the hosts; `failures` gets why it could not, by host."""

    bringing: Bringing
    store: Store
    closures: Mapping[StorePath, Sequence[PathInfo]]
    observer: Observer
    failures: dict[str, ReconcilerError] = field(default_factory=dict)

    def bring(self, host: str) -> None:
        try:
            self._bring(host)
        except Exception as error:
            self.failures[host] = as_ours(error, host)

    def _bring(self, host: str) -> None:
        """Copy, then root, while the Nix that took the copy still keeps it."""
        project, output = self.bringing.project, self.bringing.packages[host].output
        settings = project.inventory.connection(host)
        connection = connect(settings, project.connect)
        try:
            with ServeClient.start(connection, settings.become) as nix:
                nix.copy(self.closures[output], self._nar, lambda done, total: self.observer.copying(host, done, total))
                set_root(connection, settings.become, PYTHON_ROOT, output)
        finally:
            connection.close()

    def _nar(self, path: StorePath) -> Iterator[bytes]:
        return nar.dump(self.store.real(path))  # files only: the database belongs to one thread


def _failed(host: str, error: ReconcilerError) -> Fitness:
    problem = error.message.removeprefix(f"{host}: ")
    return Fitness(host, problem=f"no Python was brought: {problem}", remedy=error.hint or "", status=error.status)
