"""The operations that are put to the test, each on a small host of its own, with what must hold before and after.

A host's links hold the absolute path of its root, so every case uses the same root directory again.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.agent import lock, profiles
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import ProfileChange
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation, Output, with_outputs
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import prune
from reconciler.core.profile.generations import Profile
from reconciler.core.profile.names import ProfileId
from reconciler.core.store.binary_cache import BinaryCache, Caches
from reconciler.core.store.exporting import export_paths, import_paths
from reconciler.core.store.gc import GcOptions
from reconciler.core.store.gc import collect as collect_garbage
from reconciler.core.store.optimise import optimise as optimise_store
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.repair import repair_path
from reconciler.core.store.store import Store
from reconciler.core.store.substitute import substitute_known
from reconciler.packages.cache import push
from reconciler.packages.instantiate import instantiate
from reconciler.packages.keys import SecretKey
from reconciler.packages.model import Graph
from reconciler.packages.sources import TextSource
from tests.core.agent.hosts import begin, stage_all, switch, to
from tests.core.profile.homes import make_root
from tests.core.profile.packages import make_environment, make_toplevel
from tests.faults.checker import Expected
from tests.faults.child import Operate

BIG = 1_500_000  # bytes of the largest file: more than a page or a stream's chunk, less than a second's work
_LICENCE = b"Permission is granted to whoever reads this, to the end.\n" * 40


@dataclass(frozen=True)
class Sent:
    """Paths as they come over a link: what is said of each, and its archive; references first."""

    paths: tuple[tuple[PathInfo, bytes], ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(str(info.path) for info, _ in self.paths)


@dataclass(frozen=True)
class Scenario:
    """`prepare` makes the host in an empty directory; `operate` is what is disturbed. `right_before`: whether real
    Nix has nothing to say about the host before it."""

    name: str
    prepare: Callable[[Path], None]
    operate: Operate
    expected: Expected
    right_before: bool = True


# --- packages ---------------------------------------------------------------------------------------------------------


def _package(store: Store, name: str, version: str, references: Iterable[StorePath] = (), big: int = 0) -> StorePath:
    """A program, a link to it, a licence that all packages have, and data of `big` bytes."""
    program = f"#!/bin/sh\necho {name} {version}\n"
    data: dict[str, nar.Node] = {"LICENCE": nar.File(_LICENCE), "empty": nar.File(b"")}
    references = tuple(sorted(references))
    if references:
        data["needs"] = nar.File("\n".join(map(str, references)).encode())
    if big:
        data["numbers"] = nar.File(random.Random(name).randbytes(big))
    files: dict[str, nar.Node] = {
        "bin": nar.Directory({name: nar.File(program.encode(), True), f"{name}-link": nar.Link(name)}),
        "share": nar.Directory({name: nar.Directory(data)}),
    }
    return store.add_tree(f"{name}-{version}", nar.Directory(files), references)


@dataclass(frozen=True)
class World:
    """System profiles and user environments in the order in which they are deployed, and where they come from."""

    source: Store
    systems: tuple[StorePath, ...]
    users: tuple[StorePath, ...]

    @classmethod
    def make(cls, directory: Path) -> World:
        source = Store.open(str(directory), create=True)
        library = _package(source, "library", "1.0")
        first = _package(source, "tally", "1.0", [library])
        second = _package(source, "tally", "2.0", [library])
        data = _package(source, "data", "1.0", [library], big=BIG)
        systems = tuple(make_toplevel(source, *packages) for packages in ((first,), (second,), (second, data)))
        users = tuple(make_environment(source, package) for package in (first, data))
        return cls(source, systems, users)

    def closure(self, *paths: StorePath) -> frozenset[str]:
        return frozenset(map(str, self.source.closure(paths)))

    def sent(self, *paths: StorePath) -> Sent:
        infos = self.source.infos(self.source.closure(paths))
        return Sent(tuple((info, b"".join(self.source.nar(info.path))) for info in infos))


# --- steps ------------------------------------------------------------------------------------------------------------


def _receive(root: str, sent: Sent) -> None:
    """What the agent's `import` verb does with a stream of archives."""
    with Store.open(root, create=True) as store, store.batch() as batch:
        for info, archive in sent.paths:
            batch.add_nar(info, io.BytesIO(archive))


