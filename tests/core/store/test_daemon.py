"""A store behind real Nix's daemon, in every version of its protocol that is spoken; and daemons that lie or stall."""

from __future__ import annotations

import os
import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.core.errors import BuildError, FormatError, LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.signature import fingerprint
from reconciler.core.nix.store_path import StorePath
from reconciler.core.nix.wire import MAX_STRING, number, string
from reconciler.core.profile.environment import Element, environment
from reconciler.core.store import daemon_client, daemon_line
from reconciler.core.store.daemon import DaemonStore
from reconciler.core.store.daemon_client import ERROR, LAST, NEXT, SERVER_MAGIC, Activity, DaemonClient, DaemonError
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.packages.keys import SecretKey, generate
from tests.core.store.daemons import UNTRUSTED, fake_daemon, real_daemon
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

NOWHERE = StorePath.parse("/nix/store/" + "0" * 32 + "-nowhere")
VERSIONS = (21, 22, 23, 25, 26, 32, 35)


@pytest.fixture(scope="module")
def key() -> SecretKey:
    return SecretKey.parse(generate("ours-1")[0])


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory, key: SecretKey) -> Iterator[Path]:
    """The root of a store that a real daemon serves, who trusts `key` and nobody else."""
    root = tmp_path_factory.mktemp("there") / "root"
    with real_daemon(root, f"trusted-public-keys = {key.public}\n"):
        yield root
    RealNix(root, config=UNTRUSTED).verify()


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Store]:
    with Store.open(str(tmp_path / "here"), create=True) as store:
        yield store


@pytest.fixture
def client(there: Path) -> Iterator[DaemonStore]:
    with DaemonStore.open(str(there)) as store:
        yield store


def connect(root: Path, minor: int) -> DaemonStore:
    return DaemonStore(DaemonClient.connect(str(root / "nix/var/nix/daemon-socket/socket"), minor), str(root))


def built(store: Store, name: str, contents: bytes, references: tuple[StorePath, ...] = ()) -> PathInfo:
    """A path that does not follow from its contents, as what a build makes."""
    archive = nar.encode(nar.Directory({"file": nar.File(contents)}))
    path = StorePath.parse(f"/nix/store/{Hash.sha256(contents).base32[:32]}-{name}")
    info = PathInfo(path, Hash.sha256(archive), len(archive), references)
    store.add_nar(info, nar.ChunkReader([archive]))
    return info


def send(store: Store, daemon: DaemonStore, *infos: PathInfo) -> list[bool]:
    batch = daemon.batch()
    taken = [batch.add_nar(info, nar.ChunkReader(store.nar(info.path))) for info in infos]
    batch.commit()
    return taken


def signed(info: PathInfo, key: SecretKey) -> PathInfo:
    fields = (info.path, info.nar_hash, info.nar_size, info.references)
    return PathInfo(*fields, signatures=(key.sign(fingerprint(*fields)),))


@pytest.mark.parametrize("minor", VERSIONS)
def test_what_is_content_addressed_is_taken_in_every_version(there: Path, here: Store, minor: int) -> None:
    library = here.add_tree(f"library-{minor}", nar.Directory({"lib": nar.File(os.urandom(300_000), executable=True)}))
    text = here.add_text(f"text-{minor}", f"needs {library}".encode(), [library])
    with connect(there, minor) as daemon:
        daemon.add_temp_roots([library, text])
        assert daemon.valid([library, text, NOWHERE]) == set()
        assert send(here, daemon, here.info(library), here.info(text)) == [True, True]
        assert daemon.valid([library, text, NOWHERE]) == {library, text}
        found = daemon.info(text)
        assert (found.nar_hash, found.nar_size, found.references, found.ca) == (
            here.info(text).nar_hash,
            here.info(text).nar_size,
            (library,),
            here.info(text).ca,
        )
        assert daemon.closure([text]) == [library, text]
        assert daemon.reachable([text, NOWHERE]) == {text: {library}, library: set()}
        assert b"".join(daemon.nar(library)) == b"".join(here.nar(library))
        with pytest.raises(StoreError, match=f"{NOWHERE} is not valid"):
            daemon.closure([NOWHERE])


