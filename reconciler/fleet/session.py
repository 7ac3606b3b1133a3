"""One login to one host, kept from the probe to the end of the run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.messages import Observation, ObserveRequest
from reconciler.core.errors import InternalError, LinkLostError, ReconcilerError
from reconciler.fleet.executor import Executor
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.client import AgentClient
from reconciler.transport.connection import Connection, ConnectOptions, connect
from reconciler.transport.errors import NotFit, PythonError
from reconciler.transport.interpreters import BROUGHT, interpreters
from reconciler.transport.nix_program import NixProgram, find_nix

# How an agent says that its Python lacks a module.
LACKING_MODULES = ("has no sqlite3", "has no ctypes")


@dataclass
class Session:
    """A host's connection and agent. `error` says why there is none; `nix` is what a host without a fit Python has."""

    host: str
    settings: ConnectionSettings
    options: ConnectOptions
    connection: Connection | None = None
    client: AgentClient | None = None
    observation: Observation | None = None
    error: ReconcilerError | None = None
    seconds: float = field(default=0.0)
    nix: NixProgram | None = None

    @property
    def agent(self) -> AgentClient:
        """The agent; LinkLostError when there is none any more."""
        if self.client is None:
            raise self.error or LinkLostError(f"{self.host}: not connected")
        return self.client

    def probe(self, request: ObserveRequest) -> Observation:
        """Log in when that has not been done, and look. Whatever goes wrong is kept in `error` and raised."""
        started = time.monotonic()
        try:
            if self.client is None:
                self.connection = connect(self.settings, self.options)
                self.client = self._start(self.connection)
            self.observation = self.client.observe(request)
            if self._python_is_short_of(self.observation):
                self._start_brought(request)
            self.error = None
        except Exception as error:
            self.close()
            self.error = as_ours(error, self.host)
            raise self.error from error
        finally:
            self.seconds = time.monotonic() - started
        return self.observation

    def _start(self, connection: Connection) -> AgentClient:
        """The agent, with the first Python that is fit for it; PythonError when none is, telling of a Nix that could
        take one."""
        own, brought = interpreters(self.settings)
        try:
            return AgentClient.start(connection, self.settings, python=own)
        except PythonError as error:
            first = error
        try:
            return AgentClient.start(connection, self.settings, python=brought)
        except PythonError:
            pass  # none was brought
        except NotFit as error:
            first = PythonError(f"{first.message}; the one that was brought: {error.message}", first.hint)
        self.nix = self._find_nix(connection)
        raise first if self.nix is None else _with_nix(first, self.nix)

    def _python_is_short_of(self, observed: Observation) -> bool:
        return any(sign in problem for problem in observed.problems for sign in LACKING_MODULES)

    def _start_brought(self, request: ObserveRequest) -> None:
        """Go on with the Python that was brought, where that is there and does better."""
        if self.connection is None:
            return
        with contextlib.suppress(NotFit):
            other = AgentClient.start(self.connection, self.settings, python=BROUGHT)
            if self.client is not None:
                self.client.close()
            self.client = other
            self.observation = other.observe(request)
            return
        self.nix = self._find_nix(self.connection)

    def _find_nix(self, connection: Connection) -> NixProgram | None:
        with contextlib.suppress(ReconcilerError):  # what keeps the agent from starting is what is told
            return find_nix(connection, self.settings.become)
        return None

    def close(self) -> None:
        """End the agent and the login; never raises."""
        for part in (self.client, self.connection):
            if part is not None:
                try:
                    part.close()
                except (OSError, ReconcilerError):
                    continue  # the peer is gone: there is nothing left to end
        self.client = self.connection = None


def _with_nix(error: PythonError, nix: NixProgram) -> PythonError:
    return PythonError(f"{error.message}; has Nix {nix.version}", f"{how_to_bring(nix)}; or {error.hint}")


def how_to_bring(nix: NixProgram, what: str = "one") -> str:
    """What to do about a host that has Nix, and no fit Python. The host is not named: a plan tells many alike."""
    if nix.uid != 0:
        return f"its Nix takes {what} from root: ansible_become: true, or log in as root"
    return f"reconciler doctor --bring-python --hosts … brings {what}"


def as_ours(error: Exception, host: str) -> ReconcilerError:
    """Any exception as one that can be told; what we did not foresee is our own fault, and says so."""
    if isinstance(error, ReconcilerError):
        return error
    told = f"{host}: {type(error).__name__}: {error}"
    return InternalError(told, hint="this is a fault of reconciler; please report it")


def probe_all(sessions: Sequence[Session], requests: Sequence[ObserveRequest], executor: Executor) -> None:
    """Probe every host; what failed is in its session's `error`."""

    def probe(pair: tuple[Session, ObserveRequest]) -> None:
        session, request = pair
        try:
            session.probe(request)
        except ReconcilerError as error:
            session.error = error

    executor.run(probe, list(zip(sessions, requests, strict=True)))


def close_all(sessions: Sequence[Session], executor: Executor) -> None:
    """Close every session, side by side."""
    executor.run(Session.close, sessions)
