"""What a large batch costs is in proportion to its paths."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.store.locks import PathLock
from reconciler.core.store.store import Store


def questions(store: Store, count: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the locks of a batch of `count` paths are looked at."""
    asked = 0
    held = vars(PathLock)["held"].fget

    def counted(lock: PathLock) -> bool:
        nonlocal asked
        asked += 1
        return bool(held(lock))

    with monkeypatch.context() as patch, store.batch() as batch:
        patch.setattr(PathLock, "held", property(counted))
        for number in range(count):
            batch.add_text(f"text-{count}-{number}", b"x")
    return asked


def test_ten_times_the_paths_look_at_no_more_than_ten_times_the_locks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    few, many = questions(store, 60, monkeypatch), questions(store, 600, monkeypatch)
    assert many < 15 * few


def test_a_small_tree_is_read_once_and_a_large_one_twice(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = []

    def dump(path: str) -> object:
        reads.append(path)
        return real(path)

    real = nar.dump
    monkeypatch.setattr(nar, "dump", dump)
    (tmp_path / "small").write_bytes(b"x" * 1000)
    (tmp_path / "large").write_bytes(b"x" * 2 * nar.CHUNK)
    small = store.add_path("small", str(tmp_path / "small"))
    large = store.add_path("large", str(tmp_path / "large"))
    assert [Path(path).name for path in reads] == ["small", "large", "large"]
    assert b"".join(store.nar(small)) == nar.encode(nar.File(b"x" * 1000))
    assert b"".join(store.nar(large)) == nar.encode(nar.File(b"x" * 2 * nar.CHUNK))
