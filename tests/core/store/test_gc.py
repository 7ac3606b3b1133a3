"""Garbage collection: what is dead and what lives, as real Nix sees it; and what is left when it is done."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import gc_mark
from reconciler.core.store.gc import GcEvent, GcOptions, collect
from reconciler.core.store.live import find_roots
from reconciler.core.store.optimise import optimise
from reconciler.core.store.store import Store
from tests.core.store.parts import bytes_of
from tests.core.store.scenes import SCENES, SOURCE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def entries(store: Store) -> set[str]:
    return set(os.listdir(store.store_dir)) - {".links"}


def listed(nix: RealNix, option: str) -> set[str]:
    """What Nix's collector prints: full paths."""
    return {line.removeprefix("/nix/store/") for line in nix.output("nix-store", "--gc", option).splitlines()}


def marked(store: Store, options: GcOptions) -> tuple[set[str], set[str]]:
    """Dead and alive, by a search that changes nothing."""
    found, _ = gc_mark.mark(store, options.keep_derivations, options.keep_outputs)
    return set(found.dead), found.alive


@pytest.mark.parametrize("scene", SCENES)
def test_what_is_dead_goes_and_nothing_else_and_leaves_nix_nothing_to_collect(
    scene: str, store_root: Path, nix: RealNix, tmp_path: Path
) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    with Store.open(str(store_root), create=True) as store:
        running = SCENES[scene](store, beside)
    try:
        check_collection(store_root, nix)
    finally:
        if running is not None:
            running.close()
    assert not (beside / "precious").exists() or (beside / "precious").read_text() == "x"


def check_collection(store_root: Path, nix: RealNix) -> None:
    options = GcOptions()
    with Store.open(str(store_root)) as store:
        before, roots = entries(store), find_roots(store)
        dead, alive = marked(store, options)
        events: list[GcEvent] = []
        deleted = collect(store, options, events.append)
        assert set(deleted.deleted) == dead
        assert [event.path for event in events if event.kind == "deleted"] == list(deleted.deleted)
        assert sum(event.freed for event in events) == deleted.freed
        assert deleted.kept == len(alive)
        assert entries(store) == before - dead
        assert {path.base_name for path in roots.values()} <= alive
    nix.verify()
    assert listed(nix, "--print-dead") == set()


KEEPING = {
    "as Nix does by default": GcOptions(),
    "with outputs": GcOptions(keep_outputs=True),
    "without derivations": GcOptions(keep_derivations=False),
    "with outputs, without derivations": GcOptions(keep_outputs=True, keep_derivations=False),
}
CASES = [
    pytest.param(scene, options, id=f"{scene}, {how}")
    for scene in SCENES
    for how, options in KEEPING.items()
    if options == GcOptions() or "deriv" in scene
]


@pytest.mark.parametrize(("scene", "options"), CASES)
def test_a_dry_run_says_what_nix_says_and_changes_nothing(
    scene: str, options: GcOptions, store_root: Path, tmp_path: Path
) -> None:
    keep = f"keep-outputs = {options.keep_outputs}\nkeep-derivations = {options.keep_derivations}".lower()
    nix = RealNix(store_root, config=keep)
    beside = tmp_path / "beside"
    beside.mkdir()
    with Store.open(str(store_root), create=True) as store:
        running = SCENES[scene](store, beside)
    try:
        with Store.open(str(store_root)) as store:
            before = everything(store_root)
            told = collect(store, GcOptions(True, None, options.keep_derivations, options.keep_outputs))
            assert everything(store_root) == before
            dead, alive = marked(store, options)
        assert set(told.deleted) == dead
        # Nix 2.8 deletes what is no store path even when it is only to print. So it comes second, and live ones last.
        assert listed(nix, "--print-dead") == dead
        assert listed(nix, "--print-live") == alive
    finally:
        if running is not None:
            running.close()


def everything(root: Path) -> set[tuple[str, int, int]]:
    """Every file below `root`, but for those of the database and of the lock."""
    found = set()
    for directory, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = os.path.join(directory, name)
            if "/db/" not in path and "/gc" + "-socket" not in path and name not in ("gc.lock", "nix"):
                status = os.lstat(path)
                found.add((path, status.st_mode, status.st_nlink))
    return found


# --- bytes ------------------------------------------------------------------------------------------------------------


