"""Telling the controller how far work on a whole store has come: not each step, but often enough."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from reconciler.core.agent import stopping

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session

_EVERY = 0.25  # seconds


class Progress:
    """Counts steps of each kind. An event: `kind` and `path` of a step, the `count` of its kind and their `bytes`."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counts: dict[str, int] = {}
        self._bytes: dict[str, int] = {}
        self._told = 0.0

    def step(self, kind: str, path: str, size: int = 0) -> None:
        """One step has been made. LinkLostError when the controller is gone: the work ends here."""
        stopping.checkpoint()
        first = kind not in self._counts
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._bytes[kind] = self._bytes.get(kind, 0) + size
        now = time.monotonic()
        if first or now - self._told >= _EVERY:
            self._told = now
            shown = path.encode(errors="backslashreplace").decode()[:1000]
            self._session.event({"kind": kind, "path": shown, "count": self._counts[kind], "bytes": self._bytes[kind]})