def _deploy(root: str, deployment: str, wanted: Mapping[str, StorePath], sent: Sent | None = None) -> None:
    """One deployment as an agent carries it out: lock, copy, stage, switch."""
    host = Host(root)
    begin(host, deployment)
    try:
        with host.open_store() as keeping:
            if sent is not None:
                keeping.add_temp_roots([info.path for info, _ in sent.paths])
                _receive(root, sent)
            if problems := stage_all(host, wanted):
                raise StoreError(f"not staged: {problems}")
            switch(host, *(_change(host, profile, path) for profile, path in wanted.items()))
    finally:
        lock.release(host)


def _change(host: Host, profile: str, path: StorePath, number: int = 0) -> ProfileChange:
    return to(profile, path, profiles.find(host, ProfileId.parse(profile)).current, number)


def _roll_back(root: str, path: StorePath, number: int) -> None:
    host = Host(root)
    begin(host, "k3")
    try:
        change = _change(host, "system", path, number)
        switch(host, change, kind="rollback", undoes="k2")
    finally:
        lock.release(host)


def _keep(root: Path, name: str, path: StorePath) -> None:
    with Store.open(str(root)) as store:
        store.add_root(name, path)


# --- the hosts --------------------------------------------------------------------------------------------------------


def _managed(world: World) -> Callable[[Path], None]:
    """A host with two deployments behind it."""
    sent = world.sent(*world.systems[:2], world.users[0])

    def prepare(root: Path) -> None:
        make_root(root)
        first, second = world.systems[:2]
        _deploy(str(root), "k1", {"system": first, "user/alice": world.users[0]}, sent)
        _deploy(str(root), "k2", {"system": second})

    return prepare


def add(world: World) -> Scenario:
    """A closure is copied to the host, under a root that is there before the first byte."""
    sent = world.sent(world.systems[2])

    def operate(root: str) -> None:
        with Store.open(root) as store:
            store.add_root("reconciler/system", world.systems[2])
        _receive(root, sent)

    return Scenario("add", _managed(world), operate, _expected(world, gained=sent.names))


def switching(world: World) -> Scenario:
    """What lies in the store already becomes the system's and a user's next generation."""
    wanted = {"system": world.systems[2], "user/alice": world.users[1]}
    sent = world.sent(*wanted.values())
    managed = _managed(world)

    def prepare(root: Path) -> None:
        managed(root)
        _receive(str(root), sent)
        for number, path in enumerate(wanted.values()):
            _keep(root, f"arrived-{number}", path)

    def operate(root: str) -> None:
        _deploy(root, "k3", wanted)

    after = {profile: str(path) for profile, path in wanted.items()}
    return Scenario("switch", prepare, operate, _expected(world, after, gained=sent.names))


def first(world: World) -> Scenario:
    """The first deployment of a host: /nix is made, everything is copied, and the system and a user are switched."""
    wanted = {"system": world.systems[0], "user/alice": world.users[0]}
    sent = world.sent(*wanted.values())

    def prepare(root: Path) -> None:
        make_root(root)

    def operate(root: str) -> None:
        _deploy(root, "k1", wanted, sent)

    after = {profile: str(path) for profile, path in wanted.items()}
    expected = Expected(dict.fromkeys(wanted, ""), after, frozenset(), sent.names)
    return Scenario("first deployment", prepare, operate, expected)


def rollback(world: World) -> Scenario:
    """The system goes back to its recorded first generation."""

    def operate(root: str) -> None:
        _roll_back(root, world.systems[0], 1)

    expected = _expected(world, {"system": str(world.systems[0])}, told=2)
    return Scenario("rollback", _managed(world), operate, expected)


def collect(world: World) -> Scenario:
    """Two live systems among dead paths, unregistered files and stale locks; the dead goes."""
    sent = world.sent(world.systems[2])
    managed = _managed(world)

    def prepare(root: Path) -> None:
        managed(root)
        _receive(str(root), sent)
        left = root / "nix/store/00000000000000000000000000000000-left"
        (left / "bin").mkdir(parents=True)
        (left / "bin/half").write_bytes(b"half of a fi")
        left.with_name(f"{left.name}.lock").touch()
        (root / "nix/var/nix/temproots/999999999").touch()

    def operate(root: str) -> None:
        with Store.open(root) as store:
            collect_garbage(store, GcOptions())

    live = _expected(world).kept
    return Scenario("gc", prepare, operate, _expected(world, lost=sent.names - live))


def clean(world: World) -> Scenario:
    """The system's old generation is deleted, and what only it needed is collected."""

    def operate(root: str) -> None:
        with Profile(f"{root}/nix/var/nix/profiles/system", None).open() as generations:
            prune.delete(generations, prune.Form("old"))
        with Store.open(root) as store:
            collect_garbage(store, GcOptions())

    kept = world.closure(world.systems[1], world.users[0])
    expected = _expected(world, lost=world.closure(world.systems[0]) - kept)
    return Scenario("clean", _managed(world), operate, replace(expected, kept=kept))


