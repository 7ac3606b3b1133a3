"""A collection beside others: real Nix's processes and ours that add, root and collect at the same moment."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core import fs
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import gc_mark, live
from reconciler.core.store.gc import GcEvent, GcOptions, GcResult, collect
from reconciler.core.store.gc_files import Deleter
from reconciler.core.store.gc_socket import Kept
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.store.scenes import SOURCE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Have something happen between the search for garbage and the first deletion."""

    def arrange(happens: Callable[[], object]) -> None:
        def mark(*arguments: Any, **options: Any) -> Any:
            found = real(*arguments, **options)
            happens()
            return found

        real = gc_mark.mark
        monkeypatch.setattr(gc_mark, "mark", mark)

    return arrange


def garbage(root: Path, count: int = 5) -> list[StorePath]:
    """Dead paths, each of which refers to the one before."""
    with Store.open(str(root), create=True) as store:
        paths: list[StorePath] = []
        for number in range(count):
            paths.append(store.add_text(f"g{number}", b"x", paths[-1:]))
        return paths


def collected(root: Path, events: list[GcEvent] | None = None) -> GcResult:
    with Store.open(str(root)) as store:
        return collect(store, GcOptions(), None if events is None else events.append)


def run(program: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Python code in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False, timeout=60)


# --- roots of others --------------------------------------------------------------------------------------------------

OURS = """
import os, sys
from reconciler.core.store.store import Store
with Store.open(sys.argv[1]) as store:
    path = store.add_text("g2", b"x", [store.add_text("g1", b"x", [store.add_text("g0", b"x")])])
    print(path, flush=True)
    os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("who", ["Nix adds", "Nix roots", "we add"])
@pytest.mark.parametrize("directory", ["root", "long" * 30], ids=["short", "long path"])
def test_what_is_rooted_between_search_and_deletion_is_kept_with_all_it_needs(
    who: str, directory: str, tmp_path: Path, between: Callable[[Callable[[], object]], None]
) -> None:
    """Rooted over our socket by a process that is gone again when we delete; also where its path is long."""
    root = tmp_path / directory
    root.mkdir()
    nix, paths = RealNix(root), garbage(root)

    def rooted() -> None:
        if who == "we add":
            assert run(OURS, root).stdout.strip() == str(paths[2])
        elif who == "Nix roots":
            nix.run("nix-store", "--add-root", tmp_path / "link", "--realise", str(paths[2]))
        else:
            (tmp_path / "g").mkdir()
            nix.run("nix-store", "--add", tmp_path / "g")

    between(rooted)
    events: list[GcEvent] = []
    result = collected(root, events)
    kept = [] if who == "Nix adds" else [path.base_name for path in paths[:3]]
    assert sorted(result.deleted) == sorted(path.base_name for path in paths if path.base_name not in kept)
    assert {event.path for event in events if event.kind == "kept"} == set(kept)
    with Store.open(str(root)) as store:
        assert [path for path in paths if store.is_valid(path)] == paths[: len(kept)]
        assert all(os.path.exists(store.real(path)) for path in paths[: len(kept)])
        if who == "Nix adds":
            assert len(set(os.listdir(store.store_dir)) - {".links"}) == 1
    nix.verify()


def test_whoever_roots_what_is_being_deleted_is_answered_when_its_files_are_gone(
    store_root: Path, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = garbage(store_root)
    found: list[tuple[bool, bool]] = []

    def client() -> None:
        with Store.open(str(store_root)) as store:
            store.add_temp_root(paths[1])
            found.append((store.is_valid(paths[1]), os.path.lexists(store.real(paths[1]))))

    def delete(self: Deleter, name: str) -> bool:
        if name == paths[1].base_name:
            asking.start()
            asking.join(0.3)
            assert asking.is_alive()
        return real(self, name)

    asking, real = threading.Thread(target=client), Deleter.delete
    monkeypatch.setattr(Deleter, "delete", delete)
    assert len(collected(store_root).deleted) == 5
    asking.join(10)
    assert found == [(False, False)]
    nix.verify()


def test_what_has_become_a_reference_meanwhile_is_kept(
    store_root: Path, nix: RealNix, between: Callable[[Callable[[], object]], None]
) -> None:
    """Its referrer was added by somebody who rooted nothing else: the database has the last word."""
    paths = garbage(store_root, 2)
    added: list[StorePath] = []

    def add() -> None:
        with Store.open(str(store_root)) as other:
            added.append(other.add_text("new", b"x", [paths[1]]))

    between(add)
    events: list[GcEvent] = []
    assert collected(store_root, events).deleted == ()
    assert {event.path for event in events if event.kind == "kept"} == {path.base_name for path in paths}
    with Store.open(str(store_root)) as store:
        assert store.valid([*paths, *added]) == {*paths, *added}
    nix.verify()


def test_what_is_rooted_is_never_claimed_and_what_is_claimed_answers_when_all_of_it_is_done() -> None:
    """Two entries of one hash part, a path and its lock, are two deletions."""
    part = "0" * 32
    kept = Kept()
    assert kept.claim([f"{part}-x", f"{part}-x.lock"]) == ([f"{part}-x", f"{part}-x.lock"], set())
    asking = threading.Thread(target=kept.root, args=(part,))
    asking.start()
    kept.done(f"{part}-x")
    asking.join(0.2)
    assert asking.is_alive()
    kept.done(f"{part}-x.lock")
    asking.join(10)
    assert kept.claim([f"{part}-x", f"{'1' * 32}-y"]) == ([f"{'1' * 32}-y"], {part})
    assert kept.claim([]) == ([], set())


ROOTED = """
import sys
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
store = Store.open(sys.argv[1])
store.add_temp_root(StorePath.parse(sys.argv[2]))
print(flush=True)
sys.stdin.read()
"""


def test_a_root_made_behind_the_search_by_somebody_who_is_gone_before_it_ends_counts(
    store_root: Path, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """His temporary root was there when the collection began; his link was made where the search had been already."""
    paths = garbage(store_root)
    command = [sys.executable, "-c", ROOTED, str(store_root), str(paths[1])]
    with subprocess.Popen(command, cwd=SOURCE, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"\n"

        def permanent(*arguments: Any) -> Any:
            found = real(*arguments)
            Path(store_root, "nix/var/nix/gcroots/late").symlink_to(str(paths[1]))
            process.kill()
            process.wait()
            return found

        real = live.permanent
        monkeypatch.setattr(live, "permanent", permanent)
        assert len(collected(store_root).deleted) == 3
    monkeypatch.undo()
    assert collected(store_root).kept == 2
    nix.verify()


def test_garbage_from_a_client_is_answered_and_nothing_else(store: Store, tmp_path: Path) -> None:
    answers = []

    def talk(_: GcEvent) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"{store.state_dir}/gc-socket/socket")
            for line in (b"hello\n", b"/nix/store/\n", b"\xff\n"):
                client.sendall(line)
                answers.append(client.recv(1))
            client.sendall(b"x" * 5000)
            try:
                answers.append(client.recv(1))
            except ConnectionResetError:  # it had not read all of it
                answers.append(b"")

    store.add_text("garbage", b"x")
    store.close()
    with Store.open(store.root) as again:
        collect(again, GcOptions(), talk)
    assert answers == [b"1", b"1", b"1", b""]


ADDING = """
import sys
from reconciler.core.store.store import Store
for turn in range(8):
    with Store.open(sys.argv[1]) as store:
        paths = [store.add_text(f"p{number}", str(number).encode()) for number in range(10)]
        assert store.valid(paths) == set(paths), turn
        if turn == 7:
            store.add_root(sys.argv[2], store.add_text("top", sys.argv[2].encode(), paths))