@pytest.mark.parametrize("minor", VERSIONS)
def test_what_nobody_vouches_for_is_refused_by_name_and_the_rest_taken(
    there: Path, here: Store, key: SecretKey, minor: int
) -> None:
    stranger = SecretKey.parse(generate("stranger-1")[0])
    unsigned = built(here, "unsigned", b"1 %d" % minor)
    above = built(here, "above", b"2 %d" % minor, (unsigned.path,))
    foreign = signed(built(here, "foreign", b"3 %d" % minor), stranger)
    ours = signed(built(here, "ours", b"4 %d" % minor), key)
    with connect(there, minor) as daemon:
        batch = daemon.batch()
        taken = [batch.add_nar(info, nar.ChunkReader(here.nar(info.path))) for info in (unsigned, above, foreign, ours)]
        assert taken == [False, False, False, True]
        with pytest.raises(StoreError) as refused:
            batch.commit()
        assert refused.value.message == (
            "its Nix daemon takes from users only what is content-addressed or signed by a key that it trusts, "
            f"and not {unsigned.path} (unsigned), {foreign.path} (signed by stranger-1)"
        )
        assert "trusted-public-keys" in (refused.value.hint or "")
        batch.commit()  # told once
        assert daemon.valid([unsigned.path, above.path, foreign.path, ours.path]) == {ours.path}
        assert daemon.info(ours.path).signatures == ours.signatures


def test_a_daemon_that_trusts_its_user_asks_for_no_signature(tmp_path: Path, here: Store) -> None:
    with real_daemon(tmp_path / "trusting", "trusted-users = *\n"):
        unsigned = built(here, "unsigned", b"trusted")
        with DaemonStore.open(str(tmp_path / "trusting")) as daemon:
            assert send(here, daemon, unsigned) == [True]
            assert daemon.valid([unsigned.path]) == {unsigned.path}


@pytest.mark.parametrize("minor", VERSIONS)
def test_what_is_not_what_was_said_of_it_is_refused_and_the_connection_goes_on(
    there: Path, here: Store, key: SecretKey, minor: int
) -> None:
    right = built(here, "right", b"right %d" % minor)
    wrong = signed(PathInfo(right.path, Hash.sha256(b"another"), right.nar_size, ()), key)
    with connect(there, minor) as daemon:
        with pytest.raises(DaemonError, match="hash mismatch importing path") as refused:
            send(here, daemon, wrong)
        assert "\x1b" not in refused.value.message
        assert daemon.valid([right.path]) == set()
        assert send(here, daemon, signed(right, key)) == [True]


@pytest.mark.parametrize("minor", VERSIONS)
def test_an_environment_is_built_there_from_its_derivation(there: Path, here: Store, minor: int) -> None:
    package = here.add_tree(f"tool-{minor}", nar.Directory({"bin": nar.Directory({"tool": nar.File(b"#!")})}))
    plan = environment([Element(package, 5)])
    here.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    here.write_derivation(plan.derivation, "user-environment")
    told: list[Activity] = []
    with connect(there, minor) as daemon:
        send(here, daemon, *(here.info(path) for path in here.closure([plan.drv_path, package])))
        assert daemon.read_derivation(plan.drv_path) == plan.derivation
        daemon.build([f"{plan.drv_path}!out"], told.append)
        assert daemon.valid([plan.output]) == {plan.output}
        assert os.readlink(f"{daemon.real(plan.output)}/bin") == f"{package}/bin"
    assert [one.fields[0] for one in told if one.kind == "start" and one.type == 105] == [str(plan.drv_path)]


def test_a_build_that_fails_says_so_and_the_connection_goes_on(client: DaemonStore, here: Store) -> None:
    one, other = (here.add_tree(name, nar.Directory({"file": nar.File(name.encode())})) for name in ("same", "another"))
    plan = environment([Element(one, 5), Element(other, 5)])
    here.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
    here.write_derivation(plan.derivation, "user-environment")
    send(here, client, *(here.info(path) for path in here.closure([plan.drv_path, one, other])))
    with pytest.raises(DaemonError, match=r"builder for .* failed|Cannot build"):
        client.build([f"{plan.drv_path}!out"], lambda _: None)
    assert client.valid([plan.output, plan.drv_path]) == {plan.drv_path}


def test_what_is_waited_for_can_be_broken_off(client: DaemonStore) -> None:
    def stop() -> None:
        raise BuildError("enough")

    with pytest.raises(BuildError, match="enough"):
        client.build([f"{NOWHERE}.drv!out"], lambda _: None, stop)
    with pytest.raises(BuildError, match="enough"):
        client.valid([NOWHERE])


