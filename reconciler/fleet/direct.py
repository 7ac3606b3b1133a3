"""Hosts that fetch from binary caches by themselves (`substitute_on: target`).

The controller asks the caches what there is, and verifies that; the archives go from the cache to the host. What a host
cannot get, this controller fetches, once for all hosts, and sends: exactly those paths, and the report says why.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.core.agent.messages import CacheMessage, MissingRequest, PathMessage, SubstituteRequest
from reconciler.core.agent.paths import to_message
from reconciler.core.errors import LinkLostError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import SubstituteEvent, substitute
from reconciler.fleet.events import Observer
from reconciler.fleet.rollout import HostRun
from reconciler.fleet.sending import Bundle, require_room, send
from reconciler.packages.model import Package
from reconciler.packages.supplies import Supplies, Supply
from reconciler.transport.text import printable

# A path that came through here may be what others wait for. Who waits for longer than so often gets all from here.
_ROUNDS = 4
_REASONS = 3  # different ones that a report shows of one host
_HINT = "deploy --substitute-on controller: what caches do not have is then built"


@dataclass
class _Tally:
    """How the paths of one host came: how many were lacking, and why those that came through here did."""

    lacking: int = 0
    relayed: dict[str, str] = field(default_factory=dict)

    def words(self, host: str) -> str:
        reasons = list(dict.fromkeys(self.relayed.values()))
        more = f"; and {len(reasons) - _REASONS} other reasons" if len(reasons) > _REASONS else ""
        said = "; ".join(reasons[:_REASONS])
        return f"{host}: {len(self.relayed)} of {self.lacking} paths came through the controller: {said}{more}"


class Direct:
    """`hosts`: those that fetch by themselves. For all others it does nothing."""

    def __init__(self, hosts: Collection[str], supplies: Supplies, store: Store, observer: Observer) -> None:
        self._hosts = frozenset(hosts)
        self._supplies = supplies
        self._store = store
        self._observer = observer
        self._given: dict[str, list[Supply]] = {}
        self._relaying = threading.Lock()

    def has(self, host: str, package: Package) -> bool:
        """Whether `host` gets a package by itself; it is then neither made nor fetched here."""
        return host in self._hosts and self._supplies.has(package)

    def prepare(self, host: str, packages: Iterable[Package], built: Iterable[Package]) -> None:
        """Find out what `host` is to fetch: of its packages, and of what those that it builds are made from."""
        if host in self._hosts:
            had = [package for package in packages if self._supplies.has(package)]
            self._given[host] = self._supplies.of(had, built)

    def fetches(self, host: str) -> frozenset[StorePath]:
        """What `host` is to fetch, after `prepare`."""
        return frozenset(info.path for supply in self._given.get(host, ()) for info in supply.paths)

    def fetch(self, run: HostRun) -> None:
        """Have the host fetch what it lacks, and send it what it could not get."""
        tally = _Tally()
        for supply in self._given.get(run.plan.host, ()):
            self._fetch(run, supply, tally)
        if tally.relayed:
            run.notes.append(tally.words(run.plan.host))

    def _fetch(self, run: HostRun, supply: Supply, tally: _Tally) -> None:
        known = tuple(map(to_message, supply.paths))
        lacking = set(run.live.agent.missing(MissingRequest(tuple(path.path for path in known))).missing)
        waiting = [path for path in known if path.path in lacking]
        require_room(run, sum(path.nar_size for path in waiting))
        tally.lacking += len(waiting)
        for _ in range(_ROUNDS):
            if not waiting:
                return
            failed, waiting = self._ask(run, supply, waiting)
            if not failed:
                break
            tally.relayed |= failed
            ready = _ready([path for path in known if path.path in failed], waiting)
            self._relay(run, supply, ready)
            waiting = [path for path in known if path in waiting or (path.path in failed and path not in ready)]
        if waiting:
            tally.relayed |= {path.path: tally.relayed.get(path.path, "it was not registered") for path in waiting}
            self._relay(run, supply, waiting)

    def _ask(
        self, run: HostRun, supply: Supply, wanted: Sequence[PathMessage]
    ) -> tuple[dict[str, str], list[PathMessage]]:
        """One request to the host: why it could not get some of the paths, and those that wait for others."""
        host = run.plan.host

        def tell(event: Mapping[str, object]) -> None:
            done, total = event.get("done"), event.get("total")
            if isinstance(done, int) and isinstance(total, int):
                self._observer.copying(host, done, total)

        caches = tuple(
            CacheMessage(cache.public_url or "", tuple(map(str, cache.keys)), order)
            for order, cache in enumerate(supply.public)
        )
        reply = run.live.agent.substitute(SubstituteRequest(tuple(wanted), caches), tell)
        fetched = set(reply.fetched)
        run.fetched += sum(path.nar_size for path in wanted if path.path in fetched)
        names = [path.path for path in wanted if path.path in reply.failed and path.path not in fetched]
        failed = {name: printable(reply.failed[name]) for name in names}
        return failed, [path for path in wanted if path.path not in fetched and path.path not in failed]

    def _relay(self, run: HostRun, supply: Supply, paths: Sequence[PathMessage]) -> None:
        """Send paths out of this controller's store, which gets them from the caches first."""
        if not paths:
            return
        names = [StorePath.parse(path.path) for path in paths]

        def heard(event: SubstituteEvent) -> None:
            if run.live.client is None:
                raise LinkLostError(f"{run.plan.host}: the run was interrupted")
            self._observer.fetching("here", event)

        with self._relaying:  # who comes second finds them there
            try:
                substitute(self._store, supply.caches, names, on_event=heard)
            except StoreError as error:
                raise StoreError(error.message, error.hint or _HINT) from error
        infos = tuple(to_message(info) for info in self._store.infos(names))
        send(run, Bundle(infos), self._nar, self._observer)

    def _nar(self, path: str) -> Iterator[bytes]:
        return nar.dump(self._store.real(StorePath.parse(path)))


def _ready(failed: Sequence[PathMessage], waiting: Sequence[PathMessage]) -> list[PathMessage]:
    """Those of `failed`, references first, that can be valid now: nothing that they need is still waiting."""
    later = {path.path for path in waiting}
    ready = []
    for path in failed:
        if later.intersection(path.references):
            later.add(path.path)
        else:
            ready.append(path)
    return ready