"""


@pytest.fixture
def near() -> Iterator[Path]:
    """A store's root with a short path: Nix gives up at once on a socket of a longer name that has just been closed."""
    with tempfile.TemporaryDirectory(prefix="gc", dir="/tmp") as directory:
        yield Path(directory)
        make_writable(Path(directory))


def test_nothing_is_lost_while_we_collect_all_the_while(near: Path) -> None:
    """Ours add the same paths over and over, Nix installs into a profile, which it builds; both root it at the end."""
    store_root, nix = near / "r", RealNix(near / "r")
    store_root.mkdir()
    garbage(store_root)
    with Store.open(str(store_root), create=True) as store:
        packages = [store.add_path(f"package{number}", str(SOURCE / "README.md")) for number in range(3)]
        for package in packages:
            store.add_root(package.name, package)
    ours = [
        subprocess.Popen([sys.executable, "-c", ADDING, store_root, f"test-{number}"], cwd=SOURCE)
        for number in range(2)
    ]
    profile = f"{store_root}/nix/var/nix/profiles/p"
    theirs = threading.Thread(
        target=lambda: [nix.run("nix-env", "-p", profile, "-i", str(package)) for package in packages]
    )
    theirs.start()
    deleted = 0
    while theirs.is_alive() or any(process.poll() is None for process in ours):
        deleted += len(collected(store_root).deleted)
    assert [process.wait() for process in ours] == [0, 0]
    assert deleted > 0
    collected(store_root)
    with Store.open(str(store_root)) as store:
        for link in (f"{store.state_dir}/gcroots/test-0", f"{store.state_dir}/gcroots/test-1", f"{profile}-3-link"):
            closure = store.closure([StorePath.parse(os.readlink(link))])
            assert len(closure) >= 3
            assert all(os.path.exists(store.real(path)) for path in closure)
    nix.verify()


