"""Store paths on their way to a host: what it lacks of them is sent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.agent.messages import MissingRequest, PathMessage
from reconciler.core.errors import StoreError
from reconciler.fleet.events import Observer

if TYPE_CHECKING:
    from reconciler.fleet.rollout import HostRun

# A host needs room for what it gets and for the database and directories that come with it.
ROOM_FACTOR = 1.05


@dataclass(frozen=True)
class Bundle:
    """Store paths to be sent, references before referrers."""

    paths: tuple[PathMessage, ...]

    @property
    def bytes(self) -> int:
        return sum(path.nar_size for path in self.paths)


def send(run: HostRun, bundle: Bundle, read: Callable[[str], Iterator[bytes]], observer: Observer) -> int:
    """Send what the host lacks of `bundle`; the number of bytes sent."""
    agent = run.live.agent
    lacking = set(agent.missing(MissingRequest(tuple(path.path for path in bundle.paths))).missing)
    wanted = Bundle(tuple(path for path in bundle.paths if path.path in lacking))
    if not wanted.paths:
        return 0
    require_room(run, wanted.bytes)
    done = 0

    def sent(count: int) -> None:
        nonlocal done
        done += count
        observer.copying(run.plan.host, done, wanted.bytes)

    agent.import_paths(wanted.paths, read, sent)
    run.sent += wanted.bytes
    return wanted.bytes


def require_room(run: HostRun, size: int) -> None:
    """StoreError where the host has no room for `size` bytes more in its store."""
    observed = run.plan.observation
    if observed is not None and size * ROOM_FACTOR > observed.store_free:
        needed, free = size / 2**20, observed.store_free / 2**20
        raise StoreError(
            f"{run.plan.host}: {needed:.1f} MiB are to be copied, and {free:.1f} MiB are free",
            hint="make room on the file system of /nix",
        )
