"""A copy by `nix-store --serve --write`: real Nix takes it; what is no Nix, or lies, costs neither time nor memory."""

from __future__ import annotations

import os
import re
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.wire import MAX_STRING
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport import nix_program
from reconciler.transport.connection import ConnectOptions
from reconciler.transport.elevation import Elevation
from reconciler.transport.errors import ElevationError, NotFit
from reconciler.transport.local import LocalChannel, LocalConnection
from reconciler.transport.nix_serve import MAX_ITEMS, ServeClient
from tests.oracle import RealNix, program

PATH = StorePath.parse("/nix/store/" + "0" * 32 + "-x")


class RemoteNix(LocalConnection):
    """A login whose commands run with a store below `root`; `first` is what its shell's start-up files do."""

    def __init__(self, root: Path, first: str = "") -> None:
        super().__init__(ConnectionSettings("web01", connection="local"), ConnectOptions())
        self.description = "ssh root@web01"
        self.nix = RealNix(root)
        self._first = first
        self.channels: list[LocalChannel] = []

    def start(self, argv: Sequence[str], as_root: bool) -> LocalChannel:
        assert as_root
        environment = {**self.nix.environment, "NIX_REMOTE": str(self.nix.root)}
        variables = [f"{name}={value}" for name, value in environment.items()]
        words = ["env", "-i", *variables, "sh", "-c", self._first + ' exec "$@"', "sh", *argv]
        self.channels.append(LocalChannel(words, None))
        return self.channels[-1]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """The controller's: a library, a program that needs it and itself, and a megabyte."""
    with Store.open(str(tmp_path / "here"), create=True) as opened:
        library = opened.add_tree("library", nar.Directory({"lib.so": nar.File(b"code", executable=True)}))
        opened.add_text("program", f"#!/bin/sh\ncat {library}/lib.so\n".encode(), [library])
        opened.add_tree("zeros", nar.Directory({"a b": nar.File(bytes(1 << 20)), "link": nar.Link("a b")}))
        own = StorePath.parse("/nix/store/" + "1" * 32 + "-own")
        archive = nar.encode(nar.File(f"I am {own}, and need {library}".encode()))
        info = PathInfo(own, Hash.sha256(archive), len(archive), (library, own), deriver=StorePath.parse(f"{PATH}.drv"))
        opened.add_nar(info, nar.ChunkReader([archive]))
        yield opened


def everything(store: Store) -> list[StorePath]:
    return [StorePath.parse(row.path) for row in store.rows()]


def infos(store: Store) -> list[PathInfo]:
    return store.infos(store.closure(everything(store)))


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[RemoteNix]:
    program("nix-store")
    login = RemoteNix(tmp_path / "there")
    yield login
    login.close()
    if (tmp_path / "there/nix/var/nix/db/db.sqlite").exists():
        login.nix.verify()


# --- with real Nix ----------------------------------------------------------------------------------------------------


@pytest.mark.nix
def test_real_nix_takes_a_closure_and_tells_the_same_of_it(store: Store, remote: RemoteNix) -> None:
    wanted = infos(store)
    told: list[tuple[int, int]] = []
    with ServeClient.start(remote, as_root=True) as there:
        assert there.version == (2, 7)
        first = there.copy(wanted, store.nar, lambda done, total: told.append((done, total)))
        assert (first.paths, first.bytes) == (len(wanted), sum(info.nar_size for info in wanted))
        assert told[-1] == (first.bytes, first.bytes)
        assert there.copy(wanted, store.nar).paths == 0
        assert there.valid([*everything(store), PATH]) == frozenset(everything(store))
        found = there.infos([*everything(store), PATH])
        for info in wanted:
            same = (info.nar_hash, info.nar_size, info.references, info.deriver, info.ca, info.signatures)
            other = found[info.path]
            assert same == (
                other.nar_hash,
                other.nar_size,
                other.references,
                other.deriver,
                other.ca,
                other.signatures,
            )
            assert b"".join(there.dump(other)) == b"".join(store.nar(info.path))
        assert PATH not in found
        own = next(info for info in wanted if info.path.name == "own")
        assert there.closure([own.path]) == own.references