# --- other collectors -------------------------------------------------------------------------------------------------


def test_a_second_collection_waits_for_the_first_and_says_so(
    store_root: Path, between: Callable[[Callable[[], object]], None]
) -> None:
    garbage(store_root)
    told, results, may_go_on = threading.Event(), [], threading.Event()
    between(lambda: may_go_on.wait(10))
    first = threading.Thread(target=lambda: results.append(collected(store_root)))
    first.start()
    while not os.path.exists(f"{store_root}/nix/var/nix/gc-socket/socket"):
        time.sleep(0.01)

    class Telling(list[GcEvent]):
        def append(self, event: GcEvent) -> None:
            super().append(event)
            told.set()

    events = Telling()
    second = threading.Thread(target=lambda: results.append(collected(store_root, events)))
    second.start()
    assert told.wait(10)
    may_go_on.set()
    first.join(20)
    second.join(20)
    assert [len(result.deleted) for result in results] == [5, 0]
    assert events == [GcEvent("waiting", f"{store_root}/nix/var/nix/gc.lock")]


def test_nix_waits_for_our_collection(
    store_root: Path, nix: RealNix, between: Callable[[Callable[[], object]], None]
) -> None:
    garbage(store_root)
    waiting: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        command = ["nix-store", "--store", str(store_root), "--gc"]
        waiting.append(subprocess.Popen(command, env=nix.environment, stdout=subprocess.PIPE))
        with pytest.raises(subprocess.TimeoutExpired):
            waiting[0].wait(0.5)

    between(start)
    assert len(collected(store_root).deleted) == 5
    assert waiting[0].communicate(timeout=20)[0].startswith(b"0 store paths deleted")
    nix.verify()


@pytest.fixture
def held_up(store_root: Path, nix: RealNix, tmp_path: Path) -> Iterator[Callable[[], bytes]]:
    """A collection of Nix's of five dead paths. It reads a pipe between its search and its first deletion, as its own
    tests have it; call this to let it go on, and have what it says."""
    garbage(store_root)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    command = ["nix-store", "--store", str(store_root), "--gc"]
    environment = {**nix.environment, "_NIX_TEST_GC_SYNC": str(pipe)}
    theirs = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    lock = fs.FileLock(f"{store_root}/nix/var/nix/gc.lock")
    while lock.acquire(exclusive=False, wait=False):
        lock.release()
        time.sleep(0.05)

    def go_on() -> bytes:
        pipe.write_text("")
        return theirs.communicate(timeout=20)[0]

    yield go_on
    if theirs.poll() is None:
        theirs.kill()
        theirs.wait()


def test_we_wait_for_a_collection_of_nix(store_root: Path, nix: RealNix, held_up: Callable[[], bytes]) -> None:
    events: list[GcEvent] = []
    ours = threading.Thread(target=collected, args=(store_root, events))
    ours.start()
    ours.join(0.3)
    assert ours.is_alive()
    assert held_up().startswith(b"5 store paths deleted")
    ours.join(20)
    assert [event.kind for event in events] == ["waiting"]
    nix.verify()


def test_what_we_want_while_nix_collects_is_kept_and_ours_when_it_is_done(
    store_root: Path, nix: RealNix, held_up: Callable[[], bytes]
) -> None:
    """Nix answers also for what it is about to delete, so that its answer alone is not relied on."""
    with Store.open(str(store_root)) as store:
        added = threading.Thread(target=lambda: garbage(store_root, 2))
        added.start()
        added.join(0.3)
        assert added.is_alive()
        assert held_up().startswith(b"4 store paths deleted"), "the first is kept, the second is not asked for yet"
        added.join(20)
        assert len(list(store.rows())) == 2
    nix.verify()


# --- killed -----------------------------------------------------------------------------------------------------------

