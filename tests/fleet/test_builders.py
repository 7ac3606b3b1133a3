"""A host that builds for the controller: what it is sent, what is taken from it, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.agent.messages import ExportRequest, ObserveRequest, PathMessage
from reconciler.core.build.events import BuildEvent, BuildLimits
from reconciler.core.build.realise import BuildsError, realise
from reconciler.core.errors import BuildError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from reconciler.fleet.builders import Builder, order
from reconciler.fleet.session import Session
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.connection import ConnectOptions
from tests.core.agent.agents import agent
from tests.core.build.helpers import derivation, output
from tests.fleet.values import path
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

CONTENTS = b"fixed\n"


class Sending:
    """What passes between a builder and the controller's sink; `tamper` may send something else instead."""

    def __init__(self, sink: Any, tamper: Tamper) -> None:
        self._sink = sink
        self._tamper = tamper
        self._message: PathMessage | None = None
        self._data = b""

    def begin(self, message: PathMessage) -> None:
        self._message, self._data = message, b""

    def write(self, data: bytes) -> None:
        self._data += data

    def end(self, _: PathMessage) -> None:
        assert self._message is not None
        for message, data in self._tamper(self._message, self._data):
            self._sink.begin(message)
            self._sink.write(data)
            self._sink.end(message)


Sent = list[tuple[PathMessage, bytes]]
Tamper = Callable[[PathMessage, bytes], Sent]


class Between:
    """An agent whose exports go through somebody's hands."""

    def __init__(self, real: Any, tamper: Tamper) -> None:
        self._real = real
        self._tamper = tamper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def export(self, request: ExportRequest, sink: Any) -> Any:
        return self._real.export(request, Sending(sink, self._tamper))


def honest(message: PathMessage, data: bytes) -> Sent:
    return [(message, data)]


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[Builder]:
    """A builder called build01: a real agent over a store of its own."""
    with agent(tmp_path / "build01") as client:
        session = Session("build01", ConnectionSettings("build01"), ConnectOptions())
        session.client, session.observation = client, client.observe(ObserveRequest())
        yield Builder(session, limits=BuildLimits(timeout=60))


def graph(store: Store) -> dict[str, StorePath]:
    """`top` refers to `base`, which comes along; `tool` is needed to build it, and no more; `fixed` has a hash."""
    base = derivation(store, "base", "echo base > $out")
    tool = derivation(store, "tool", "echo tool > $out")
    script = f"test -s {output(store, tool)}; echo {output(store, base)} > $out"
    digest = Hash.sha256(CONTENTS).base16
    fixed = derivation(
        store,
        "fixed",
        "echo fixed > $out",
        outputs={"out": Output(None, "sha256", digest)},
        outputHash=digest,
        outputHashAlgo="sha256",
        outputHashMode="flat",
    )
    top = derivation(store, "top", script, [base, tool])
    return {"base": base, "tool": tool, "fixed": fixed, "top": top}


def make(builder: Builder, store: Store, *wanted: StorePath) -> list[str]:
    """Build; the names of what the builder said it had built."""
    heard: list[BuildEvent] = []
    builder.make(store, wanted, heard.append)
    return [StorePath.parse(event.derivation).name for event in heard if event.kind == "done"]


def test_what_is_built_there_comes_back_with_what_it_refers_to_and_no_more(
    builder: Builder, store: Store, nix: RealNix
) -> None:
    drv = graph(store)
    built = make(builder, store, drv["top"], drv["fixed"])
    assert sorted(built) == ["base.drv", "fixed.drv", "tool.drv", "top.drv"]
    assert Path(store.real(output(store, drv["top"]))).read_text() == f"{output(store, drv['base'])}\n"
    assert not store.is_valid(output(store, drv["tool"]))
    info = store.info(output(store, drv["top"]))
    assert (info.deriver, info.references, info.ca, info.ultimate) == (
        drv["top"],
        (output(store, drv["base"]),),
        "",
        False,
    )
    assert store.info(output(store, drv["fixed"])).ca == f"fixed:{Hash.sha256(CONTENTS).nix}"
    nix.verify()