@pytest.mark.nix
def test_what_was_asked_about_with_lock_is_kept_until_the_end(store: Store, remote: RemoteNix) -> None:
    wanted = infos(store)
    with ServeClient.start(remote, as_root=True) as there:
        there.copy(wanted, store.nar)
        remote.nix.run("nix-store", "--gc")
        assert there.valid(info.path for info in wanted) == {info.path for info in wanted}
    remote.nix.run("nix-store", "--gc")
    with ServeClient.start(remote, as_root=True) as there:
        assert not there.valid(info.path for info in wanted)


@pytest.mark.nix
def test_what_a_login_shell_prints_first_is_passed_over(store: Store, tmp_path: Path) -> None:
    remote = RemoteNix(tmp_path / "there", "echo welcome to web01; echo reconciler-; echo beware >&2;")
    with ServeClient.start(remote, as_root=True) as there:
        assert there.copy(infos(store), store.nar).paths == 4
    remote.close()
    remote.nix.verify()


REFUSED: dict[str, tuple[Callable[[PathInfo], PathInfo], str]] = {
    "another hash": (
        lambda one: PathInfo(one.path, Hash.sha256(b""), one.nar_size, ()),
        "hash mismatch importing path",
    ),
    "a reference that is not there": (
        lambda one: PathInfo(one.path, one.nar_hash, one.nar_size, (PATH,)),
        "is not valid|FOREIGN KEY|no such path|cannot register",
    ),
    "a false content address": (
        lambda one: PathInfo(one.path, one.nar_hash, one.nar_size, (), ca=f"fixed:r:{Hash.sha256(b'').nix}"),
        "ca hash mismatch",
    ),
}


@pytest.mark.nix
@pytest.mark.parametrize("what", REFUSED)
def test_what_nix_does_not_take_is_told_in_its_words(store: Store, remote: RemoteNix, what: str) -> None:
    library = next(info for info in infos(store) if info.path.name == "library")
    change, words = REFUSED[what]
    with ServeClient.start(remote, as_root=True) as there:
        with pytest.raises(StoreError, match=rf"^ssh root@web01: Nix ended \(exit status 1\): .*({words})") as caught:
            there.add(change(library), store.nar(library.path))
        assert "\x1b" not in caught.value.message
        with pytest.raises(StoreError) as again:
            there.valid([library.path])
        assert again.value is caught.value
    with ServeClient.start(remote, as_root=True) as there:
        assert not there.valid([library.path])
        there.add(library, store.nar(library.path))


@pytest.mark.nix
@pytest.mark.parametrize("change", [b"x", b""])
def test_an_archive_of_another_length_ends_the_copy(store: Store, remote: RemoteNix, change: bytes) -> None:
    library = next(info for info in infos(store) if info.path.name == "library")
    archive = b"".join(store.nar(library.path))
    with ServeClient.start(remote, as_root=True) as there, pytest.raises(StoreError, match=r"bytes long$"):
        there.add(library, [archive + change] if change else [archive[:-8]])
    with ServeClient.start(remote, as_root=True) as there:
        assert there.copy(infos(store), store.nar).paths == 4


@pytest.mark.nix
def test_after_a_kill_in_the_middle_the_next_copy_completes(store: Store, remote: RemoteNix) -> None:
    zeros = next(info for info in infos(store) if info.path.name == "zeros")

    def until_half() -> Iterator[bytes]:
        archive = b"".join(store.nar(zeros.path))
        yield archive[: 1 << 19]
        time.sleep(0.2)
        remote.channels[-1].kill()
        yield archive[1 << 19 :]

    with ServeClient.start(remote, as_root=True) as there, pytest.raises(ReconcilerError):
        there.add(zeros, until_half())
    with ServeClient.start(remote, as_root=True) as there:
        assert there.copy(infos(store), store.nar).paths == 4


@pytest.mark.nix
def test_a_path_that_was_changed_there_is_not_taken_over(store: Store, remote: RemoteNix) -> None:
    library = next(info for info in infos(store) if info.path.name == "library")
    with ServeClient.start(remote, as_root=True) as there:
        there.add(library, store.nar(library.path))
        (info,) = there.infos([library.path]).values()
        file = remote.nix.root / str(library.path)[1:] / "lib.so"
        file.chmod(0o755)
        file.write_bytes(b"evil")
        with pytest.raises(StoreError, match="has changed there since it was registered"):
            b"".join(there.dump(info))
        file.write_bytes(b"code")
        file.chmod(0o555)