def shared_files(root: Path) -> list[StorePath]:
    """Paths whose files are hard links to each other and to `.links`, and two that share a file without it."""
    with Store.open(str(root), create=True) as store:
        common, own = nar.File(b"x" * 10_000), [nar.File(str(number).encode() * 1000) for number in range(4)]
        paths = [
            store.add_tree(f"t{n}", nar.Directory({"common": common, "own": own[n], "link": nar.Link("common")}))
            for n in range(4)
        ]
        optimise(store)
        paths += [store.add_tree(name, nar.Directory({"f": nar.File(b"y" * 500)})) for name in ("a", "b")]
        for path in paths[4:]:
            os.chmod(store.real(path), 0o755)
        os.unlink(f"{store.real(paths[5])}/f")
        os.link(f"{store.real(paths[4])}/f", f"{store.real(paths[5])}/f")
        for path in paths[4:]:
            os.chmod(store.real(path), 0o555)
    return paths


@pytest.mark.parametrize("kept", [[], [0], [0, 1, 4], [5], range(6)], ids=str)
def test_the_bytes_told_are_those_that_are_freed(kept: Sequence[int], store_root: Path, nix: RealNix) -> None:
    """A file with other names frees nothing until the last one goes; its name in `.links` goes by itself."""
    paths = shared_files(store_root)
    with Store.open(str(store_root)) as store:
        for number in kept:
            store.add_root(str(number), paths[number])
    before = bytes_of(store_root)
    with Store.open(str(store_root)) as store:
        told = collect(store, GcOptions(dry_run=True))
        assert bytes_of(store_root) == before
        result = collect(store, GcOptions())
    assert result.freed == told.freed == before - bytes_of(store_root)
    assert len(os.listdir(store_root / "nix/store/.links")) == (
        0 if kept in ([], [5]) else len(set(kept) & {0, 1, 2, 3}) + 2
    )
    nix.verify()


def test_links_that_nothing_shares_are_removed_and_counted(store_root: Path, nix: RealNix) -> None:
    (path, *_) = shared_files(store_root)
    with Store.open(str(store_root)) as store:
        fs_path = Path(store.store_dir, ".links", "0" * 52)
        fs_path.write_bytes(b"left over")
        store.add_root("x", path)
        before = bytes_of(store_root)
        assert collect(store, GcOptions()).freed == before - bytes_of(store_root)
        assert not fs_path.exists()
    nix.verify()


@pytest.mark.parametrize(("limit", "deleted"), [(0, 0), (1, 1), (999, 1), (1000, 2), (2500, 3), (10_000, 6)])
def test_a_limit_ends_the_collection_where_nix_would_end(limit: int, deleted: int, tmp_path: Path) -> None:
    """Once more than that is freed."""
    for name in ("ours", "theirs"):
        with Store.open(str(tmp_path / name), create=True) as store, store.batch() as batch:
            for number in range(6):
                batch.add_text(str(number), str(number).encode() * 1000)
    with Store.open(str(tmp_path / "ours")) as store:
        result = collect(store, GcOptions(max_freed=limit))
        assert len(result.deleted) == deleted
        assert result.freed == 1000 * deleted
        assert len(entries(store)) == 6 - deleted
    theirs = RealNix(tmp_path / "theirs")
    theirs.run("nix-store", "--gc", "--max-freed", str(limit))
    assert len(entries(Store(str(tmp_path / "theirs")))) == 6 - deleted
    RealNix(tmp_path / "ours").verify()


def test_a_limit_counts_what_is_not_registered_too(store_root: Path) -> None:
    with Store.open(str(store_root), create=True) as store:
        for number in range(5):
            Path(store.store_dir, f"junk{number}").write_bytes(b"x" * 1000)
        assert len(collect(store, GcOptions(max_freed=1500)).deleted) == 2


def test_names_that_are_no_text_go_as_well(store: Store, nix: RealNix) -> None:
    for name in (b"\xff", f"{'0' * 32}-".encode() + b"\xff", "ä".encode(), b"new\nline"):
        Path(os.fsdecode(os.fsencode(store.store_dir) + b"/" + name)).touch()
    assert len(collect(store, GcOptions()).deleted) == 4
    assert entries(store) == set()


# --- what is in the way -----------------------------------------------------------------------------------------------


