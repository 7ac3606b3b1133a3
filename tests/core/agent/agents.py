"""Agents on this machine, below a root directory of the test's own."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from reconciler.core.agent.messages import PathMessage
from reconciler.core.agent.paths import to_message
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.client import AgentClient
from reconciler.transport.connection import connect


@contextlib.contextmanager
def agent(root: Path, python: str = sys.executable, keep_cached: bool = False) -> Iterator[AgentClient]:
    """An agent that takes `root` for the host's root directory."""
    root.mkdir(exist_ok=True)
    settings = ConnectionSettings("here", connection="local", python=python)
    connection = connect(settings)
    client = AgentClient.start(connection, settings, keep_cached=keep_cached, root=str(root))
    try:
        yield client
    finally:
        client.close()
        connection.close()


def messages(store: Store, *paths: StorePath) -> tuple[PathMessage, ...]:
    """What is said of the closure of `paths`, references first."""
    return tuple(to_message(store.info(path)) for path in store.closure(paths))