DEADLY = """
import os, signal, sys, time
from reconciler.core.store import database, gc, gc_files, gc_socket, live, store

place, nth = sys.argv[2], int(sys.argv[3])
owner, _, name = place.rpartition(".")
target = {"Database": database.Database, "Deleter": gc_files.Deleter, "os": os, "gc_mark": gc.gc_mark}[owner]
real, calls = getattr(target, name), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == nth and sys.argv[4] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return real(*arguments, **options)
    finally:
        if calls == nth:
            if sys.argv[4] == "waits":
                print(flush=True)
                time.sleep(60)
            os.kill(os.getpid(), signal.SIGKILL)

gc._AT_ONCE = 2
with store.Store.open(sys.argv[1]) as opened:
    setattr(target, name, deadly)
    print(len(gc.collect(opened, gc.GcOptions()).deleted))
"""
STEPS = [
    ("gc_mark.mark", 1),
    ("Database.unregister", 1),
    ("Database.unregister", 2),
    ("Deleter.delete", 1),
    ("Deleter.delete", 3),
    ("os.unlink", 2),
    ("Deleter.remove_unused_links", 1),
]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("place", "nth"), STEPS)
def test_a_collection_killed_at_any_step_leaves_a_right_store_and_the_next_one_ends_it(
    place: str, nth: int, when: str, store_root: Path, nix: RealNix
) -> None:
    paths = garbage(store_root)
    with Store.open(str(store_root)) as store:
        live = store.add_text("live", b"x", [paths[0]])
        store.add_root("live", live)
        dead = {path.base_name for path in paths[1:]}
    assert run(DEADLY, store_root, place, nth, when).returncode == -signal.SIGKILL
    nix.verify()
    with Store.open(str(store_root)) as store:
        valid = {path.base_name for path in store.valid(paths)}
        present = set(os.listdir(store.store_dir)) - {".links"}
        assert valid <= present
        collect(store, GcOptions())
        assert not dead & set(os.listdir(store.store_dir))
        assert store.closure([live]) == [paths[0], live]
    nix.verify()


def test_a_client_that_waits_for_a_collection_that_is_killed_goes_on(store_root: Path, nix: RealNix) -> None:
    """It waits for the deletion of a path whose row is gone and whose files are not; then it makes the path anew."""
    paths = garbage(store_root)
    command = [sys.executable, "-c", DEADLY, str(store_root), "Database.unregister", "1", "waits"]
    with subprocess.Popen(command, cwd=SOURCE, stdout=subprocess.PIPE) as collector:
        assert collector.stdout is not None
        assert collector.stdout.readline() == b"\n"
        with Store.open(str(store_root)) as store:
            rooting = threading.Thread(target=store.add_temp_root, args=(paths[4],))
            rooting.start()
            rooting.join(0.3)
            assert rooting.is_alive()
            assert os.path.exists(store.real(paths[4]))
            collector.kill()
            rooting.join(20)
            assert [path for path in paths if store.is_valid(path)] == paths[:3]
            assert store.add_text("g3", b"x", [paths[2]]) == paths[3]
            assert store.add_text("g4", b"x", [paths[3]]) == paths[4]
    nix.verify()
    assert len(collected(store_root).deleted) == 5
    nix.verify()


# --- long -------------------------------------------------------------------------------------------------------------

LONG = """
import random, sys, time
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.optimise import optimise
from reconciler.core.store.store import Store

rng, until, turn = random.Random(sys.argv[2]), time.monotonic() + float(sys.argv[3]), 0
while time.monotonic() < until:
    turn += 1
    with Store.open(sys.argv[1]) as store:
        act = rng.randrange(10)
        if act == 0:
            optimise(store)
        elif act < 3:
            collect(store, GcOptions(max_freed=rng.choice([None, 1000])))
        else:
            leaf = [store.add_tree(f"t{n}", nar.File(str(n).encode() * 100)) for n in rng.sample(range(12), 3)]
            with store.batch() as batch:
                top = batch.add_text(f"top{rng.randrange(5)}", b"x", leaf)
            assert len(store.closure([top])) == 4
            store.add_root(sys.argv[2], top)
"""


@pytest.mark.slow
def test_a_minute_of_everything_at_once_loses_nothing(store_root: Path, nix: RealNix, tmp_path: Path) -> None:
    """Adding, rooting, collecting and optimising, in six processes of ours and in Nix's; one of ours often killed."""
    source = tmp_path / "source"
    source.write_text("x")

    def root(number: int) -> None:
        added = nix.output("nix-store", "--add", source)
        nix.run("nix-store", "--add-root", tmp_path / f"link{number}", "--realise", added)

    root(0)  # from here on the path is kept
    until = time.monotonic() + 60

    def start(number: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", LONG, str(store_root), f"worker{number}", str(until - time.monotonic())]
        return subprocess.Popen(command, cwd=SOURCE)

    workers = [start(number) for number in range(6)]
    turn = 0
    while (left := until - time.monotonic()) > 0:
        turn += 1
        root(turn % 3)
        nix.run("nix-store", "--gc", check=False)
        if turn % 5 == 0 and left > 5:
            workers[0].kill()
            assert workers[0].wait() == -signal.SIGKILL
            workers[0] = start(0)
    assert [worker.wait(60) for worker in workers] == [0] * 6
    collected(store_root)
    with Store.open(str(store_root)) as store:
        for number in range(6):
            target = os.readlink(f"{store.state_dir}/gcroots/worker{number}")
            closure = store.closure([StorePath.parse(target)])
            assert all(os.path.exists(store.real(path)) for path in closure)
    nix.verify()
    assert nix.output("nix-store", "--gc", "--print-dead") == ""
