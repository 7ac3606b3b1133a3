"""Stores that are not root's own, and disks that refuse."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE
from tests.core.store.test_store import info_of
from tests.oracle import verify

NOBODY = 65534

# Everything is imported first: this Python may lie where only root can read.
AS_NOBODY = f"""
import ctypes, os, socket, sqlite3, sys, urllib.parse
root, source = sys.argv[1:3]
sys.path.insert(0, source)
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
os.setgroups([])
os.setresgid({NOBODY}, {NOBODY}, {NOBODY})
os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
"""


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that every user reaches, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)


def as_nobody(code: str, root: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", AS_NOBODY + code, str(root), str(Path(__file__).parents[3]), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.root
@pytest.mark.nix
def test_a_user_has_a_store_of_his_own(open_directory: Path) -> None:
    root = open_directory / "root"
    root.mkdir()
    os.chown(root, NOBODY, NOBODY)
    code = """
with Store.open(root, create=True) as store:
    leaf = store.add_text("leaf", b"x")
    tree = store.add_tree("tree", nar.Directory({"l": nar.Link(str(leaf))}), [leaf])
    print(len(store.closure([tree])))
"""
    assert as_nobody(code, root) == "2"
    assert as_nobody(code, root) == "2"
    verify(root)


@pytest.mark.root
def test_a_store_that_may_only_be_read_is_read(open_directory: Path) -> None:
    root = open_directory / "root"
    code = """
with Store.open(root) as store:
    path = StorePath.parse(sys.argv[3])
    print(store.is_valid(path), len(store.closure([path])), sum(map(len, store.nar(path))) == store.info(path).nar_size)
    try:
        store.add_text("new", b"new")
    except StoreError as error:
        print(error.message.partition(": ")[2])
"""
    with Store.open(str(root), create=True) as store:
        path = store.add_tree("tree", TREE)
        assert as_nobody(code, root, str(path)) == "True 1 True\nPermission denied"
    assert as_nobody(code, root, str(path)) == "True 1 True\nPermission denied"


@pytest.mark.root
def test_a_user_cannot_make_a_store_where_he_may_not_write(open_directory: Path) -> None:
    code = """
try:
    Store.open(root, create=True)
except StoreError as error:
    print(error)
"""
    assert as_nobody(code, open_directory) == f"{open_directory}/nix: Permission denied"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.root
@pytest.mark.nix
def test_a_full_disk_is_told_and_leaves_room_again(small_disk: Path) -> None:
    with Store.open(str(small_disk), create=True) as store:
        kept = store.add_tree("kept", TREE)
        before = os.statvfs(small_disk).f_bfree
        info, data = info_of("big", nar.Directory({"a": nar.File(bytes(100_000)), "b": nar.File(bytes(2_000_000))}))
        with pytest.raises(StoreError, match=f"{info.path}: No space left on device") as caught:
            store.add_nar(info, io.BytesIO(data))
        assert caught.value.hint == "the disk is full, or has no inodes left"
        assert not os.path.lexists(store.real(info.path))
        assert os.statvfs(small_disk).f_bfree >= before - 4
        assert store.is_valid(kept)
    verify(small_disk)


@pytest.mark.root
def test_a_store_that_is_mounted_read_only_is_said_to_be_so(small_disk: Path) -> None:
    with Store.open(str(small_disk), create=True) as store:
        subprocess.run(["mount", "--bind", store.store_dir, store.store_dir], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", store.store_dir], check=True)
        try:
            with pytest.raises(StoreError, match="Read-only file system") as caught:
                store.add_text("x", b"x")
            assert caught.value.hint == "it is mounted read-only"
        finally:
            subprocess.run(["umount", store.store_dir], check=True)
        assert store.is_valid(store.add_text("x", b"x"))


def test_what_has_no_files_is_not_registered(store: Store) -> None:
    path = StorePath.parse("/nix/store/00000000000000000000000000000000-x")
    with pytest.raises(StoreError, match="nothing lies at"):
        store.register([PathInfo(path, Hash.sha256(b""), 120, ())])
    assert not store.is_valid(path)


def test_a_derivation_whose_text_was_changed_is_not_believed(store: Store) -> None:
    from reconciler.core.nix import derivation
    from tests.core.store.test_store import simple

    drv = derivation.with_outputs(simple({}), "base", store.read_derivation)
    path = store.write_derivation(drv, "base")
    real = Path(store.real(path))
    real.chmod(0o644)
    real.write_bytes(real.read_bytes().replace(b": > $out", b"rm -rf /"))
    with pytest.raises(StoreError, match="its text has been changed"):
        store.read_derivation(path)


def test_sources_that_are_not_there_are_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"{tmp_path}/none: No such file"):
        store.add_path("none", str(tmp_path / "none"))
    with pytest.raises(StoreError, match=f"{tmp_path}/none: No such file"):
        store.add_fixed("none", str(tmp_path / "none"), Hash.sha256(b""))


def test_a_store_goes_on_in_a_forked_child(store: Store) -> None:
    path = store.add_text("x", b"x")
    child = os.fork()
    if child == 0:
        try:
            right = store.is_valid(path) and store.is_valid(store.add_text("y", b"y"))
            store.close()
            os._exit(0 if right else 1)
        finally:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert len(os.listdir(store.store_dir)) == 3
    assert store.is_valid(store.add_text("z", b"z"))
    lock = fs.FileLock(f"{store.state_dir}/db/big-lock")
    assert not lock.acquire(exclusive=True, wait=False)
