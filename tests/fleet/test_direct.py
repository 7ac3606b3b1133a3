"""What a host could not fetch by itself is sent to it: those paths, in an order in which they can become valid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.core.agent.messages import (
    ImportReply,
    MissingReply,
    MissingRequest,
    PathMessage,
    SubstituteReply,
    SubstituteRequest,
)
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.store import Store
from reconciler.fleet.direct import Direct
from reconciler.fleet.events import Silent
from reconciler.packages.cache import push
from reconciler.packages.keys import SecretKey
from reconciler.packages.supplies import Supply
from tests.core.store.test_store import add

KEY = SecretKey("cache.test-1", b"k" * 32)


class Agent:
    """A host that cannot fetch what `refuses` names, and makes nothing valid before its references are."""

    def __init__(self, refuses: Sequence[str], silent: bool = False) -> None:
        self.refuses = refuses
        self.silent = silent
        self.valid: set[str] = set()
        self.imported: list[str] = []

    def missing(self, request: MissingRequest) -> MissingReply:
        return MissingReply(tuple(path for path in request.paths if path not in self.valid))

    def substitute(self, request: SubstituteRequest, _: Callable[[dict[str, Any]], None]) -> SubstituteReply:
        fetched, failed = [], {}
        for path in request.paths:
            if self.silent:
                continue
            if any(path.path.endswith(name) for name in self.refuses):
                failed[path.path] = "cache.example: \x1b[31mconnection refused"
            elif self._ready(path):
                self.valid.add(path.path)
                fetched.append(path.path)
        return SubstituteReply(tuple(fetched), 10**15, failed | {"/nix/store/of-nobody": "asked"})

    def import_paths(
        self, infos: Sequence[PathMessage], read: Callable[[str], Iterator[bytes]], _: object
    ) -> ImportReply:
        for path in infos:
            assert self._ready(path), f"{path.path} came before what it refers to"
            assert sum(map(len, read(path.path))) == path.nar_size
            self.valid.add(path.path)
            self.imported.append(StorePath.parse(path.path).name)
        return ImportReply(len(infos), 0)

    def _ready(self, path: PathMessage) -> bool:
        return {name for name in path.references if name != path.path} <= self.valid


@pytest.fixture
def supply(tmp_path: Path) -> Supply:
    """a <- b <- c <- d, and e alone."""
    with Store.open(str(tmp_path / "source"), create=True) as store:
        made: list[StorePath] = []
        for name in "abcd":
            needs = tuple(made[-1:])
            made.append(add(store, f"path-{name}", nar.File(f"{needs}".encode()), needs))
        made.append(add(store, "path-e", nar.File(b"alone")))
        push(store, made, str(tmp_path / "cache"), KEY)
        infos = tuple(store.infos(made))
    return Supply(Caches([BinaryCache(str(tmp_path / "cache"), [KEY.public])]), infos)


def fetch(store: Store, supply: Supply, agent: Agent) -> Any:
    session = SimpleNamespace(agent=agent, client=agent)
    plan = SimpleNamespace(host="web01", observation=None)
    run: Any = SimpleNamespace(live=session, plan=plan, sent=0, fetched=0, notes=[])
    direct = Direct(["web01"], SimpleNamespace(), store, Silent())  # type: ignore[arg-type]
    direct._given["web01"] = [supply]
    direct.fetch(run)
    assert {str(info.path) for info in supply.paths} == agent.valid
    return run


REFUSED: Mapping[str, tuple[str, ...]] = {
    "none": (),
    "the first": ("path-a",),
    "the last": ("path-d",),
    "every other one": ("path-a", "path-c"),
    "two that belong together": ("path-b", "path-c"),
    "all": ("path-a", "path-b", "path-c", "path-d", "path-e"),
}


@pytest.mark.parametrize("which", REFUSED)
def test_exactly_what_was_refused_is_sent(store: Store, supply: Supply, which: str) -> None:
    agent = Agent(REFUSED[which])
    run = fetch(store, supply, agent)
    assert sorted(agent.imported) == sorted(REFUSED[which])
    sizes = {info.path.name: info.nar_size for info in supply.paths}
    assert run.sent == sum(sizes[name] for name in REFUSED[which])
    assert run.fetched == sum(sizes.values()) - run.sent, "not what the host says"
    reason = "cache.example: \ufffd[31mconnection refused"
    said = f"web01: {len(REFUSED[which])} of 5 paths came through the controller: {reason}"
    assert run.notes == ([said] if REFUSED[which] else [])


def test_a_host_that_says_nothing_of_what_it_was_asked_for_gets_all_from_here(store: Store, supply: Supply) -> None:
    agent = Agent((), silent=True)
    run = fetch(store, supply, agent)
    assert len(agent.imported) == 5
    assert run.notes == ["web01: 5 of 5 paths came through the controller: it was not registered"]


def test_what_this_controller_cannot_have_either_is_an_error_with_a_way_out(
    store: Store, supply: Supply, tmp_path: Path
) -> None:
    for archive in (tmp_path / "cache/nar").iterdir():
        archive.write_bytes(b"")
    with pytest.raises(StoreError, match="path-a cannot be had") as error:
        fetch(store, supply, Agent(("path-a",)))
    assert error.value.hint == "deploy --substitute-on controller: what caches do not have is then built"
