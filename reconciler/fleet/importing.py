"""import: what hosts' profiles hold, whoever made them; and, when asked, those packages into the controller's store."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from reconciler.core.agent.messages import ExportRequest, Holding, HoldingsRequest, PathMessage
from reconciler.core.agent.paths import from_message
from reconciler.core.errors import FormatError, ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.core.store.batch import Batch
from reconciler.core.store.store import Store
from reconciler.fleet.look import each_host
from reconciler.fleet.project import Project
from reconciler.fleet.select import Selection
from reconciler.fleet.session import Session
from reconciler.inventory.schema import DEFAULT_ARCHITECTURE
from reconciler.transport.client import AgentClient

# Below gcroots/ of the controller's store: what was copied from hosts stays until these links are removed.
ROOTS = "reconciler-import"


@dataclass(frozen=True)
class HostHoldings:
    """One host: its profiles and Nix's word for its architecture; or the error that kept them from being read.
    `copied`: how many store paths came here."""

    host: str
    profiles: tuple[Holding, ...] = ()
    system: str = DEFAULT_ARCHITECTURE
    error: ReconcilerError | None = None
    copied: int = 0


def holdings(project: Project, selection: Selection, forks: int | None, copy: bool) -> tuple[HostHoldings, ...]:
    """What the selected hosts hold. With `copy` the closures of their packages are valid here afterwards; hosts are
    then taken one after the other, for they fill one store."""

    def read(session: Session, agent: AgentClient) -> HostHoldings:
        found = agent.holdings(HoldingsRequest(closure=copy))
        meant = tuple(each for each in found.profiles if selection.includes(ProfileId.parse(each.profile)))
        copied = _copy(project, agent, meant, found.closure) if copy else 0
        return HostHoldings(session.host, meant, found.system, copied=copied)

    return each_host(
        project, selection, 1 if copy else forks, read, lambda host, error: HostHoldings(host, error=error)
    )


def _copy(project: Project, agent: AgentClient, profiles: Sequence[Holding], valid: Sequence[str]) -> int:
    """How many paths came here; `valid` are the closures of all packages of the host."""
    closure = [StorePath.parse(path) for path in valid]
    wanted = {package.path for holding in profiles for package in holding.packages} & set(valid)
    packages = [StorePath.parse(path) for path in sorted(wanted)]
    with project.open_store() as store:
        store.add_temp_roots(closure)
        have = store.valid(closure)
        lacking = [path for path in packages if path not in have]
        if not lacking:
            _root(store, packages)
            return 0
        with store.batch() as batch:
            sink = _Taker(batch, set(closure))
            reply = agent.export(ExportRequest(tuple(map(str, lacking)), tuple(sorted(map(str, have)))), sink)
        _root(store, packages)
    return len(reply.paths)


def _root(store: Store, packages: Sequence[StorePath]) -> None:
    for path in packages:
        store.add_root(f"{ROOTS}/{path.base_name}", path)


class _Taker:
    """Puts what a host exports into the controller's store. A path's archive waits in a file until it is whole."""

    def __init__(self, batch: Batch, expected: set[StorePath]) -> None:
        self._batch = batch
        self._expected = expected
        self._file: IO[bytes] | None = None

    def begin(self, path: PathMessage) -> None:
        if StorePath.parse(path.path) not in self._expected:
            raise FormatError(f"the host sent {path.path}, which nobody asked for")
        self._file = tempfile.TemporaryFile(prefix="reconciler-")  # noqa: SIM115  (closed when the path ends)

    def write(self, data: bytes) -> None:
        assert self._file is not None
        self._file.write(data)

    def end(self, path: PathMessage) -> None:
        assert self._file is not None
        with self._file as file:
            file.seek(0)
            self._batch.add_nar(from_message(path), file)
