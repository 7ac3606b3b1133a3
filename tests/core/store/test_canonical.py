"""The canonical form of files, and which files are never touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.store import canonical
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE, golden, write
from tests.oracle import RealNix


def test_a_tree_gets_the_form_that_an_unpacked_one_has(tmp_path: Path) -> None:
    top = tmp_path / "x"
    write(TREE, top)
    (top / "sub").chmod(0o2700)
    (top / "a").chmod(0o4644)
    (top / "empty").chmod(0o066)
    Store.canonicalise(str(top))
    for path in (top, *top.rglob("*")):
        status = path.lstat()
        assert status.st_mtime_ns == 1_000_000_000
        if not path.is_symlink():
            assert stat.S_IMODE(status.st_mode) == (0o555 if path.is_dir() or path.name == "run" else 0o444)
    assert b"".join(nar.dump(str(top))) == golden("tree")


def test_attributes_are_stripped(tmp_path: Path) -> None:
    top = tmp_path / "x"
    write(TREE, top)
    try:
        os.setxattr(top / "a", "user.note", b"x")
        os.setxattr(top, "user.note", b"x")
    except OSError:
        pytest.skip("this file system has no attributes for users")
    Store.canonicalise(str(top))
    assert os.listxattr(top) == os.listxattr(top / "a") == []


@pytest.mark.root
def test_the_owner_is_changed_of_links_too(tmp_path: Path) -> None:
    top = tmp_path / "x"
    write(TREE, top)
    for path in (top, *top.rglob("*")):
        os.lchown(path, 12345, 12346)
    canonical.canonicalise(str(top))
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (top, *top.rglob("*"))} == {(0, 0)}
    canonical.canonicalise(str(top), 7, 8)
    assert {(path.lstat().st_uid, path.lstat().st_gid) for path in (top, *top.rglob("*"))} == {(7, 8)}


def test_hard_links_within_the_tree_are_changed_once_and_kept(tmp_path: Path) -> None:
    top = tmp_path / "x"
    top.mkdir()
    (top / "a").write_text("x")
    os.link(top / "a", top / "b")
    canonical.canonicalise(str(top))
    assert (top / "a").stat().st_ino == (top / "b").stat().st_ino
    assert stat.S_IMODE((top / "b").stat().st_mode) == 0o444


def test_a_file_that_also_lies_elsewhere_is_refused_and_not_touched(tmp_path: Path) -> None:
    outside, top = tmp_path / "shadow", tmp_path / "x"
    outside.write_text("secret")
    outside.chmod(0o600)
    before = outside.stat()
    top.mkdir()
    os.link(outside, top / "a")
    with pytest.raises(StoreError, match="'a' is also a file outside of it"):
        canonical.canonicalise(str(top))
    after = outside.stat()
    assert (after.st_mode, after.st_mtime_ns, after.st_uid) == (before.st_mode, before.st_mtime_ns, before.st_uid)


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir(mode=0o700)
    (tmp_path / "x").mkdir()
    (tmp_path / "x/l").symlink_to(tmp_path / "outside")
    canonical.canonicalise(str(tmp_path / "x"))
    (tmp_path / "top").symlink_to(tmp_path / "outside")
    canonical.canonicalise(str(tmp_path / "top"))
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) == 0o700


def test_what_a_store_cannot_hold_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(StoreError, match="'fifo' is neither file, link nor directory"):
        canonical.canonicalise(str(tmp_path))


@pytest.mark.nix
def test_a_store_whose_directory_hands_down_access_lists_has_none_in_its_paths(store: Store, nix: RealNix) -> None:
    entry = b"\x02\0\0\0" + b"".join(
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in (
            (1, 7, 2**32 - 1),
            (2, 7, 1234),
            (4, 5, 2**32 - 1),
            (16, 7, 2**32 - 1),
            (32, 5, 2**32 - 1),
        )
    )
    try:
        os.setxattr(store.store_dir, "system.posix_acl_default", entry)
    except OSError:
        pytest.skip("this file system has no access lists")
    path = store.add_tree("tree", TREE)
    files = [Path(store.real(path)), *Path(store.real(path)).rglob("*")]
    assert [os.listxattr(file, follow_symlinks=False) for file in files] == [[]] * len(files)
    nix.verify()