def test_a_link_anywhere_keeps_what_it_leads_to(there: Path, here: Store, tmp_path: Path) -> None:
    kept, dropped, rooted = (here.add_text(name, name.encode() * 3) for name in ("kept", "dropped", "rooted"))
    link, other = tmp_path / "roots/user/alice", tmp_path / "profile-1-link"
    nix = RealNix(there, config=UNTRUSTED)
    with DaemonStore.open(str(there)) as daemon:
        daemon.add_temp_roots([kept, dropped, rooted])
        send(here, daemon, *(here.info(path) for path in (kept, dropped, rooted)))
        daemon.add_root(str(link), kept)
        other.symlink_to(str(rooted))
        daemon.add_indirect_root(str(other))
        nix.run("nix-store", "--gc")
        assert daemon.valid([kept, dropped, rooted]) == {kept, dropped, rooted}
    nix.run("nix-store", "--gc")
    with DaemonStore.open(str(there)) as daemon:
        assert daemon.valid([kept, dropped, rooted]) == {kept, rooted}
        assert daemon.remove_root(str(link))
        assert not daemon.remove_root(str(link))
    nix.run("nix-store", "--gc")
    with DaemonStore.open(str(there)) as daemon:
        assert daemon.valid([kept, rooted]) == {rooted}


def test_a_large_path_and_a_large_closure_take_little_memory(client: DaemonStore, here: Store) -> None:
    large = here.add_tree("large", nar.Directory({"zeros": nar.File(bytes(24 << 20))}))
    before: tuple[StorePath, ...] = ()
    with here.batch() as batch:
        for count in range(150):
            before = (batch.add_text(f"chain-{count}", b"%d" % count, before[-1:]),)
    infos = [here.info(path) for path in here.closure([large, *before])]
    tracemalloc.start()
    try:
        send(here, client, *infos)
        assert len(client.closure([large, *before])) == 151
        assert tracemalloc.get_traced_memory()[1] < 6 << 20
    finally:
        tracemalloc.stop()


def test_an_archive_that_ends_early_ends_the_connection(client: DaemonStore, here: Store) -> None:
    info = here.info(here.add_text("early", b"1" * 1000))
    batch = client.batch()
    with pytest.raises(StoreError, match="too short"):
        batch.add_nar(info, nar.ChunkReader([b"1" * 8]))
    with pytest.raises(StoreError, match="too short"):
        client.valid([info.path])


# --- what is no daemon, or lies ---------------------------------------------------------------------------------------


def test_a_host_without_a_daemon_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the Nix daemon, /nix/var/nix/daemon-socket/socket: No such file") as refused:
        DaemonStore.open(str(tmp_path))
    assert refused.value.hint == "start it, or log in as root"
    place = tmp_path / "nix/var/nix/daemon-socket"
    place.mkdir(parents=True)
    with fake_daemon(place, lambda _: None):
        pass
    with pytest.raises(StoreError, match="Connection refused"):
        DaemonStore.open(str(tmp_path))


def hello(minor: int = 34) -> bytes:
    said = number(SERVER_MAGIC) + number(1 << 8 | minor)
    return said + (string("2.8") if minor >= 33 else b"") + number(LAST)


