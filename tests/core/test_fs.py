"""Durable replacement, removal on descriptors, locks."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from reconciler.core import fs


def test_a_file_is_replaced_whole_with_its_mode_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    old = os.umask(0o077)
    try:
        fs.replace_file(str(path), b"one")
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        fs.replace_file(str(path), b"two", mode=0o600)
    finally:
        os.umask(old)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["file"]


def test_a_file_is_created_once_and_what_is_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert fs.create_file(str(path), b"one", mode=0o600)
    assert not fs.create_file(str(path), b"two")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode), path.stat().st_nlink) == (b"one", 0o600, 1)
    (tmp_path / "link").symlink_to("nowhere")
    assert not fs.create_file(str(tmp_path / "link"), b"two")
    assert sorted(os.listdir(tmp_path)) == ["file", "link"]


def test_a_link_is_replaced_by_the_file_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("kept")
    (tmp_path / "file").symlink_to("target")
    fs.replace_file(str(tmp_path / "file"), b"new")
    assert not (tmp_path / "file").is_symlink()
    assert (tmp_path / "target").read_text() == "kept"


def test_a_replacement_that_fails_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fs.replace_file(str(path), b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_replacement_is_synced_before_and_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.rename

    def seen_sync(fd: int) -> None:
        calls.append("directory" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        sync(fd)

    def seen_rename(old: str, new: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        calls.append("rename")
        rename(old, new, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "fsync", seen_sync)
    monkeypatch.setattr(os, "rename", seen_rename)
    fs.replace_file(str(tmp_path / "file"), b"x")
    fs.replace_symlink("file", str(tmp_path / "link"))
    fs.replace_symlink("other", str(tmp_path / "link"))
    assert calls == ["file", "rename", "directory", "directory", "rename", "directory"]


def test_what_a_killed_replacement_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    ours = [".file.tmp-17-0123abcd", ".0_link", ".12_link", ".a.b.tmp-1-00000000"]
    others = ["file", ".file", ".file.tmp-17", ".0_", ".x_link", "0_link", ".file.tmp-17-0123abcd.bak"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("")
    (tmp_path / ".alice.tmp-3-0123abcd").mkdir()
    (tmp_path / ".full.tmp-3-0123abcd").mkdir()
    (tmp_path / ".full.tmp-3-0123abcd/kept").write_text("")
    fs.remove_temporaries(str(tmp_path), ("link",))
    assert set(ours) - set(os.listdir(tmp_path)) == {".0_link", ".12_link"}
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fs.remove_temporaries(fd)
    finally:
        os.close(fd)
    assert sorted(os.listdir(tmp_path)) == sorted([*others, ".full.tmp-3-0123abcd"])
    fs.remove_temporaries(str(tmp_path / "nowhere"))


def test_links_are_replaced_also_when_the_temporary_name_is_taken(tmp_path: Path) -> None:
    link = tmp_path / "profile"
    (tmp_path / ".0_profile").symlink_to("left over")
    fs.replace_symlink("profile-1-link", str(link))
    fs.replace_symlink("profile-2-link", str(link))
    assert os.readlink(link) == "profile-2-link"
    assert sorted(os.listdir(tmp_path)) == [".0_profile", "profile"]


def test_a_link_is_replaced_relative_to_a_descriptor(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        fs.replace_symlink("x", "link", dir_fd=fd)
    finally:
        os.close(fd)
    assert os.readlink(tmp_path / "link") == "x"


@pytest.mark.parametrize("path", ["", "/", "a/", "a/..", "."])
def test_only_an_entry_can_be_replaced(path: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="names no entry"):
        fs.replace_file(f"{tmp_path}/{path}" if path else "", b"")


def test_missing_directories_are_made_with_their_mode(tmp_path: Path) -> None:
    old = os.umask(0o077)
    try:
        fs.ensure_directory(str(tmp_path / "a/b"), 0o755)
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    (tmp_path / "a").chmod(0o700)
    fs.ensure_directory(str(tmp_path / "a/b"))
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        fs.ensure_directory(str(tmp_path / "file/x"))


def remove(path: Path) -> bool:
    fd = os.open(path.parent, os.O_RDONLY)
    try:
        return fs.remove_tree(path.name, fd)
    finally:
        os.close(fd)


def test_trees_are_removed_also_where_nobody_may_write(tmp_path: Path) -> None:
    top = tmp_path / "top"
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/file").write_text("x")
    (top / "a/link").symlink_to("/")
    os.mkfifo(top / "fifo")
    for directory in ("a/b/c", "a/b", "a", "."):
        (top / directory).chmod(0)
    assert remove(top)
    assert not remove(top)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("kind", ["file", "link", "link to a directory"])
def test_what_is_no_directory_is_unlinked_and_not_followed(kind: str, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("x")
    if kind == "file":
        (tmp_path / "x").write_text("x")
    else:
        (tmp_path / "x").symlink_to("nowhere" if kind == "link" else "outside")
    assert remove(tmp_path / "x")
    assert os.listdir(tmp_path) == ["outside"]
    assert os.listdir(tmp_path / "outside") == ["kept"]


def test_other_names_of_a_removed_file_keep_all_they_have_and_what_goes_is_told(tmp_path: Path) -> None:
    top, other = tmp_path / "top", tmp_path / "other"
    (top / "sub").mkdir(parents=True)
    (top / "sub/file").write_text("x")
    (top / "link").symlink_to("/")
    os.link(top / "sub/file", other)
    other.chmod(0o400)
    os.utime(other, ns=(1, 1))
    (top / "sub").chmod(0o500)
    told: list[tuple[int, int]] = []
    fd = os.open(tmp_path, os.O_RDONLY)
    assert fs.remove_tree("top", fd, lambda status: told.append((status.st_size, status.st_nlink)))
    os.close(fd)
    assert sorted(told) == [(1, 1), (1, 2)]
    status = os.stat(other)
    assert (stat.S_IMODE(status.st_mode), status.st_mtime_ns, status.st_nlink) == (0o400, 1, 1)


def test_a_tree_deeper_than_any_descriptor_limit_is_removed(tmp_path: Path) -> None:
    fds = [os.open(tmp_path, os.O_RDONLY)]
    for _ in range(3000):
        os.mkdir("d", dir_fd=fds[-1])
        fds.append(os.open("d", os.O_RDONLY, dir_fd=fds[-1]))
        os.close(fds.pop(0))
    os.close(fds.pop())
    assert remove(tmp_path / "d")
    assert not os.listdir(tmp_path)


def test_a_directory_swapped_for_a_link_leads_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The swap comes between the moment the directory was seen and the moment it is entered."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/kept").write_text("x")
    (tmp_path / "top/victim").mkdir(parents=True)
    real = fs._open_writable

    def swapping(name: str, dir_fd: int, device: int) -> int:
        if name == "victim":
            (tmp_path / "top/victim").rmdir()
            (tmp_path / "top/victim").symlink_to(tmp_path / "outside")
        return real(name, dir_fd, device)

    monkeypatch.setattr(fs, "_open_writable", swapping)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        remove(tmp_path / "top")
    assert os.listdir(tmp_path / "outside") == ["kept"]


def test_nothing_outside_goes_however_often_a_directory_and_a_link_are_swapped(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    for kept in (outside / "kept", outside / "deep/kept"):
        kept.touch()
    tops, ended = [tmp_path / "none"], threading.Event()

    def swapping() -> None:
        while not ended.is_set():
            with contextlib.suppress(OSError):
                fd = os.open(tops[-1], os.O_RDONLY)
                try:
                    fs.exchange("directory", "link", fd)
                finally:
                    os.close(fd)

    swapper = threading.Thread(target=swapping)
    swapper.start()
    try:
        for turn in range(80):
            top = tmp_path / f"top{turn}"
            for number in range(5):
                (top / f"directory/deep/{number}").mkdir(parents=True)
            (top / "link").symlink_to(outside)
            tops.append(top)
            with contextlib.suppress(OSError):
                remove(top)
    finally:
        ended.set()
        swapper.join()
    assert sorted(path.name for path in outside.rglob("*")) == ["deep", "kept", "kept"]


def test_a_directory_moved_away_while_it_is_emptied_ends_the_removal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Going up by `..` would otherwise lead to a directory that nobody asked to empty."""
    (tmp_path / "outside/kept").mkdir(parents=True)
    (tmp_path / "top/a/b").mkdir(parents=True)
    real = fs._unlink_files

    def moving(fd: int, on_unlink: None) -> list[str]:
        names = real(fd, on_unlink)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/a/b"):
            (tmp_path / "top/a/b").rename(tmp_path / "outside/b")
        return names

    monkeypatch.setattr(fs, "_unlink_files", moving)
    with pytest.raises(OSError, match="moved while it was removed"):
        remove(tmp_path / "top")
    assert (tmp_path / "outside/kept").is_dir()