def optimise(world: World) -> Scenario:
    """Equal files of several packages become one."""
    scenario = switching(world)

    def operate(root: str) -> None:
        with Store.open(root) as store:
            optimise_store(store)

    names = frozenset(scenario.expected.gained)
    expected = replace(_expected(world, gained=names), reshapes=True)
    return Scenario("optimise", scenario.prepare, operate, expected)


def repair(world: World) -> Scenario:
    """A live package whose files have rotted is put right from its archive."""
    rotten = next(path for path in world.source.closure([world.systems[1]]) if path.name == "tally-2.0")
    info, archive = world.source.info(rotten), b"".join(world.source.nar(rotten))
    managed = _managed(world)

    def prepare(root: Path) -> None:
        managed(root)
        file = root / str(rotten).lstrip("/") / "bin/tally"
        size = file.stat().st_size
        with open(file, "r+b") as opened:
            opened.write(b"\0" * size)
        os.utime(file, ns=(10**9, 10**9))

    def operate(root: str) -> None:
        with Store.open(root) as store:
            repair_path(store, io.BytesIO(archive), info)

    return Scenario("repair", prepare, operate, _expected(world, broken=frozenset({str(rotten)})), right_before=False)


def import_stream(world: World) -> Scenario:
    """An export stream is imported."""
    sent = world.sent(world.systems[2])
    stream = bytearray()
    export_paths(world.source, [info.path for info, _ in sent.paths], stream.extend)

    def operate(root: str) -> None:
        with Store.open(root) as store:
            store.add_root("imported", world.systems[2])
            import_paths(store, io.BytesIO(bytes(stream)))

    return Scenario("import", _managed(world), operate, _expected(world, gained=sent.names))


def instantiating(world: World) -> Scenario:
    """A graph of derivations is written, all in one batch, with the text that they are made from."""
    source = TextSource.of("builder.sh", b"echo $needs > $out\n")
    made: dict[StorePath, Derivation] = {}
    for number in range(6):
        name, needed = f"step-{number}", dict.fromkeys(list(made)[-2:], ("out",))
        environment = {"name": name, "needs": " ".join(map(str, needed)), "out": ""}
        blank = Derivation(
            {"out": Output(None)}, needed, (source.path,), host_system(), "/bin/sh", (str(source.path),), environment
        )
        whole = with_outputs(blank, name, made.__getitem__)
        made[whole.path(name)] = whole
    last = list(made)[-1]

    def operate(root: str) -> None:
        with Store.open(root) as store:
            store.add_root("instantiated", last)
            instantiate(Graph(made, {source.path: source}), store)

    gained = frozenset(map(str, (source.path, *made)))
    return Scenario("instantiate", _managed(world), operate, _expected(world, gained=gained))


def substituting(world: World) -> Scenario:
    """The host takes a closure from a binary cache by itself, as the agent does, one path at a time."""
    sent = world.sent(world.systems[2])
    cache, key = f"{world.source.root}/cache", SecretKey("cache.test-1", bytes(32))
    push(world.source, [world.systems[2]], cache, key, compression="none", jobs=1)

    def operate(root: str) -> None:
        with Store.open(root) as store, contextlib.closing(Caches([BinaryCache(cache, [key.public], 1)])) as caches:
            store.add_root("reconciler/system", world.systems[2])
            result = substitute_known(store, caches, [info for info, _ in sent.paths], jobs=1)
            for error in result.failed.values():
                raise error

    return Scenario("substitute", _managed(world), operate, _expected(world, gained=sent.names))


def _expected(
    world: World,
    after: Mapping[str, str] | None = None,
    *,
    gained: frozenset[str] = frozenset(),
    lost: frozenset[str] = frozenset(),
    broken: frozenset[str] = frozenset(),
    told: int = 1,
) -> Expected:
    """What is expected of a `_managed` host."""
    before = {"system": str(world.systems[1]), "user/alice": str(world.users[0])}
    kept = world.closure(*world.systems[:2], world.users[0])
    return Expected(before, {**before, **(after or {})}, kept, gained, lost, broken, told)


SCENARIOS: Mapping[str, Callable[[World], Scenario]] = {
    "first": first,
    "add": add,
    "switch": switching,
    "rollback": rollback,
    "gc": collect,
    "clean": clean,
    "optimise": optimise,
    "repair": repair,
    "import": import_stream,
    "substitute": substituting,
    "instantiate": instantiating,
}
