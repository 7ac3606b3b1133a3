"""Equal files stored once: the same links that real Nix makes, beside it, and after a kill."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.optimise import OptimiseEvent, OptimiseResult, optimise
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE
from tests.core.store.parts import bytes_of
from tests.core.store.scenes import SOURCE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def fill(root: Path, seed: int = 0, count: int = 6) -> list[StorePath]:
    """Paths with many equal files: in one path and in several, links, programs, empty ones, and top-level files."""
    rng = random.Random(seed)
    leaves: list[nar.Node] = [nar.Link("target"), nar.Link("other"), nar.File(b"")]
    leaves += [nar.File(f"text {n}".encode() * 50 * n, executable=bool(n % 2)) for n in range(5)]
    leaves += [nar.File(b"text 2" * 100, executable=True)]

    def tree(depth: int) -> nar.Directory:
        entries: dict[str, nar.Node] = {f"f{n}": rng.choice(leaves) for n in range(rng.randrange(8))}
        if depth:
            entries.update({f"d{n}": tree(depth - 1) for n in range(rng.randrange(3))})
        return nar.Directory(entries)

    with Store.open(str(root), create=True) as store, store.batch() as batch:
        paths = [batch.add_tree(f"tree{n}", tree(3)) for n in range(count)]
        paths += [batch.add_tree(f"top{n}", leaf) for n in range(2) for leaf in leaves[1:4]]
        return [*paths, batch.add_tree("odd", TREE)]


def structure(root: Path) -> tuple[set[str], set[frozenset[str]], dict[str, tuple[int, int]]]:
    """The names in `.links`; which names share a file; and mode and time of every directory in a path."""
    top = root / "nix/store"
    sharing: dict[int, set[str]] = {}
    directories = {}
    for directory, names, files in os.walk(top):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            status = os.lstat(path)
            shown = os.path.relpath(path, top)
            if not stat.S_ISDIR(status.st_mode):
                sharing.setdefault(status.st_ino, set()).add(shown)
            elif shown != ".links":
                directories[shown] = (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
    return set(os.listdir(top / ".links")), {frozenset(names) for names in sharing.values()}, directories


def partition(root: Path) -> tuple[set[str], set[frozenset[str]]]:
    links, sharing, directories = structure(root)
    assert set(directories.values()) == {(0o555, 1_000_000_000)}
    return links, sharing


def ours(root: Path, events: list[OptimiseEvent] | None = None) -> OptimiseResult:
    with Store.open(str(root)) as store:
        return optimise(store, None if events is None else events.append)


@pytest.mark.parametrize("seed", range(3))
def test_the_links_are_those_that_nix_makes(seed: int, store_root: Path) -> None:
    one, other = store_root / "one", store_root / "other"
    fill(one, seed)
    shutil.copytree(one, other, symlinks=True)
    for path in other.rglob("*"):
        os.utime(path, ns=(0, 1_000_000_000), follow_symlinks=False)
    before = bytes_of(one)
    events: list[OptimiseEvent] = []
    result = ours(one, events)
    RealNix(other).run("nix-store", "--optimise")
    links, sharing = partition(one)
    assert (links, sharing) == partition(other)
    assert before - bytes_of(one) == result.freed == sum(event.freed for event in events)
    assert result.files == len(events) > 20
    for root in (one, other):
        RealNix(root).verify()
        assert ours(root) == OptimiseResult(0, 0)
    done = RealNix(one).run("nix-store", "--optimise")
    assert b"0.00 MiB freed by hard-linking 0 files" in done.stderr
    assert partition(one) == (links, sharing)


def test_what_was_added_since_is_linked_to_what_was_there(store_root: Path, nix: RealNix) -> None:
    """By Nix's optimiser before, and by ours after."""
    fill(store_root, 1)
    nix.run("nix-store", "--optimise")
    links, _ = partition(store_root)
    with Store.open(str(store_root)) as store:
        path = store.add_tree("late", nar.Directory({"same": nar.File(b"text 2" * 100, True), "new": nar.File(b"n")}))
    assert ours(store_root) == OptimiseResult(1, 600)
    assert len(partition(store_root)[0] - links) == 1
    assert os.lstat(f"{store.real(path)}/same").st_nlink > 2
    nix.verify()


def test_a_writable_file_is_told_of_and_left_alone(store_root: Path) -> None:
    with Store.open(str(store_root), create=True) as store:
        one, two = (store.add_tree(name, nar.Directory({"f": nar.File(b"equal")})) for name in ("one", "two"))
        os.chmod(f"{store.real(two)}/f", 0o644)
    events: list[OptimiseEvent] = []
    assert ours(store_root, events) == OptimiseResult(0, 0)
    assert events == [OptimiseEvent("skipped", f"{two.base_name}/f")]
    assert os.lstat(f"{store.real(one)}/f").st_nlink == 2