def test_the_room_kept_for_a_full_disk_is_given_and_taken_again(store_root: Path, nix: RealNix) -> None:
    with Store.open(str(store_root), create=True) as store:
        reserved = Path(store.state_dir, "db/reserved")
        collect(store, GcOptions(dry_run=True))
        assert not reserved.exists()
        collect(store, GcOptions())
        theirs = Path(store_root.parent, "theirs/nix/var/nix/db/reserved")
        RealNix(store_root.parent / "theirs").run("nix-store", "--init")
        assert reserved.stat().st_size == theirs.stat().st_size == 8 << 20
        assert stat.S_IMODE(reserved.stat().st_mode) == stat.S_IMODE(theirs.stat().st_mode)
    nix.verify()


def test_a_directory_that_newer_nix_fills_and_a_link_about_to_be_renamed_are_left(store: Store) -> None:
    """The first is locked; the second bears the number of a process that lives."""
    filled, left = Path(store.store_dir, "tmp-1-1"), Path(store.store_dir, "tmp-1-2")
    filled.mkdir()
    left.mkdir()
    linking = Path(store.store_dir, f".tmp-link-{os.getpid()}-1")
    linking.touch()
    fd = os.open(filled, os.O_RDONLY)
    fs.flock(fd, exclusive=True)
    assert collect(store, GcOptions()).deleted == ("tmp-1-2",)
    os.close(fd)
    assert collect(store, GcOptions()).deleted == ("tmp-1-1",)
    assert linking.exists()


def test_a_store_that_may_not_be_written_to_is_refused_before_any_row_goes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.add_text("x", b"1")
    store.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="may not be written to"):
        collect(store, GcOptions())
    assert store.is_valid(path)


READ_ONLY = """
import sys
from reconciler.core.errors import StoreError
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.store import Store
try:
    collect(Store.open(sys.argv[1]), GcOptions())
except StoreError as error:
    print(error)
"""


@pytest.mark.root
def test_a_store_that_is_mounted_read_only_is_refused_too(store_root: Path, nix: RealNix) -> None:
    with Store.open(str(store_root), create=True) as store:
        path = store.add_text("x", b"1")
    mount = 'd=$1/nix/store; mount --bind "$d" "$d" && mount -o remount,bind,ro "$d" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", str(store_root), sys.executable, READ_ONLY]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    assert done.stdout == f"{store_root}/nix/store: it is mounted read-only\n", done.stderr
    with Store.open(str(store_root)) as store:
        assert store.is_valid(path)
    nix.verify()


FULL = """
import errno, sys
from reconciler.core.nix import nar
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.store import Store

root = sys.argv[1]
with Store.open(root, create=True) as store:
    store.add_root("x", store.add_text("live", b"x"))
    garbage = store.add_tree("garbage", nar.File(bytes(100_000)))
store = Store.open(root)
store.is_valid(garbage)
try:
    with open(store.real(garbage)[:-7] + "left", "wb", buffering=0) as file:
        while True:
            file.write(bytes(1 << 16))
except OSError as error:
    assert error.errno == errno.ENOSPC
result = collect(store, GcOptions())
print(len(result.deleted), result.kept, result.freed > 1 << 20)
"""


@pytest.mark.root
def test_a_disk_filled_by_an_interrupted_copy_is_cleared(store_root: Path) -> None:
    """What is registered nowhere goes first: the database has no room until then."""
    mount = 'mount -t tmpfs -o size=4m tmpfs "$1" && "$2" -c "$3" "$1" && nix-store --store "$1" --verify'
    command = ["unshare", "-m", "sh", "-c", mount, "sh", str(store_root), sys.executable, FULL]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("2 1 True\n", 0), done.stderr


