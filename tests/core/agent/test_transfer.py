"""Store paths to a host and back: verified, in batches, resumable; real Nix judges the store."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent.messages import BeginRequest, ExportRequest, MissingRequest, PathMessage
from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.conftest import make_writable
from tests.core.agent.agents import agent, messages
from tests.oracle import RealNix

BEGIN = BeginRequest("d1", "tester", "")


@pytest.fixture
def host_root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "host"
    root.mkdir()
    yield root
    make_writable(root)


@pytest.fixture
def closure(store: Store) -> tuple[PathMessage, ...]:
    """Two dozen paths: files, links, directories; one of several frames; references among them."""
    parts = [
        store.add_tree(f"part{number}", nar.Directory({"bin": nar.Directory({"p": nar.File(os.urandom(3000), True)})}))
        for number in range(20)
    ]
    big = store.add_tree("big", nar.Directory({"data": nar.File(os.urandom(1_500_000)), "empty": nar.File(b"")}))
    text = store.add_text("text", b"hello\n", [big])
    top = store.add_tree("top", nar.Directory({"big": nar.Link(str(big))}), [*parts, big, text])
    return messages(store, top)


def names(closure: tuple[PathMessage, ...]) -> tuple[str, ...]:
    return tuple(path.path for path in closure)


def reader(store: Store) -> object:
    return lambda path: store.nar(StorePath.parse(path))


@pytest.mark.nix
def test_a_closure_arrives_and_real_nix_finds_it_whole(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...]
) -> None:
    progress: list[int] = []
    with agent(host_root) as client:
        client.begin(BEGIN)
        assert client.missing(MissingRequest(names(closure))).missing == names(closure)
        reply = client.import_paths(closure, lambda path: store.nar(StorePath.parse(path)), progress.append)
        assert (reply.imported, reply.bytes) == (len(closure), sum(path.nar_size for path in closure))
        assert client.missing(MissingRequest(names(closure))).missing == ()
    assert sum(progress) == sum(path.nar_size for path in closure)
    RealNix(host_root).verify()
    with Store.open(str(host_root)) as arrived:
        assert messages(arrived, *(StorePath.parse(path) for path in names(closure))) == closure


def test_what_is_there_already_is_taken_again_without_harm(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...]
) -> None:
    with agent(host_root) as client:
        client.begin(BEGIN)
        for _ in range(2):
            assert client.import_paths(closure, lambda path: store.nar(StorePath.parse(path))).imported == len(closure)


def test_a_path_with_another_hash_is_refused_and_what_came_before_it_stays(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...]
) -> None:
    wrong = replace(closure[-1], nar_hash=closure[0].nar_hash)
    with agent(host_root) as client:
        client.begin(BEGIN)
        with pytest.raises(StoreError, match="its NAR's hash is"):
            client.import_paths((*closure[:-1], wrong), lambda path: store.nar(StorePath.parse(path)))
        assert client.missing(MissingRequest(names(closure))).missing == (closure[-1].path,)
        assert client.import_paths(closure[-1:], lambda path: store.nar(StorePath.parse(path))).imported == 1
    assert not [name for name in os.listdir(host_root / "nix/store") if name.endswith(".lock")]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("path", "/nix/store/../../etc/passwd"),
        ("path", "/etc/passwd"),
        ("nar_hash", "md5:0123"),
        ("nar_size", -1),
        ("references", ("/nix/store/x/y",)),
        ("deriver", "/tmp/x.drv"),
    ],
)
def test_what_is_said_of_a_path_is_checked_before_its_first_byte(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...], field: str, value: object
) -> None:
    wrong = replace(closure[0], **{field: value})
    with agent(host_root) as client:
        client.begin(BEGIN)
        with pytest.raises((FormatError, StoreError)):
            client.import_paths([wrong], lambda path: store.nar(StorePath.parse(closure[0].path)), deadline=20)


@pytest.mark.parametrize("change", ["longer", "shorter"])
def test_a_path_that_changed_under_the_controller_ends_the_copy_and_the_channel_goes_on(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...], change: str
) -> None:
    def lying(path: str) -> Iterator[bytes]:
        data = b"".join(store.nar(StorePath.parse(path)))
        if path == closure[3].path:
            data = data + b"x" * 8 if change == "longer" else data[:-8]
        yield data

    with agent(host_root) as client:
        client.begin(BEGIN)
        with pytest.raises(StoreError, match=f"its NAR is .*{change}"):
            client.import_paths(closure, lying)
        assert client.missing(MissingRequest(names(closure))).missing == names(closure)[3:]


def test_an_error_while_reading_is_raised_as_it_is(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...]
) -> None:
    def broken(path: str) -> Iterator[bytes]:
        yield b"some bytes"
        raise OSError(5, "Input/output error")

    with agent(host_root) as client:
        client.begin(BEGIN)
        with pytest.raises(OSError, match="Input/output error"):
            client.import_paths(closure, broken)
        assert client.missing(MissingRequest(names(closure))).missing == names(closure)


def test_what_arrived_before_the_link_was_cut_need_not_be_sent_again(store: Store, host_root: Path) -> None:
    parts = [store.add_tree(f"part{number}", nar.File(os.urandom(300_000))) for number in range(12)]
    closure = messages(store, *parts)
    with agent(host_root) as client:
        client.begin(BEGIN)

        def cut(path: str) -> Iterator[bytes]:
            if path == closure[-1].path:
                client.close()
            return store.nar(StorePath.parse(path))

        with pytest.raises(LinkLostError):
            client.import_paths(closure, cut)
    with agent(host_root) as client:
        client.begin(BEGIN)
        assert len(client.missing(MissingRequest(names(closure))).missing) < len(closure) / 2
        client.import_paths(closure, lambda path: store.nar(StorePath.parse(path)))
        assert client.missing(MissingRequest(names(closure))).missing == ()


class Collected:
    """A sink in memory."""

    def __init__(self) -> None:
        self.paths: dict[str, bytearray] = {}
        self.ended: list[str] = []

    def begin(self, path: PathMessage) -> None:
        self.current = self.paths.setdefault(path.path, bytearray())

    def write(self, data: bytes) -> None:
        self.current += data

    def end(self, path: PathMessage) -> None:
        self.ended.append(path.path)


def test_a_closure_comes_back_byte_for_byte_less_what_is_had(
    store: Store, host_root: Path, closure: tuple[PathMessage, ...]
) -> None:
    sink = Collected()
    with agent(host_root) as client:
        client.begin(BEGIN)
        client.import_paths(closure, lambda path: store.nar(StorePath.parse(path)))
        reply = client.export(ExportRequest((closure[-1].path,), have=(closure[0].path,)), sink)
        assert client.missing(MissingRequest(names(closure))).missing == ()
    assert sorted(path.path for path in reply.paths) == sorted(names(closure)[1:])
    assert sink.ended == [path.path for path in reply.paths]
    for name, data in sink.paths.items():
        assert bytes(data) == b"".join(store.nar(StorePath.parse(name)))


def test_an_export_of_what_is_not_there_is_refused(host_root: Path, closure: tuple[PathMessage, ...]) -> None:
    with agent(host_root) as client:
        client.begin(BEGIN)
        with pytest.raises(StoreError):
            client.export(ExportRequest((closure[0].path,)), Collected())
        assert client.missing(MissingRequest((closure[0].path,))).missing == (closure[0].path,)


def test_a_sink_that_fails_ends_the_channel(store: Store, host_root: Path, closure: tuple[PathMessage, ...]) -> None:
    class Full(Collected):
        def write(self, data: bytes) -> None:
            raise StoreError("the disk is full")

    with agent(host_root) as client:
        client.begin(BEGIN)
        client.import_paths(closure, lambda path: store.nar(StorePath.parse(path)))
        with pytest.raises(StoreError, match="the disk is full"):
            client.export(ExportRequest((closure[-1].path,)), Full())
        with pytest.raises(ReconcilerError, match="broken off"):
            client.missing(MissingRequest(()))
