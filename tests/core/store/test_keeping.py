"""What keeps paths: temporary roots, roots on disk and locks, each against real Nix's collector."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import base32
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import temp_roots
from reconciler.core.store.locks import PathLock
from reconciler.core.store.store import Store
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

ROOT = Path(__file__).parents[3]


def collect(nix: RealNix) -> None:
    nix.run("nix-store", "--gc")


# --- temporary roots --------------------------------------------------------------------------------------------------


def test_a_temporary_root_keeps_a_path_for_as_long_as_the_store_is_open(store_root: Path, nix: RealNix) -> None:
    with Store.open(str(store_root), create=True) as store:
        path = store.add_text("kept", b"x")
    with Store.open(str(store_root)) as store:
        store.add_temp_root(path)
        collect(nix)
        assert store.is_valid(path)
        assert os.path.exists(store.real(path))
        nix.verify()
    collect(nix)
    with Store.open(str(store_root)) as store:
        assert not store.is_valid(path)
        assert not os.path.exists(store.real(path))
    nix.verify()


def test_two_stores_of_one_process_share_their_temporary_roots(store_root: Path, nix: RealNix) -> None:
    first = Store.open(str(store_root), create=True)
    second = Store.open(str(store_root))
    path, other = first.add_text("one", b"1"), second.add_text("two", b"2")
    assert os.listdir(store_root / "nix/var/nix/temproots") == [str(os.getpid())]
    first.close()
    collect(nix)
    assert second.valid([path, other]) == {path, other}
    second.close()
    assert os.listdir(store_root / "nix/var/nix/temproots") == []


def test_a_process_of_the_same_number_elsewhere_keeps_its_file(store: Store, nix: RealNix) -> None:
    """Two PID namespaces over one store: the number names both, and neither may lose its roots."""
    theirs = Path(store.state_dir, "temproots", str(os.getpid()))
    with fs.FileLock(str(theirs)) as lock:
        kept = Store.open(str(store.root)).add_text("theirs", b"x")
        os.write(lock.fd, f"{kept}\0".encode())
        path = store.add_text("ours", b"y")
        assert {f"{os.getpid()}.1"} <= set(os.listdir(theirs.parent))
        collect(nix)
        assert store.valid([path, kept]) == {path, kept}
    store.close()


def test_a_forked_child_has_roots_of_its_own(store: Store, nix: RealNix) -> None:
    path = store.add_text("parent", b"1")
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            store.add_temp_root(path)
            own = os.path.exists(f"{store.state_dir}/temproots/{os.getpid()}")
            status = 0 if own and store.is_valid(path) else 2
            store.close()
        finally:
            os._exit(status)
    os.close(writing)
    os.close(reading)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    collect(nix)
    assert store.is_valid(path)
    nix.verify()


class Collector(threading.Thread):
    """What a running collection shows to others: gc.lock held, and a socket, bound under that name, that takes note of
    roots."""

    def __init__(self, state_dir: str, bound_as: str) -> None:
        super().__init__()
        self.noted: list[str] = []
        self._lock = fs.FileLock(f"{state_dir}/gc.lock")
        self._lock.acquire()
        self._server: socket.socket | None = None
        if bound_as:
            os.mkdir(f"{state_dir}/gc-socket")
            self._server = socket.socket(socket.AF_UNIX)
            fd = os.open(f"{state_dir}/gc-socket", os.O_PATH)
            self._server.bind(f"/proc/self/fd/{fd}/{bound_as}")
            self._server.listen()
            os.rename(bound_as, "socket", src_dir_fd=fd, dst_dir_fd=fd)
            os.close(fd)
        self.start()

    def run(self) -> None:
        if self._server is not None:
            client, _ = self._server.accept()
            with client, client.makefile("rb") as lines:
                for line in lines:
                    self.noted.append(line.decode().strip())
                    client.sendall(b"1")
            self._server.close()
        time.sleep(0.3)
        self._lock.release()


@pytest.mark.parametrize(
    ("bound_as", "told", "waits"),
    [(".socket", True, False), ("socket", True, True), ("", False, True)],
    ids=["ours", "Nix 2.5 and later", "Nix 2.4 and earlier"],
)
def test_a_root_added_while_a_collection_runs_is_told_and_waits_unless_it_is_ours(
    bound_as: str, told: bool, waits: bool, store: Store
) -> None:
    """Nix's answers also for a path that it is about to delete (with what refers to it)."""
    path = StorePath.parse("/nix/store/00000000000000000000000000000000-x")
    collector = Collector(store.state_dir, bound_as)
    started = time.monotonic()
    store.add_temp_root(path)
    assert Path(store.state_dir, "temproots", str(os.getpid())).read_bytes() == f"{path}\0".encode()
    assert collector.noted == [str(path)] * told
    assert (time.monotonic() - started > 0.2) == waits
    collector.join()


