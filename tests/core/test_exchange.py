"""Two names swapped in one step."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from reconciler.core import fs


def exchange(directory: Path, one: str, other: str) -> None:
    fd = os.open(directory, fs.OPEN_DIRECTORY)
    try:
        fs.exchange(one, other, fd)
    finally:
        os.close(fd)


def test_entries_of_any_kinds_change_places(tmp_path: Path) -> None:
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("nowhere")
    exchange(tmp_path, "tree", "file")
    exchange(tmp_path, "tree", "link")
    assert (tmp_path / "file/sub").is_dir()
    assert os.readlink(tmp_path / "tree") == "nowhere"
    assert (tmp_path / "link").read_text() == "text"
    assert sorted(os.listdir(tmp_path)) == ["file", "link", "tree"]


def test_both_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "one").touch()
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path, "one", "other")
    assert os.listdir(tmp_path) == ["one"]


def test_a_c_library_without_the_call_is_gone_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes

    class Old:
        def __init__(self, name: object, use_errno: bool) -> None:
            self.syscall = real(None, use_errno=use_errno).syscall

    real = ctypes.CDLL
    monkeypatch.setattr(ctypes, "CDLL", Old)
    for name in ("one", "other"):
        (tmp_path / name).write_text(name)
    exchange(tmp_path, "one", "other")
    assert (tmp_path / "one").read_text() == "other"
    monkeypatch.setattr(fs, "_RENAMEAT2", {})
    with pytest.raises(OSError, match="not implemented") as raised:
        exchange(tmp_path, "one", "other")
    assert raised.value.errno == errno.ENOSYS