def speaks(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Say that, whatever is asked, and wait until the other side has gone."""

    def serve(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        while connection.recv(1 << 16):
            pass

    return serve


def ends(*pieces: bytes) -> Callable[[socket.socket], None]:
    def serve(connection: socket.socket) -> None:
        for piece in pieces:
            connection.sendall(piece)
        connection.recv(1 << 16)

    return serve


PATHS = number(LAST)
HUGE = number(1 << 62)
LIES: dict[str, tuple[Callable[[socket.socket], None], type[ReconcilerError], str]] = {
    "another program": (speaks(b"HTTP/1.1 400 Bad Request\r\n\r\n"), FormatError, "is not Nix's daemon"),
    "an old one": (speaks(number(SERVER_MAGIC) + number(1 << 8 | 20)), StoreError, "speaks version 1.20"),
    "one of a later time": (speaks(number(SERVER_MAGIC) + number(2 << 8 | 40)), StoreError, "speaks version 2.40"),
    "it does not serve us": (ends(), StoreError, "ended the connection"),
    "it ends in the middle": (ends(hello() + PATHS), StoreError, "ended the connection"),
    "a huge list": (speaks(hello() + PATHS + HUGE), FormatError, r"a list of \d+, where 262144 are the most"),
    "a huge string": (speaks(hello() + PATHS + number(1) + HUGE), FormatError, f"where {MAX_STRING} are the most"),
    "a huge line": (speaks(hello() + number(NEXT) + HUGE), FormatError, "where 1048576 are the most"),
    "a huge error": (
        speaks(hello() + number(ERROR) + string("Error") + number(0) + string("") + HUGE),
        FormatError,
        "where 1048576 are the most",
    ),
    "traces without end": (
        speaks(hello() + number(ERROR) + string("Error") + number(0) + string("") + string("x") + number(0) + HUGE),
        FormatError,
        "where 1024 are the most",
    ),
    "no path": (speaks(hello() + PATHS + number(1) + string("/etc/passwd")), FormatError, "/etc/passwd"),
    "another path": (
        speaks(hello() + PATHS + number(1) + string("/nix/store/" + "1" * 32 + "-x")),
        FormatError,
        "which was not asked about",
    ),
    "padding": (speaks(hello() + PATHS + number(1) + number(1) + b"xyyyyyyy"), FormatError, "not padded with zeros"),
    "a word that means nothing": (speaks(hello() + number(7)), FormatError, "says 0x7, which means nothing"),
    "a wish for bytes that there are not": (
        speaks(hello() + number(daemon_client.READ) + number(10)),
        FormatError,
        "which means nothing",
    ),
    "a strange field": (
        speaks(hello() + number(daemon_client.RESULT) + number(1) + number(1) + number(1) + number(9)),
        FormatError,
        "a field of kind 9",
    ),
}


@pytest.mark.parametrize("case", LIES)
def test_a_daemon_that_lies_is_told_once_and_costs_little(tmp_path: Path, case: str) -> None:
    serve, kind, words = LIES[case]
    tracemalloc.start()
    try:
        with fake_daemon(tmp_path / "fake", serve) as place, pytest.raises(kind, match=words):
            DaemonClient.connect(str(place)).valid([NOWHERE])
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_an_error_is_told_without_what_moves_a_cursor(tmp_path: Path) -> None:
    said = (
        string("Error") + number(0) + string("Error") + string("\x1b[31;1merror:\x1b[0m no\x07 \xe9t\xe9") + number(0)
    )
    answer = hello() + number(ERROR) + said + number(1) + number(0) + string("while")
    with (
        fake_daemon(tmp_path / "fake", speaks(answer)) as place,
        closing(DaemonClient.connect(str(place))) as client,
        pytest.raises(DaemonError) as told,
    ):
        client.valid([NOWHERE])
    assert told.value.message == "no\N{REPLACEMENT CHARACTER} \xe9t\xe9"


def test_what_a_daemon_says_before_it_ends_is_heard_though_it_takes_nothing_more(tmp_path: Path, here: Store) -> None:
    said = string("Error") + number(0) + string("Error") + string("out of disk space") + number(0) + number(0)
    info = here.info(here.add_tree("zeros", nar.Directory({"zeros": nar.File(bytes(8 << 20))})))
    with (
        fake_daemon(tmp_path / "fake", ends(hello() + number(ERROR) + said)) as place,
        closing(DaemonClient.connect(str(place))) as client,
    ):
        with pytest.raises(DaemonError, match="out of disk space"):
            client.add(info, here.nar(info.path))
        with pytest.raises(StoreError, match="ended the connection"):
            client.valid([info.path])


def test_a_daemon_that_says_nothing_is_waited_for_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_client, "QUESTION_SECONDS", 0.3)
    started = time.monotonic()
    with fake_daemon(tmp_path / "fake", speaks(hello())) as place:
        line = DaemonClient.connect(str(place))
        with pytest.raises(StoreError, match="did not answer in time"):
            line.valid([NOWHERE])
    assert time.monotonic() - started < 5


def test_a_daemon_that_talks_while_it_is_written_to_stops_nobody_and_fills_no_memory(
    tmp_path: Path, here: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon_line, "MAX_UNREAD", 1 << 20)
    line = number(NEXT) + string("talk" * 64)
    info = here.info(here.add_tree("zeros", nar.Directory({"zeros": nar.File(bytes(8 << 20))})))

    def chatter(count: int) -> Callable[[socket.socket], None]:
        def serve(connection: socket.socket) -> None:
            connection.sendall(hello())
            for _ in range(count):
                connection.sendall(line)
            speaks(number(LAST))(connection)

        return serve

    with fake_daemon(tmp_path / "some", chatter(2000)) as place, closing(DaemonClient.connect(str(place))) as client:
        client.add(info, here.nar(info.path))
    with fake_daemon(tmp_path / "much", chatter(100_000)) as place, pytest.raises(FormatError, match="more than 1 MiB"):
        DaemonClient.connect(str(place)).add(info, here.nar(info.path))


def test_an_interrupted_archive_is_the_callers_error(client: DaemonStore, here: Store) -> None:
    info = here.info(here.add_text("cut", b"1" * 1000))

    class Cut:
        def read(self, size: int, /) -> bytes:
            raise LinkLostError("the controller hung up")

    with pytest.raises(LinkLostError, match="hung up"):
        client.batch().add_nar(info, Cut())
    with pytest.raises(LinkLostError, match="hung up"):
        client.valid([info.path])
