"""One login to one host, kept from the probe to the end of the run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.messages import Observation, ObserveRequest
from reconciler.core.errors import InternalError, LinkLostError, ReconcilerError
from reconciler.fleet.executor import Executor
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.client import AgentClient
from reconciler.transport.connection import Connection, ConnectOptions, connect


@dataclass
class Session:
    """A host's connection and agent. `error` says why there is none."""

    host: str
    settings: ConnectionSettings
    options: ConnectOptions
    connection: Connection | None = None
    client: AgentClient | None = None
    observation: Observation | None = None
    error: ReconcilerError | None = None
    seconds: float = field(default=0.0)

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
                self.client = AgentClient.start(self.connection, self.settings)
            self.observation = self.client.observe(request)
            self.error = None
        except Exception as error:
            self.close()
            self.error = as_ours(error, self.host)
            raise self.error from error
        finally:
            self.seconds = time.monotonic() - started
        return self.observation

    def close(self) -> None:
        """End the agent and the login; never raises."""
        for part in (self.client, self.connection):
            if part is not None:
                try:
                    part.close()
                except (OSError, ReconcilerError):
                    continue  # the peer is gone: there is nothing left to end
        self.client = self.connection = None


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