@pytest.mark.parametrize("call", ["link", "rename"])
def test_a_file_with_as_many_names_as_it_can_have_is_left_alone(
    call: str, store_root: Path, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(str(store_root), create=True) as store:
        paths = [store.add_tree(name, nar.Directory({"f": nar.File(b"equal")})) for name in ("one", "two")]

    def full(*arguments: Any, **options: Any) -> None:
        if call == "rename" or os.path.basename(arguments[1]).startswith(".tmp-link-"):
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(*arguments, **options)

    real = getattr(os, call)
    monkeypatch.setattr(os, call, full)
    assert ours(store_root) == OptimiseResult(0, 0)
    assert sorted(os.lstat(f"{store.real(path)}/f").st_nlink for path in paths) == [1, 2]
    assert not [name for name in os.listdir(store.store_dir) if name.startswith(".tmp")]
    nix.verify()


@pytest.mark.parametrize("size", ["same size", "another size"])
def test_rot_in_links_does_not_spread(size: str, store_root: Path) -> None:
    contents = b"contents"
    with Store.open(str(store_root), create=True) as store:
        first = store.add_tree("first", nar.Directory({"f": nar.File(contents)}))
    ours(store_root)
    with Store.open(str(store_root)) as store:
        rotten = Path(store.real(first), "f")
        rotten.chmod(0o644)
        rotten.write_bytes(b"CONTENTS" if size == "same size" else b"c")
        rotten.chmod(0o444)
        others = [store.add_tree(name, nar.Directory({"g": nar.File(contents)})) for name in ("two", "three")]
    events: list[OptimiseEvent] = []
    assert ours(store_root, events).files == 1
    (link,) = os.listdir(store_root / "nix/store/.links")
    assert [event for event in events if event.kind == "rotten"] == [OptimiseEvent("rotten", f".links/{link}")]
    for path in others:
        assert os.path.samefile(f"{store.real(path)}/g", f"{store.store_dir}/.links/{link}")
        assert Path(store.real(path), "g").read_bytes() == contents


def test_directories_get_back_what_a_killed_run_has_left_without(store_root: Path) -> None:
    paths = fill(store_root)
    with Store.open(str(store_root)) as store:
        os.chmod(store.real(paths[0]), 0o755)
        os.utime(store.real(paths[0]))
    ours(store_root)
    partition(store_root)


def test_a_store_that_may_not_be_written_to_is_refused(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_root)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="may not be written to"):
        ours(store_root)


def test_an_error_of_the_disk_names_the_path(store_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(store_root)

    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", failing)
    with pytest.raises(StoreError, match=rf"^{store_root}/nix/store/\w{{32}}-\w+: Input/output error$"):
        ours(store_root)
    monkeypatch.undo()
    ours(store_root)
    partition(store_root)


DEADLY = """
import os, signal, sys
from reconciler.core.store.optimise import optimise
from reconciler.core.store.store import Store

name, nth, after = sys.argv[2], int(sys.argv[3]), sys.argv[4] == "after"
real, calls = getattr(os, name), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == nth and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    try:
        return real(*arguments, **options)
    finally:
        if calls == nth:
            os.kill(os.getpid(), signal.SIGKILL)

with Store.open(sys.argv[1]) as opened:
    setattr(os, name, deadly)
    optimise(opened)
"""
STEPS = [(name, nth) for name in ("link", "rename", "unlink", "utime") for nth in (1, 7)]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("name", "nth"), STEPS)
def test_a_kill_at_any_step_harms_nothing_and_the_next_run_ends_it(
    name: str, nth: int, when: str, store_root: Path, nix: RealNix
) -> None:
    paths = fill(store_root)
    with Store.open(str(store_root)) as store:
        for number, path in enumerate(paths):
            store.add_root(f"root{number}", path)
    command = [sys.executable, "-c", DEADLY, str(store_root), name, str(nth), when]
    assert subprocess.run(command, cwd=SOURCE, check=False, timeout=60).returncode == -signal.SIGKILL
    nix.verify()
    with Store.open(str(store_root)) as store:
        optimise(store)
        result = collect(store, GcOptions())
        assert all(entry.startswith(".tmp-link-") for entry in result.deleted)
        assert store.valid(paths) == set(paths)
        assert optimise(store) == OptimiseResult(0, 0)
    assert not [entry for entry in os.listdir(f"{store_root}/nix/store") if entry.startswith(".tmp")]
    partition(store_root)
    nix.verify()


def test_beside_nix_and_collections_everything_stays_right(store_root: Path, nix: RealNix) -> None:
    paths = fill(store_root, 2, 20)
    with Store.open(str(store_root)) as store:
        for number, path in enumerate(paths[:15]):
            store.add_root(f"root{number}", path)

    def theirs() -> None:
        for _ in range(3):
            # A collection, Nix's own too, may take away the link that Nix's optimiser is about to rename.
            nix.run("nix-store", "--optimise", check=False)

    def collections() -> None:
        for _ in range(3):
            with Store.open(str(store_root)) as another:
                collect(another, GcOptions())

    beside = [threading.Thread(target=each) for each in (theirs, collections, theirs)]
    for thread in beside:
        thread.start()
    while any(thread.is_alive() for thread in beside):
        ours(store_root)
    ours(store_root)
    with Store.open(str(store_root)) as store:
        collect(store, GcOptions())
        assert store.valid(paths) == set(paths[:15])
    nix.verify()
    partition(store_root)