def test_what_is_here_goes_along_and_is_not_built_again(builder: Builder, store: Store) -> None:
    drv = graph(store)
    realise(store, [drv["tool"]])
    assert sorted(make(builder, store, drv["top"])) == ["base.drv", "top.drv"]
    placed = order(store, [drv["top"]])
    assert placed.to_build == {drv["top"]}  # now that base is here too
    assert placed.inputs == {output(store, drv["base"]), output(store, drv["tool"])}


def test_what_fails_there_is_told_and_the_rest_is_made(builder: Builder, store: Store) -> None:
    drv = graph(store)
    bad = derivation(store, "bad", "echo it went wrong; exit 1")
    after = derivation(store, "after", "touch $out", [bad])
    with pytest.raises(BuildsError) as caught:
        make(builder, store, after, drv["top"])
    (error,) = caught.value.errors.values()
    assert list(caught.value.errors) == [bad]
    assert error.message.startswith("bad could not be built: the builder failed with exit status 1")
    assert error.message.endswith("\n  it went wrong")
    assert (error.hint or "").startswith("on build01: the whole log: ")
    assert store.is_valid(output(store, drv["top"]))


def test_limits_go_along(builder: Builder, store: Store) -> None:
    builder.limits = BuildLimits(timeout=1.0)
    with pytest.raises(BuildsError) as caught:
        make(builder, store, derivation(store, "slow", "sleep 100"))
    assert "took longer than 1 s and was killed" in caught.value.message
    assert "on build01: more is allowed in reconciler.yml, by  builds: {time: 12h}" in (caught.value.hint or "")


def test_a_builder_of_another_system_is_told_with_both(builder: Builder, store: Store) -> None:
    assert builder.session.observation is not None
    own = builder.session.observation.system
    other = derivation(store, "other", "touch $out", system="sparc-linux")
    needs = derivation(store, "needs", "touch $out", [other])
    fine = derivation(store, "fine", "touch $out")
    with pytest.raises(BuildsError) as caught:
        make(builder, store, needs, fine)
    assert {path.name: error.message for path, error in caught.value.errors.items()} == {
        "needs.drv": f"other is to be built on sparc-linux, and the builder build01 is {own}"
    }
    assert caught.value.hint == (
        "build_on, or --build-on, names a host that is sparc-linux; reconciler.yml says what a builder is:  "
        f"builders: [build01: {{system: {own}}}]"
    )
    assert store.is_valid(output(store, fine))


def test_another_toolchain_is_refused_by_the_builder(builder: Builder, store: Store) -> None:
    with pytest.raises(
        BuildError, match="is to be built with the toolchain host-0123, and this host has host-"
    ) as error:
        make(builder, store, derivation(store, "odd", "touch $out", toolchain="host-0123"))
    assert (error.value.hint or "").startswith("on build01: `toolchain: host` ties a package")


def test_a_builder_that_is_not_fit_is_told_and_not_asked_again(builder: Builder, store: Store) -> None:
    assert builder.session.observation is not None
    builder.session.observation = replace(builder.session.observation, problems=("python3 lacks sqlite3", "more"))
    for _ in range(2):
        with pytest.raises(BuildError, match=r"^the builder build01 is not fit: python3 lacks sqlite3$") as error:
            make(builder, store, derivation(store, "base", "touch $out"))
        assert error.value.hint == "reconciler doctor --hosts build01"


def test_a_builder_without_room_is_told_with_both_sizes(builder: Builder, store: Store) -> None:
    assert builder.session.observation is not None
    builder.session.observation = replace(builder.session.observation, store_free=100)
    with pytest.raises(BuildError, match=r"^build01: 0\.0 MiB are needed for its builds, and 0\.0 MiB are free"):
        make(builder, store, derivation(store, "base", "touch $out"))


def test_what_there_is_nothing_to_build_of_asks_no_builder(builder: Builder, store: Store) -> None:
    builder.session.close()
    assert make(builder, store) == []
    assert builder.session.client is None