@pytest.mark.root
def test_an_immutable_file_is_told_and_the_rest_is_collected(store_root: Path, nix: RealNix) -> None:
    with Store.open(str(store_root), create=True) as store:
        bad = store.add_tree("bad", nar.Directory({"a": nar.File(b"1"), "sub": nar.Directory({"f": nar.File(b"2")})}))
        others = [store.add_text(f"x{number}", b"1") for number in range(3)]
    immutable = f"{store.real(bad)}/sub/f"
    if subprocess.run(["chattr", "+i", immutable], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no immutable files")
    try:
        with Store.open(str(store_root)) as store, pytest.raises(StoreError) as caught:
            collect(store, GcOptions())
        assert str(caught.value) == (
            f"{store.store_dir}/{bad.base_name}: Operation not permitted: not removed (but 3 others were)"
        )
        assert caught.value.hint is not None
        assert "lsattr" in caught.value.hint
        with Store.open(str(store_root)) as store:
            assert store.valid([bad, *others]) == set()
            assert entries(store) == {bad.base_name}
        nix.verify()
    finally:
        subprocess.run(["chattr", "-i", immutable], check=True)
    with Store.open(str(store_root)) as store:
        assert collect(store, GcOptions()).deleted == (bad.base_name,)
    nix.verify()


# --- roots ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scene", [scene for scene in SCENES if scene not in ("derivers that do not fit", "chains")])
def test_roots_have_the_names_that_nix_gives_them(scene: str, store_root: Path, nix: RealNix, tmp_path: Path) -> None:
    with Store.open(str(store_root), create=True) as store:
        running = SCENES[scene](store, tmp_path)
    try:
        with Store.open(str(store_root)) as store:
            found = {f"{name.partition(' #')[0]} -> {path}" for name, path in find_roots(store).items()}
        assert found == set(nix.output("nix-store", "--gc", "--print-roots").splitlines())
    finally:
        if running is not None:
            running.close()


@pytest.mark.parametrize("gone", [False, True], ids=["with all roots", "were a root gone"])
def test_a_dry_run_can_pass_over_roots_that_are_to_go(gone: bool, store: Store, tmp_path: Path) -> None:
    path, other = store.add_text("x", b"1"), store.add_text("y", b"1")
    store.close()
    links = [Path(store.state_dir, f"profiles/p-{number}-link") for number in (1, 2)]
    for link in links:
        link.symlink_to(str(path))
    store.add_root("other", other)
    without = tuple(map(str, links if gone else links[:1]))
    told = collect(store, GcOptions(dry_run=True, without=without))
    assert told.deleted == ((path.base_name,) if gone else ())
    with pytest.raises(ValueError, match="dry run only"):
        GcOptions(without=without)


@pytest.mark.root
def test_a_program_that_runs_from_an_old_generation_is_kept(store_root: Path, nix: RealNix, tmp_path: Path) -> None:
    """Its program, its directory, a file that it has open and one that it has mapped; only while it runs."""
    sleep = nar.File(Path(shutil.which("sleep") or "").read_bytes(), executable=True)
    with Store.open(str(store_root), create=True) as store:
        program = store.add_tree("program", nar.Directory({"sleep": sleep}))
        directory, opened = store.add_tree("directory", nar.Directory({})), store.add_text("opened", b"1")
        idle = store.add_text("idle", b"1")
    shell = 'mount --bind "$1/nix" /nix && cd "$3" && exec 5<"$4" && echo && exec env -i "$2/sleep" 60'
    command = ["unshare", "-m", "sh", "-c", shell, "sh", str(store_root), str(program), str(directory), str(opened)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        while os.readlink(f"/proc/{process.pid}/exe") != f"{program}/sleep":
            time.sleep(0.01)
        with Store.open(str(store_root)) as store:
            roots = {name: path for name, path in find_roots(store).items() if name.startswith(f"/proc/{process.pid}/")}
            result = collect(store, GcOptions())
        of = f"/proc/{process.pid}"
        assert roots == {f"{of}/cwd": directory, f"{of}/exe": program, f"{of}/fd/5": opened, f"{of}/maps": program}
        assert result.deleted == (idle.base_name,)
        assert listed(nix, "--print-dead") == set()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    with Store.open(str(store_root)) as store:
        assert len(collect(store, GcOptions()).deleted) == 3
    nix.verify()


def test_a_process_in_a_directory_deeper_than_a_path_can_be_stops_no_collection(
    store_root: Path, tmp_path: Path
) -> None:
    with Store.open(str(store_root), create=True) as store:
        dead = store.add_text("dead", b"nobody wants it")
    deep = os.open(tmp_path, os.O_RDONLY)
    try:
        for _ in range(25):
            os.mkdir("d" * 200, dir_fd=deep)
            below = os.open("d" * 200, os.O_RDONLY, dir_fd=deep)
            os.close(deep)
            deep = below
        with pytest.raises(OSError, match="too long"):
            os.readlink(f"/proc/self/fd/{deep}")
        with Store.open(str(store_root)) as store:
            assert collect(store, GcOptions()).deleted == (dead.base_name,)
    finally:
        os.close(deep)
