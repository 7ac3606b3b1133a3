"""A process killed at any step of an import: the store stays right, and the same import again converges."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.database import Database
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

# Imports three paths, the last of which refers to the others, and kills itself at the call named, the nth time.
IMPORT = """
import os, signal, sys
from reconciler.core import fs
from reconciler.core.nix import nar
from reconciler.core.store import batch, database, locks, store
from tests.core.nix.trees import TREE

root, place, nth = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner, _, name = place.rpartition(".")
target = {"fs": fs, "nar": nar, "os": os, "Database": database.Database, "PathLock": locks.PathLock}[owner]
real, calls = getattr(target, name), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == nth:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

with store.Store.open(root, create=True) as opened:
    setattr(target, name, deadly)
    with opened.batch() as adding:
        one = adding.add_text("one", b"1")
        tree = adding.add_tree("tree", TREE)
        top = adding.add_text("top", b"2", [one, tree])
    print(top)
"""

STEPS = [
    *[("nar.restore", nth) for nth in (1, 2, 3)],
    *[("os.fchmod", nth) for nth in (1, 4, 8, 11)],
    *[("os.mkdir", nth) for nth in (1, 3)],
    *[("os.symlink", nth) for nth in (1,)],
    ("fs.syncfs", 1),
    ("Database.register", 1),
    *[("PathLock.release", nth) for nth in (1, 2, 3)],
]


def run(root: Path, place: str, nth: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORT, str(root), place, str(nth)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize(("place", "nth"), STEPS)
def test_an_import_killed_at_any_step_leaves_a_right_store_and_converges(
    place: str, nth: int, store_root: Path, nix: RealNix
) -> None:
    killed = run(store_root, place, nth)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    nix.verify()
    with Store.open(str(store_root)) as store:
        registered = place == "PathLock.release"
        assert len(store.valid(map_paths(store))) == (3 if registered else 0)
    again = run(store_root, place, 1000)
    assert again.returncode == 0, again.stderr
    assert len(nix.output("nix-store", "-qR", again.stdout.strip()).splitlines()) == 3
    nix.verify()


@pytest.mark.parametrize(("place", "nth"), [("fs.syncfs", 1), ("nar.restore", 3)])
def test_what_a_killed_import_left_is_garbage_to_nix(place: str, nth: int, store_root: Path, nix: RealNix) -> None:
    run(store_root, place, nth)
    nix.run("nix-store", "--gc")
    assert os.listdir(store_root / "nix/store") == [".links"]
    assert os.listdir(store_root / "nix/var/nix/temproots") == []
    assert run(store_root, place, 1000).returncode == 0
    nix.verify()


def test_what_a_killed_import_left_whole_is_adopted_and_not_sent_again(store_root: Path, nix: RealNix) -> None:
    assert run(store_root, "Database.register", 1).returncode == -signal.SIGKILL
    left = {name: os.lstat(store_root / "nix/store" / name).st_ino for name in left_over(store_root)}
    assert len(left) == 3
    with Store.open(str(store_root)) as store, store.batch() as batch:
        with Store.open(str(store_root.with_name("other")), create=True) as other:
            one, tree = other.add_text("one", b"1"), other.add_tree("tree", TREE)
            top = other.add_text("top", b"2", [one, tree])
            infos = other.infos(other.closure([top]))
        assert all(batch.adopt(info) for info in infos)
    assert {name: os.lstat(store_root / "nix/store" / name).st_ino for name in left_over(store_root)} == left
    nix.verify()


def left_over(root: Path) -> list[str]:
    return [name for name in os.listdir(root / "nix/store") if not name.endswith((".lock", ".links"))]


def map_paths(store: Store) -> list[StorePath]:
    return [StorePath.from_base_name(name) for name in left_over(Path(store.root))]


def test_no_row_is_written_before_the_files_are_synced(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, register = fs.syncfs, Database.register

    def seen_sync(fd: int) -> None:
        calls.append("sync")
        sync(fd)

    def seen_register(database: Database, infos: Any, outputs: Any) -> None:
        calls.append("register")
        register(database, infos, outputs)

    monkeypatch.setattr(fs, "syncfs", seen_sync)
    monkeypatch.setattr(Database, "register", seen_register)
    with store.batch() as batch:
        batch.add_text("a", b"a")
        batch.add_tree("b", nar.Directory({}))
    assert calls == ["sync", "register"]


def test_the_database_syncs_each_transaction(store: Store) -> None:
    """With less, a power loss would take back what was said to be registered."""
    store.valid([])
    connection = store._database._connection
    assert connection is not None
    assert connection.execute("pragma synchronous").fetchone() == (2,)
    assert connection.execute("pragma journal_mode").fetchone() == ("wal",)
    assert connection.execute("pragma foreign_keys").fetchone() == (1,)


def test_a_disk_that_cannot_sync_registers_nothing(store: Store, nix: RealNix, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "syncfs", broken)
        with pytest.raises(StoreError, match="nix/store: Input/output error"):
            store.add_text("a", b"a")
    assert not [name for name in os.listdir(store.store_dir) if name.endswith(".lock")]
    path = store.add_text("a", b"a")
    assert store.is_valid(path)
    nix.verify()