def _only(name: str, message: PathMessage) -> bool:
    return message.path.endswith(f"-{name}")


def _other_contents(message: PathMessage, data: bytes) -> Sent:
    return [(message, data.replace(b"base\n", b"evil\n"))]


def _other_fixed_contents(message: PathMessage, data: bytes) -> Sent:
    data = data.replace(CONTENTS, b"evil!\n")
    return [(replace(message, nar_hash=Hash.sha256(data).nix), data)]


def _another_path(message: PathMessage, data: bytes) -> Sent:
    archive = nar.encode(nar.File(b"evil"))
    intruder = PathMessage(str(path("openssl-3")), Hash.sha256(archive).nix, len(archive), ())
    return [(intruder, archive), (message, data)]


def _hidden_reference(message: PathMessage, data: bytes) -> Sent:
    return [(replace(message, references=()), data)]


def _invented_reference(message: PathMessage, data: bytes) -> Sent:
    return [(replace(message, references=(*message.references, message.path)), data)]


def _foreign_reference(message: PathMessage, data: bytes) -> Sent:
    return [(replace(message, references=(*message.references, str(path("openssl-3")))), data)]


def _nothing(message: PathMessage, data: bytes) -> Sent:
    return []


def _trailing(message: PathMessage, data: bytes) -> Sent:
    return [(message, data + bytes(8))]


def _twice(message: PathMessage, data: bytes) -> Sent:
    return [(message, data), (message, data)]


def _enormous(message: PathMessage, data: bytes) -> Sent:
    return [(replace(message, nar_size=2**60), data)]


LIES: dict[str, tuple[str, Tamper, str]] = {
    "other contents": ("base", _other_contents, "its contents are not those registered"),
    "other contents of a fixed output": ("fixed", _other_fixed_contents, "its content address says sha256:"),
    "a path that nobody asked for": ("base", _another_path, "-openssl-3, which it was not asked for"),
    "a reference that it hides": ("top", _hidden_reference, "it does not say that this refers to /nix/store/"),
    "a reference that is not there": ("base", _invented_reference, "it says that this refers to /nix/store/"),
    "a reference to what is not here": ("base", _foreign_reference, "-openssl-3, and the contents are otherwise"),
    "a path twice": ("top", _twice, "-top, which it was not asked for"),
    "a size that nobody has": ("base", _enormous, "for which there is no room here"),
    "nothing": ("top", _nothing, "which it said it had built"),
    "more than it announced": ("base", _trailing, "it has more bytes than are registered"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_builder_that_lies_puts_nothing_into_the_store(
    builder: Builder, store: Store, nix: RealNix, lie: str
) -> None:
    drv = graph(store)
    about, tamper, answer = LIES[lie]
    asked = [drv["fixed"]] if about == "fixed" else [drv["top"]]

    def changed(message: PathMessage, data: bytes) -> Sent:
        return tamper(message, data) if _only(about, message) else honest(message, data)

    builder.session.client = Between(builder.session.client, changed)  # type: ignore[assignment]
    before = {row.path for row in store.rows()}
    with pytest.raises(BuildError) as error:
        make(builder, store, *asked)
    assert error.value.message.startswith("the builder build01 failed: ")
    assert answer in error.value.message
    added = {row.path for row in store.rows()} - before
    # What came before the lie, and is right, may stay.
    honestly = ["base"] * (about == "top") + ["top"] * (lie == "a path twice")
    assert added <= {str(output(store, drv[name])) for name in honestly}
    nix.verify()
    with pytest.raises(BuildError) as again:
        make(builder, store, drv["tool"])
    assert again.value is error.value, "it is not asked twice"


def test_the_same_hands_when_they_are_honest_change_nothing(builder: Builder, store: Store) -> None:
    drv = graph(store)
    builder.session.client = Between(builder.session.client, honest)  # type: ignore[assignment]
    make(builder, store, drv["top"], drv["fixed"])
    assert store.is_valid(output(store, drv["top"]))
    assert store.is_valid(output(store, drv["fixed"]))