def test_a_lock_is_shared_exclusive_and_freed(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    one, two = fs.FileLock(path), fs.FileLock(path)
    assert one.acquire(exclusive=False, wait=False)
    assert two.acquire(exclusive=False, wait=False)
    assert not two.acquire(exclusive=True, wait=False)
    one.release()
    assert two.acquire(exclusive=True, wait=False)
    assert not one.acquire(exclusive=False, wait=False)
    assert not one.held
    two.release()
    with one:
        assert one.held
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        os.write(one.fd, b"owner")
    with pytest.raises(ValueError, match="not held"):
        _ = one.fd


def test_a_lock_is_waited_for(tmp_path: Path) -> None:
    one, two = fs.FileLock(str(tmp_path / "lock")), fs.FileLock(str(tmp_path / "lock"))
    one.acquire()
    waiting = threading.Thread(target=two.acquire)
    waiting.start()
    waiting.join(0.1)
    assert waiting.is_alive()
    one.release()
    waiting.join(10)
    assert two.held
    two.release()


def test_a_file_system_is_synced_and_a_fault_of_the_disk_is_told(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    fs.syncfs(fd)
    fs.fsync_directory(fd)
    fs.fsync_directory(str(tmp_path))
    os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        fs.syncfs(fd)


@pytest.mark.parametrize(
    ("number", "told"), [(errno.EINVAL, False), (errno.ENOSYS, False), (errno.EIO, True), (errno.ENOSPC, True)]
)
def test_only_a_file_system_that_cannot_sync_is_forgiven(
    number: int, told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fails)
    if told:
        with pytest.raises(OSError, match=os.strerror(number)):
            fs.fsync_directory(str(tmp_path))
    else:
        fs.fsync_directory(str(tmp_path))