@pytest.mark.parametrize("listens", [True, False])
def test_a_collection_that_says_and_does_nothing_is_told_when_patience_ends(
    listens: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was stopped: its socket takes what it is told, and nobody reads it."""
    monkeypatch.setattr(temp_roots, "_PATIENCE", 0.3)
    lock = fs.FileLock(f"{store.state_dir}/gc.lock")
    lock.acquire()
    try:
        with socket.socket(socket.AF_UNIX) as server:
            if listens:
                os.mkdir(f"{store.state_dir}/gc-socket")
                fd = os.open(f"{store.state_dir}/gc-socket", os.O_PATH)
                server.bind(f"/proc/self/fd/{fd}/socket")
                os.close(fd)
                server.listen()
            with pytest.raises(StoreError, match=r"gc.lock: a garbage collection has held it for 0 s") as caught:
                store.add_temp_root(StorePath.parse("/nix/store/00000000000000000000000000000000-x"))
    finally:
        lock.release()  # or the store's end would wait for it
    assert caught.value.hint == "do this again when it is done"


ADDING = """
import sys
from reconciler.core.store.store import Store
with Store.open(sys.argv[1]) as store:
    for number in range(40):
        path = store.add_text(f"p{number}", str(number).encode())
        assert store.is_valid(path), path
    closure = [store.add_text(f"p{number}", str(number).encode()) for number in range(40)]
    store.add_root(sys.argv[2], store.add_text("top", sys.argv[2].encode(), closure))
"""


def test_nothing_is_lost_to_a_collector_that_runs_all_the_while(store: Store, nix: RealNix) -> None:
    adding = [
        subprocess.Popen([sys.executable, "-c", ADDING, store.root, f"test-{number}"], cwd=ROOT) for number in range(2)
    ]
    while any(process.poll() is None for process in adding):
        collect(nix)
    assert [process.wait() for process in adding] == [0, 0]
    collect(nix)
    for number in range(2):
        target = os.readlink(f"{store.state_dir}/gcroots/test-{number}")
        closure = store.closure([StorePath.parse(target)])
        assert len(closure) == 41
        assert all(os.path.exists(store.real(path)) for path in closure)
    nix.verify()


# --- roots ------------------------------------------------------------------------------------------------------------


def test_roots_keep_closures_until_they_are_removed(store_root: Path, nix: RealNix, tmp_path: Path) -> None:
    with Store.open(str(store_root), create=True) as store:
        leaf = store.add_text("leaf", b"1")
        top = store.add_text("top", b"2", [leaf])
        indirect = store.add_text("indirect", b"3")
        garbage = store.add_text("garbage", b"4")
        store.add_root("reconciler/user-alice", top)
        (tmp_path / "result").symlink_to(str(indirect))
        auto = store.add_indirect_root(str(tmp_path / "result"))
    name = base32.encode(hashlib.sha1(os.fsencode(tmp_path / "result")).digest())
    assert auto == f"{store_root}/nix/var/nix/gcroots/auto/{name}"
    collect(nix)
    with Store.open(str(store_root)) as store:
        assert store.valid([leaf, top, indirect, garbage]) == {leaf, top, indirect}
        assert store.remove_root("reconciler/user-alice")
        assert not store.remove_root("reconciler/user-alice")
    (tmp_path / "result").unlink()
    collect(nix)
    with Store.open(str(store_root)) as store:
        assert store.valid([leaf, top, indirect]) == set()
    assert not os.path.lexists(auto)
    nix.verify()


def test_an_indirect_root_has_the_name_that_nix_gives_it() -> None:
    digest = hashlib.sha1(b"/nix/var/nix/profiles/t6-102-link").digest()
    assert base32.encode(digest) == "aq89qh04rg4xc8yybpsa66nk2ksiz4fj"


# --- locks ------------------------------------------------------------------------------------------------------------


def test_a_path_lock_is_exclusive_and_leaves_no_file(store: Store) -> None:
    path = StorePath.parse("/nix/store/00000000000000000000000000000000-x")
    lock, other = store.path_lock(path), PathLock(store.real(path))
    assert lock.acquire(wait=False)
    assert store.path_lock(path) is lock
    assert not other.acquire(wait=False)
    lock.release()
    assert os.listdir(store.store_dir) == [".links"]
    assert other.acquire(wait=False)
    other.release()


def test_one_who_waited_for_a_lock_that_is_gone_begins_again(store: Store) -> None:
    """The file that he opened is unlinked and marked; he must not believe that it locks the path."""
    path = StorePath.parse("/nix/store/00000000000000000000000000000000-x")
    first, second = PathLock(store.real(path)), PathLock(store.real(path))
    first.acquire()
    waiting = threading.Thread(target=second.acquire)
    waiting.start()
    time.sleep(0.1)
    first.release()
    waiting.join(10)
    assert second.held
    assert os.path.exists(f"{store.real(path)}.lock")
    assert not PathLock(store.real(path)).acquire(wait=False)
    second.release()


def test_whoever_holds_the_lock_of_a_path_can_add_it(store: Store, nix: RealNix) -> None:
    from reconciler.core.nix import store_path

    path = store_path.text_path("mine", b"x")
    with store.path_lock(path) as lock:
        assert store.add_text("mine", b"x") == path
        assert lock.held
    nix.verify()


def test_nix_waits_for_our_lock_and_then_finds_the_path(store: Store, nix: RealNix, tmp_path: Path) -> None:
    (tmp_path / "tree").write_text("x")
    with store.batch() as batch:
        path = batch.add_path("tree", str(tmp_path / "tree"))
        command = ["nix-store", "--store", str(nix.root), "--add", str(tmp_path / "tree")]
        theirs = subprocess.Popen(command, env=nix.environment, stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            theirs.wait(1.0)
    assert theirs.communicate(timeout=60)[0].decode().strip() == str(path)
    nix.verify()


CROSSED = """
import sys
from reconciler.core.store.store import Store
names = sys.argv[2].split(",")
with Store.open(sys.argv[1], create=True) as store:
    for turn in range(15):
        with store.batch() as batch:
            for name in names:
                batch.add_text(f"{name}{turn}", bytes(100_000))
"""


def test_batches_that_want_the_same_paths_in_opposite_order_do_not_wait_in_a_circle(
    store_root: Path, nix: RealNix
) -> None:
    """Both also create the store, at the same time."""
    orders = ("a,b,c,d", "d,c,b,a")
    running = [subprocess.Popen([sys.executable, "-c", CROSSED, str(store_root), order], cwd=ROOT) for order in orders]
    assert [process.wait(60) for process in running] == [0, 0]
    with Store.open(str(store_root)) as store:
        assert len(os.listdir(store.store_dir)) == 61
    nix.verify()