@pytest.mark.nix
def test_a_nix_is_found_by_its_version_and_nothing_is_made_by_asking(tmp_path: Path) -> None:
    remote = RemoteNix(tmp_path / "there", "echo hello;")
    found = nix_program.find_nix(remote, as_root=True)
    assert found is not None
    assert re.fullmatch(r"[0-9]+\.[0-9.]+", found.version)
    assert found.uid == os.geteuid()
    assert found.system == host_system()
    assert not remote.nix.root.exists()
    remote.nix.environment["PATH"] = str(tmp_path)
    bare = RemoteNix(tmp_path / "there", f"PATH={tmp_path};")
    bare.nix.environment["PATH"] = "/usr/sbin:/sbin"
    (tmp_path / "sh").symlink_to("/bin/sh")
    assert nix_program.find_nix(bare, as_root=True) is None
    with pytest.raises(NotFit, match=r"^there is no nix-store$"):
        ServeClient.start(bare, as_root=True)


# --- with what is no Nix ----------------------------------------------------------------------------------------------

PRELUDE = """
import os, sys, time
def out(*parts):
    for part in parts:
        if isinstance(part, int): part = part.to_bytes(8, "little")
        elif isinstance(part, str): part = len(part).to_bytes(8, "little") + part.encode() + bytes(-len(part) % 8)
        while part: part = part[os.write(1, part):]
def hello(version=0x207):
    os.read(0, 16)
    out(0x5452eecb, version)
X = "/nix/store/" + "0" * 32 + "-x"
Y = "/nix/store/" + "1" * 32 + "-y"
HASH = "sha256:" + "0" * 52
"""


PEERS: list[LocalChannel] = []


@pytest.fixture(autouse=True)
def no_peer_is_left() -> Iterator[None]:
    yield
    while PEERS:
        channel = PEERS.pop()
        channel.kill()
        channel.close()


def peer(text: str, seconds: float = 20, elevation: Elevation | None = None, marker: str = "") -> ServeClient:
    PEERS.append(LocalChannel([sys.executable, "-c", PRELUDE + text], elevation))
    return ServeClient(PEERS[-1], "ssh root@web01", marker, seconds)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("out(0x6e697863, 0x207)", FormatError, "0x6e697863 where 'nix-store --serve' says 0x5452eecb"),
        ("out(b'welcome to web01, what can I do?')", FormatError, "0x20656d6f636c6577 where"),
        ("hello(0x204)", NotFit, "speaks 2.4 of the copy protocol: needs Nix 2.1 or newer"),
        ("hello(0x307)", NotFit, "speaks 3.7"),
        ("hello(2**64 - 1)", NotFit, "of the copy protocol"),
        ("sys.exit(3)", StoreError, r"Nix ended \(exit status 3\)$"),
        ("sys.exit('error: \\x1b[31mno\\x1b[0m space')", StoreError, r"\(exit status 1\): error: .\[31mno.\[0m space"),
        ("sys.stderr.write('sh: 1: exec: nix-store: not found\\n'); sys.exit(127)", NotFit, "^there is no nix-store$"),
        ("os.kill(os.getpid(), 9)", ReconcilerError, "web01"),
    ],
)
def test_what_is_no_hello_is_told(text: str, error: type[ReconcilerError], message: str) -> None:
    with pytest.raises(error, match=message):
        peer(text).close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out(2**63)", "a list of 9223372036854775808, where 1 are the most"),
        ("out(2, X, X)", "a list of 2, where 1 are the most"),
        ("out(1, 2**40)", f"a string of 1099511627776 bytes, where {MAX_STRING} are the most"),
        ("out(1, Y)", "an answer about /nix/store/1{32}-y, which was not asked about"),
        ("out(1, '/etc/shadow')", "/etc/shadow"),
        ("out(1, X + '/../../etc')", "cannot name a store path"),
        ("out(1, len(X), X.encode(), b'\\1' * (-len(X) % 8))", "not padded with zeros"),
        ("out(1, len(X), b'\\xff' * len(X), bytes(-len(X) % 8))", "not ASCII"),
    ],
)
def test_answers_that_lie_about_what_is_valid_end_the_copy(text: str, message: str) -> None:
    there = peer(f"hello(); os.read(0, 1000); {text}; sys.stdin.buffer.read()")
    with pytest.raises(FormatError, match=message):
        there.valid([PATH])
    with pytest.raises(FormatError, match=message):
        there.infos([PATH])
    there.close()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("out(Y, '', 0, 0, 100, HASH, '', 0, '')", "-y, which was not asked about"),
        ("[out(X, '', 0, 0, 100, HASH, '', 0) for _ in range(2)]", "-x, which was not asked about"),
        ("out(X, 'not a path')", "not a path"),
        ("out(X, '', 2**62)", "a list of"),
        ("out(X, '', 0, 0, 0, HASH, '', 0, '')", "more than 0 bytes"),
        ("out(X, '', 0, 0, 100, 'md5:' + 'a' * 32, '', 0, '')", "md5 hash where a sha256"),
        ("out(X, '', 0, 0, 100, 'x\\x1by', '', 0, '')", "no hash"),
        ("out(X, '', 0, 0, 100, HASH, '', 2**20)", "a list of"),
    ],
)
def test_answers_that_lie_about_a_path_end_the_copy(text: str, message: str) -> None:
    there = peer(f"hello(); os.read(0, 1000); {text}; sys.stdin.buffer.read()")
    with pytest.raises(FormatError, match=message) as caught:
        there.infos([PATH])
    assert "\x1b" not in caught.value.message
    there.close()


