"""Builds spread over builders, each a real agent over a store of its own."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.build.events import BuildEvent, BuildLimits
from reconciler.core.build.realise import BuildsError
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, LinkLostError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from reconciler.fleet.builders import Builder
from reconciler.fleet.choosing import Maker, Makers
from reconciler.fleet.events import Silent
from reconciler.fleet.pool import Heard, Pool
from reconciler.fleet.session import Session
from reconciler.inventory.desired import ConnectionSettings
from reconciler.inventory.settings import Settings
from reconciler.transport.connection import ConnectOptions
from tests.core.agent.agents import agent
from tests.core.build.helpers import derivation, output
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

BUILD01 = Maker("build01", (host_system(),), ("gpu",), listed=True)
BUILD02 = Maker("build02", (host_system(),), ("big-parallel", "gpu"), listed=True)


class Heads:
    """What was heard, as `build01 done top`."""

    def __init__(self) -> None:
        self.all: list[str] = []

    def __call__(self, where: str) -> Any:
        def heard(event: BuildEvent) -> None:
            if event.kind != "log":
                name = StorePath.parse(event.derivation).name.removesuffix(".drv")
                self.all.append(f"{where} {event.kind} {name}")

        return heard

    def of(self, kind: str) -> list[str]:
        return sorted(f"{line.split()[0]} {line.split()[2]}" for line in self.all if line.split()[1] == kind)


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    """A pool that is logged in to build01 and build02 already; packages are built on builders."""
    project: Any = SimpleNamespace(settings=Settings())
    with contextlib.ExitStack() as stack, Pool(project, Makers(listed=(BUILD01, BUILD02)), Silent()) as made:
        made.otherwise = "builders"
        for maker in (BUILD01, BUILD02):
            client = stack.enter_context(agent(tmp_path / maker.name))
            session = Session(maker.name, ConnectionSettings(maker.name), ConnectOptions())
            session.client, session.observation = client, client.observe(ObserveRequest())
            builder = Builder(session, 1, False, BuildLimits(timeout=60), maker.runs, maker.features)
            made._idle[maker.name] = [builder]
        yield made


def make(pool: Pool, store: Store, *wanted: StorePath) -> Heads:
    heard = Heads()
    listening: Heard = heard
    pool.make(store, wanted, listening)
    return heard


def test_what_does_not_need_each_other_is_built_side_by_side(pool: Pool, store: Store, nix: RealNix) -> None:
    left, right = (derivation(store, name, f"sleep 1; echo {name} > $out") for name in ("left", "right"))
    both = derivation(store, "both", f"cat {output(store, left)} {output(store, right)} > $out", [left, right])
    heard = make(pool, store, both)
    assert sorted(line.split()[0] for line in heard.of("done") if "both" not in line) == ["build01", "build02"]
    assert [line.split()[1] for line in heard.all[:2]] == ["start", "start"], "both began before one was done"
    assert Path(store.real(output(store, both))).read_text() == "left\nright\n"
    assert make(pool, store, both).all == [], "what is there is made by nobody"
    nix.verify()


def test_features_and_places_decide_within_one_graph(pool: Pool, store: Store) -> None:
    base = derivation(store, "base", "echo base > $out")
    large = derivation(
        store, "large", f"cat {output(store, base)} > $out", [base], requiredSystemFeatures="big-parallel"
    )
    here = derivation(store, "here", f"cat {output(store, large)} > $out", [large])
    pool.places = {base: ("build01",), here: ("controller",)}
    heard = make(pool, store, here, large, base)
    assert heard.of("done") == ["build01 base", "build02 large", "here here"]
    assert Path(store.real(output(store, here))).read_text() == "base\n"


def test_a_build_that_fails_is_not_tried_again_and_the_rest_is_made(pool: Pool, store: Store) -> None:
    bad = derivation(store, "bad", "echo it went wrong; exit 1")
    after = derivation(store, "after", "touch $out", [bad])
    fine = derivation(store, "fine", "touch $out")
    heard = Heads()
    with pytest.raises(BuildsError) as caught:
        pool.make(store, [after, fine], heard)
    assert list(caught.value.errors) == [bad]
    assert len(heard.of("failed")) == 1
    assert store.is_valid(output(store, fine))
    assert pool.notes == []


def test_what_nobody_can_build_fails_alone(pool: Pool, store: Store) -> None:
    odd = derivation(store, "odd", "touch $out", requiredSystemFeatures="kvm")
    fine = derivation(store, "fine", "touch $out")
    with pytest.raises(BuildsError) as caught:
        make(pool, store, odd, fine)
    assert list(caught.value.errors) == [odd]
    assert "with kvm, and nobody has that, where it is to be built (builders): build01" in caught.value.message
    assert store.is_valid(output(store, fine))


def test_a_builder_without_room_is_passed_over(pool: Pool, store: Store) -> None:
    (builder,) = pool._idle["build01"]
    assert builder.session.observation is not None
    builder.session.observation = replace(builder.session.observation, store_free=100)
    fine = derivation(store, "fine", "touch $out")
    assert make(pool, store, fine).of("done") == ["build02 fine"]
    (note,) = pool.notes
    assert note.startswith("build01: 0.0 MiB are needed for its builds")
    assert note.endswith("; fine is built on build02")


class _Cut:
    """An agent whose link breaks when it is to build."""

    def __init__(self, real: Any) -> None:
        self._real = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def realise(self, *_: object) -> Any:
        raise LinkLostError("build01: the connection was lost")


def test_a_lost_builder_is_not_asked_again_and_another_takes_over(pool: Pool, store: Store) -> None:
    (builder,) = pool._idle["build01"]
    builder.session.client = _Cut(builder.session.client)  # type: ignore[assignment]
    one, other = (derivation(store, name, "touch $out") for name in ("one", "other"))
    heard = make(pool, store, one, other)
    assert heard.of("done") == ["build02 one", "build02 other"]
    (note,) = pool.notes
    assert note.startswith("the builder build01 was lost: build01: the connection was lost; ")
    assert note.endswith(" is built on build02")
    # For what only it may build there is nobody left.
    alone = derivation(store, "alone", "touch $out")
    pool.places = {alone: ("build01",)}
    with pytest.raises(BuildsError, match=r"^the builder build01 was lost: ") as caught:
        make(pool, store, alone)
    assert list(caught.value.errors) == [alone]
    # Where a second place is said, that counts then.
    pool.places = {alone: ("build01", "controller")}
    assert make(pool, store, alone).of("done") == ["here alone"]


def test_a_builder_may_run_programs_of_other_systems(pool: Pool, store: Store) -> None:
    """It is taken at its word: what is no program of any system is executed."""
    program = derivation(store, "program", "printf '\\177ELF of another kind' > $out; chmod 755 $out")
    found = str(output(store, program))
    odd = derivation(store, "odd", "", [program], builder=found, system="sparc-linux", toolchain="")
    (builder,) = pool._idle["build02"]
    pool.makers = Makers(listed=(Maker("build02", ("sparc-linux", host_system()), listed=True),))
    with pytest.raises(BuildError, match="is to be built on sparc-linux, and the builder build02 is "):
        make(pool, store, odd)
    builder.systems = ("sparc-linux",)
    with pytest.raises(BuildError, match=r"odd could not be built: executing .*: Exec format error"):
        make(pool, store, odd)