@pytest.mark.parametrize(
    "text",
    [
        "hello(); os.read(0, 1000); time.sleep(60)",
        "hello(); os.read(0, 1000)\nwhile True: os.write(2, b'x' * 65536)",
        "hello(); os.read(0, 1000); out(1)\nfor byte in range(4096): os.write(1, bytes(1)); time.sleep(0.3)",
    ],
)
def test_a_peer_that_stalls_or_floods_is_given_up(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.transport.nix_serve.QUESTION_SECONDS", 0.5)
    there = peer(text)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(LinkLostError, match="did not answer in time"):
        there.valid([PATH])
    assert time.monotonic() - started < 3
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    there.close()


def test_a_peer_that_takes_nothing_more_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.transport.nix_serve.TRANSFER_SECONDS", 0.5)
    monkeypatch.setattr("reconciler.transport.nix_serve.TRANSFER_RATE", 1 << 30)
    there = peer("hello(); time.sleep(60)")
    info = PathInfo(PATH, Hash.sha256(b""), 1 << 24, ())
    started = time.monotonic()
    with pytest.raises(LinkLostError):
        there.add(info, (bytes(1 << 16) for _ in range(256)))
    assert time.monotonic() - started < 5
    there.close()


def test_noise_before_the_marker_is_bounded_and_a_silent_start_is_given_up() -> None:
    with pytest.raises(NotFit, match="the login shell printed 64 KiB and Nix did not start"):
        peer("while True: os.write(1, b'x' * 65536)", marker="here")
    with pytest.raises(LinkLostError, match="did not answer in time"):
        peer("time.sleep(60)", seconds=0.3)


def test_an_endless_closure_is_bounded() -> None:
    there = peer(f"hello(); os.read(0, 1000); out({MAX_ITEMS + 1})\nwhile True: out(X)")
    with pytest.raises(FormatError, match="a list of"):
        there.closure([PATH])
    there.close()


def test_sudo_is_answered_before_anything_else_is_sent() -> None:
    asks = """
prompt = sys.argv[1] if len(sys.argv) > 1 else ""
"""
    elevation = Elevation("root", "sudo", "open sesame", "web01")
    words = elevation.wrap(["x"])
    prompt = words[words.index("-p") + 1]
    text = (
        asks
        + f"""
os.write(2, {prompt!r}.encode())
assert os.read(0, 100) == b"open sesame\\n"
out(b"here\\n")
hello()
"""
    )
    there = peer(text, elevation=elevation, marker="here")
    assert there.version == (2, 7)
    there.close()
    refused = Elevation("root", "sudo", None, "web01")
    with pytest.raises(ElevationError, match="sudo asks for a password"):
        peer("sys.exit('sudo: a password is required')", elevation=refused, marker="here")


def test_an_older_nix_is_spoken_to_as_it_speaks() -> None:
    there = peer("hello(0x205); os.read(0, 1000); out(1, X); sys.stdin.read()")
    assert there.version == (2, 5)
    assert there.valid([PATH]) == {PATH}
    there.close()
