"""What has rotted is put right; at every instant its path holds the old contents or the new ones."""

from __future__ import annotations

import ast
import errno
import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import derivation, nar
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import repair as repairing
from reconciler.core.store import verify as verifying
from reconciler.core.store.repair import repair_in_place, repair_links, repair_path
from reconciler.core.store.store import Store
from reconciler.core.store.verify import verify
from reconciler.core.values import replace
from tests.core.nix.trees import TREE
from tests.core.store import rot
from tests.core.store.parts import Halting
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

ROOT = Path(__file__).parents[3]
DATA = nar.encode(TREE)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "_SETTLE", 0.0)


@pytest.fixture
def tree(store: Store) -> StorePath:
    """TREE, which nothing but a permanent root keeps."""
    path = store.add_tree("tree", TREE)
    store.add_root("kept", path)
    store.close()
    return path


def repair(store: Store, path: StorePath, data: bytes = DATA) -> None:
    repair_path(store, io.BytesIO(data), store.info(path))


def assert_right(store: Store, nix: RealNix, *paths: StorePath) -> None:
    assert verify(store).findings == ()
    assert {name for name in os.listdir(store.store_dir) if name != ".links"} == {path.base_name for path in paths}
    nix.verify()


# --- from an archive --------------------------------------------------------------------------------------------------


FAULTS = {**rot.CONTENTS, rot.lose_it_all.__name__: rot.lose_it_all, **rot.FORM}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_every_fault_is_mended(fault: rot.Fault, store: Store, tree: StorePath, nix: RealNix) -> None:
    fault(Path(store.real(tree)))
    assert verify(store).findings
    repair(store, tree)
    assert b"".join(store.nar(tree)) == DATA
    assert_right(store, nix, tree)


@pytest.mark.root
def test_what_root_mends_belongs_to_the_owner_of_the_store(store: Store, tree: StorePath) -> None:
    for directory, _, names in os.walk(Path(store.root, "nix")):
        for name in [".", *names]:
            os.chown(os.path.join(directory, name), 1234, 1234, follow_symlinks=False)
    assert verify(store).findings == ()
    rot.flip_a_bit(Path(store.real(tree)))
    repair(store, tree)
    assert verify(store).findings == ()
    rot.touch_a_link(Path(store.real(tree)))
    assert repair_in_place(store, tree)
    assert verify(store).findings == ()


@pytest.mark.parametrize("node", [nar.File(b"text", executable=True), nar.Link("/elsewhere")], ids=["file", "link"])
@pytest.mark.parametrize("broken", ["file", "link", "directory", "absent"])
def test_a_path_of_any_kind_replaces_what_is_of_any_other(
    broken: str, node: nar.Node, store: Store, nix: RealNix
) -> None:
    path = store.add_tree("one", node)
    real = Path(store.real(path))
    real.unlink()
    if broken == "file":
        real.write_text("other")
    elif broken == "link":
        real.symlink_to("/etc")
    elif broken == "directory":
        (real / "a/b").mkdir(parents=True)
    repair(store, path, nar.encode(node))
    assert_right(store, nix, path)


def test_a_derivation_is_mended(store: Store, nix: RealNix) -> None:
    plain = Derivation({"out": Output(None)}, {}, (), "x86_64-linux", "/bin/sh", (), {"name": "x"})
    path = store.write_derivation(derivation.with_outputs(plain, "x", store.read_derivation), "x")
    data = b"".join(store.nar(path))
    os.unlink(store.real(path))
    Path(store.real(path)).write_text("rubbish")
    repair(store, path, data)
    assert store.read_derivation(path).outputs == store.read_derivation(path).outputs
    assert_right(store, nix, path)


def test_what_comes_after_the_archive_stays_in_the_stream(store: Store, tree: StorePath) -> None:
    stream = io.BytesIO(DATA + b"next")
    repair_path(store, stream, store.info(tree))
    assert stream.read() == b"next"


WRONG: dict[str, bytes] = {
    "another tree": nar.encode(nar.Directory({})),
    "one byte": DATA.replace(b"hello", b"hellO"),
    "cut short": DATA[:-8],
    "nothing": b"",
    "no archive": b"x" * len(DATA),
    "a name that leads out": DATA.replace(b"\5\0\0\0\0\0\0\0empty", b"\5\0\0\0\0\0\0\0../..", 1),
}


@pytest.mark.parametrize("data", WRONG.values(), ids=WRONG.keys())
def test_a_wrong_archive_is_refused_and_nothing_changes(
    data: bytes, store: Store, tree: StorePath, tmp_path: Path
) -> None:
    rot.flip_a_bit(Path(store.real(tree)))
    before = state(store)
    with pytest.raises((StoreError, FormatError), match=str(tree)):
        repair(store, tree, data)
    assert state(store) == before


def state(store: Store) -> dict[str, tuple[int, int, int]]:
    found = {}
    for directory, names, files in os.walk(store.store_dir):
        for name in [*names, *files]:
            status = os.lstat(os.path.join(directory, name))
            found[os.path.join(directory, name)] = (status.st_ino, status.st_mode, status.st_mtime_ns)
    return found


def test_what_is_not_registered_like_that_is_not_repaired(store: Store, tree: StorePath) -> None:
    before, info = state(store), store.info(tree)
    with pytest.raises(StoreError, match=f"{info.nar_hash} is registered of it, and sha256:"):
        repair_path(store, io.BytesIO(DATA), replace(info, nar_hash=Hash.sha256(b"")))
    absent = replace(info, path=StorePath("0" * 32, "absent"))
    with pytest.raises(StoreError, match="is not valid"):
        repair_path(store, io.BytesIO(DATA), absent)
    assert state(store) == before


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS, errno.EXDEV])
def test_a_file_system_that_cannot_exchange_is_named_with_a_way_out(
    number: int, store: Store, tree: StorePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(one: str, other: str, dir_fd: int) -> None:
        raise OSError(number, os.strerror(number))

    rot.flip_a_bit(Path(store.real(tree)))
    before = state(store)
    monkeypatch.setattr(fs, "exchange", cannot)
    with pytest.raises(StoreError, match="cannot exchange two names") as raised:
        repair(store, tree)
    assert str(tree) in raised.value.message
    assert "nix-store --delete --ignore-liveness" in str(raised.value.hint)
    assert state(store) == before


OVERLAY = """
import io, sys
from reconciler.core.errors import StoreError
from reconciler.core.nix import nar
from reconciler.core.store.repair import repair_path
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE
with Store.open(sys.argv[1]) as store:
    (row,) = store.rows()
    try:
        repair_path(store, io.BytesIO(nar.encode(TREE)), row.info())
        print("repaired")
    except StoreError as error:
        print(error.message, error.hint)
"""


@pytest.mark.root
@pytest.mark.parametrize(("redirect", "said"), [("off", "cannot exchange two names"), ("on", "repaired")])
def test_an_overlay_whose_lower_layer_holds_the_path_is_one_that_may_not(
    redirect: str, said: str, store: Store, tree: StorePath, tmp_path: Path
) -> None:
    """A container's image: a real file system that cannot, and what the hint says makes it one that can."""
    rot.flip_a_bit(Path(store.real(tree)))
    script = """
    cd "$1"; mkdir layers; mount -t tmpfs none layers; mkdir layers/upper layers/work layers/merged
    mount -t overlay -o "lowerdir=$1/root,upperdir=layers/upper,workdir=layers/work,redirect_dir=$2" o layers/merged
    cd "$3"; exec "$4" -c "$5" "$1/layers/merged"
    """
    command = ["unshare", "--mount", "sh", "-euc", script, "sh", str(tmp_path), redirect, str(ROOT), sys.executable]
    done = subprocess.run([*command, OVERLAY], capture_output=True, text=True, check=False, timeout=60)
    assert said in done.stdout, done.stderr
    assert redirect == "on" or "redirect_dir=on" in done.stdout


def test_a_full_disk_leaves_the_path_as_it_was(store: Store, tree: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    rot.flip_a_bit(Path(store.real(tree)))
    before = state(store)
    monkeypatch.setattr(fs, "write_all", full)
    with store.open(store.root) as other, pytest.raises(StoreError, match="No space left") as raised:
        repair(other, tree)
    assert "disk is full" in str(raised.value.hint)
    assert state(store) == before


# --- nobody sees it absent or half there ------------------------------------------------------------------------------

# Looks at a file of the path without a pause; says what it saw: contents, or that the path or the file was not there.
WATCH = """
import os, select, sys
path, seen = sys.argv[1], set()
def look():
    try:
        os.lstat(path)
    except FileNotFoundError:
        return "absent"
    for _ in range(2):  # once more: the directory that was found may be the old one, and be gone by then
        try:
            return open(path + "/a").read()
        except FileNotFoundError:
            pass
    return "half"
look()
print(flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    seen.add(look())
print(sorted(seen))
"""


class Watcher:
    """Another process that polls the path while this one works."""

    def __init__(self, path: str) -> None:
        command = [sys.executable, "-c", WATCH, path]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._process.stdout.readline()

    def seen(self) -> list[str]:
        said: list[str] = ast.literal_eval(self._process.communicate("\n", timeout=60)[0])
        return said


def test_a_watcher_sees_the_old_or_the_new_at_every_instant(store: Store, tree: StorePath) -> None:
    real = Path(store.real(tree))
    rot.flip_a_bit(real)
    broken = (real / "a").read_text()
    with open(real / "a") as opened:
        watcher = Watcher(str(real))
        for _ in range(20):
            repair(store, tree)
            rot.flip_a_bit(real)
        repair(store, tree)
        assert watcher.seen() == sorted({broken, "hello\n"})
        assert opened.read() == broken


def test_a_watcher_would_see_it_absent(store: Store, tree: StorePath, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: were the broken one removed first, it would be noticed."""

    def remove_first(one: str, other: str, dir_fd: int) -> None:
        fs.remove_tree(other, dir_fd)
        time.sleep(0.05)
        os.rename(one, other, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)

    monkeypatch.setattr(fs, "exchange", remove_first)
    watcher = Watcher(store.real(tree))
    repair(store, tree)
    assert "absent" in watcher.seen()


def collect(by: str, nix: RealNix) -> None:
    """A collection by real Nix, or by us in a process of its own."""
    if by == "nix":
        nix.run("nix-store", "--gc")
        return
    code = (
        "import sys; from reconciler.core.store import gc, store\n"
        "with store.Store.open(sys.argv[1]) as opened: gc.collect(opened, gc.GcOptions())"
    )
    subprocess.run([sys.executable, "-c", code, str(nix.root)], check=True, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("by", ["nix", "us"])
@pytest.mark.parametrize("kept", [True, False], ids=["kept", "the control: not kept"])
def test_a_collection_in_the_middle_takes_nothing_away(
    kept: bool, by: str, store: Store, nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.add_tree("tree", TREE)
    store.close()
    if not kept:
        monkeypatch.setattr(store, "add_temp_roots", lambda paths: None)
    stream, failed = Halting(DATA), []
    info = store.info(path)

    def work() -> None:
        try:
            repair_path(store, stream, info)
        except StoreError as error:
            failed.append(error)

    working = threading.Thread(target=work)
    working.start()
    assert stream.reached.wait(30)
    collect(by, nix)
    stream.go_on.set()
    working.join()
    assert bool(failed) != kept
    if kept:
        assert_right(store, nix, path)


KILLED = """
import io, os, signal, sys
from reconciler.core import fs
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import repair
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE

root, path, place, nth = sys.argv[1], StorePath.parse(sys.argv[2]), sys.argv[3], int(sys.argv[4])
owner, _, name = place.rpartition(".")
target = {"fs": fs, "nar": nar, "os": os}[owner]
real, calls = getattr(target, name), 0

def deadly(*arguments, **options):
    global calls
    calls += 1
    if calls == abs(nth):
        if nth < 0:
            real(*arguments, **options)
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **options)

with Store.open(root) as store:
    store.info(path)
    setattr(target, name, deadly)
    repair.repair_path(store, io.BytesIO(nar.encode(TREE)), store.info(path))
"""

# (call, the nth; a negative one: after it was made)
STEPS = [
    ("nar.restore", 1),
    *[("os.fchmod", nth) for nth in (1, 5, 9)],
    ("os.mkdir", 2),
    ("fs.syncfs", 1),
    ("fs.exchange", 1),
    ("fs.exchange", -1),
    ("fs.fsync_directory", 1),
    ("fs.remove_tree", 1),
    ("os.unlink", 3),
    ("fs.remove_tree", -1),
]


@pytest.mark.parametrize("by", ["nix", "us"])
@pytest.mark.parametrize("step", STEPS, ids=lambda step: f"{step[0]}-{step[1]}")
def test_a_repair_killed_at_any_step_leaves_the_old_or_the_new_and_garbage(
    step: tuple[str, int], by: str, store: Store, tree: StorePath, nix: RealNix
) -> None:
    place, nth = step
    real = Path(store.real(tree))
    rot.flip_a_bit(real)
    broken = nar.hash_path(str(real))
    command = [sys.executable, "-c", KILLED, store.root, str(tree), place, str(nth)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == -signal.SIGKILL, done.stderr
    switched = place in ("fs.fsync_directory", "fs.remove_tree", "os.unlink") or nth == -1
    right = (store.info(tree).nar_hash, store.info(tree).nar_size)
    assert nar.hash_path(str(real)) == (right if switched else broken)
    assert (verify(store, paths=[tree]).findings == ()) == switched
    store.close()  # which kept what it found broken
    collect(by, nix)
    assert set(os.listdir(store.store_dir)) == {tree.base_name, ".links"}
    repair(store, tree)
    assert_right(store, nix, tree)


# --- .links -----------------------------------------------------------------------------------------------------------

SHARED = nar.Directory({"f": nar.File(b"the same" * 100)})


@pytest.fixture
def twins(store: Store, nix: RealNix) -> tuple[StorePath, StorePath]:
    """Two paths whose only files are one inode, with its entry in .links."""
    paths = (store.add_tree("one", SHARED), store.add_tree("two", SHARED))
    nix.run("nix-store", "--optimise")
    (entry,) = Path(store.store_dir, ".links").iterdir()
    assert entry.stat().st_nlink == 3
    return paths


def rot_all_of_it(store: Store) -> Path:
    (entry,) = Path(store.store_dir, ".links").iterdir()
    with rot.unlocked(entry):
        entry.write_bytes(b"another!" * 100)
    return entry


def test_a_rotten_link_goes_with_the_path_that_is_mended(
    store: Store, twins: tuple[StorePath, StorePath], nix: RealNix
) -> None:
    entry = rot_all_of_it(store)
    repair(store, twins[0], nar.encode(SHARED))
    assert not entry.exists()
    assert [found.path for found in verify(store).findings] == [str(twins[1])]
    nix.run("nix-store", "--optimise")
    repair(store, twins[1], nar.encode(SHARED))
    nix.run("nix-store", "--optimise")
    assert (entry.read_bytes(), entry.stat().st_nlink) == (b"the same" * 100, 3)
    assert_right(store, nix, *twins)


def test_a_rotten_link_would_come_back(
    store: Store, twins: tuple[StorePath, StorePath], nix: RealNix, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: Nix's optimiser trusts what stands in .links."""
    rot_all_of_it(store)
    monkeypatch.setattr(repairing, "_drop_rotten_links", lambda store, staged: None)
    repair(store, twins[0], nar.encode(SHARED))
    assert verify(store, paths=[twins[0]]).findings == ()
    nix.run("nix-store", "--optimise")
    assert verify(store, paths=[twins[0]]).findings != ()


def test_right_links_and_those_who_share_them_are_left_alone(
    store: Store, twins: tuple[StorePath, StorePath], nix: RealNix
) -> None:
    (entry,) = Path(store.store_dir, ".links").iterdir()
    with rot.unlocked(Path(store.real(twins[0]))):
        Path(store.real(twins[0]), "extra").touch()
    repair(store, twins[0], nar.encode(SHARED))
    assert (entry.read_bytes(), entry.stat().st_nlink) == (b"the same" * 100, 2)
    assert_right(store, nix, *twins)


def test_rotten_links_are_removed_and_right_ones_stay(
    store: Store, twins: tuple[StorePath, StorePath], nix: RealNix
) -> None:
    assert repair_links(store) == ()
    entry = rot_all_of_it(store)
    (entry.parent / "rubbish").touch()
    assert repair_links(store) == tuple(sorted((entry.name, "rubbish")))
    assert list(entry.parent.iterdir()) == []
    assert {found.path for found in verify(store).findings} == set(map(str, twins))


# --- without an archive -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", rot.FORM.values(), ids=rot.FORM.keys())
def test_a_wrong_form_is_mended_where_it_lies(fault: rot.Fault, store: Store, tree: StorePath, nix: RealNix) -> None:
    inodes = {name: ino for name, (ino, _, _) in state(store).items()}
    fault(Path(store.real(tree)))
    assert repair_in_place(store, tree)
    assert {name: ino for name, (ino, _, _) in state(store).items()} == inodes
    assert_right(store, nix, tree)


@pytest.mark.root
@pytest.mark.parametrize("fault", rot.OWNER.values(), ids=rot.OWNER.keys())
def test_a_wrong_owner_is_mended_where_it_lies(fault: rot.Fault, store: Store, tree: StorePath, nix: RealNix) -> None:
    fault(Path(store.real(tree)))
    assert repair_in_place(store, tree)
    assert_right(store, nix, tree)


WRONG_CONTENTS = {**rot.CONTENTS, rot.lose_it_all.__name__: rot.lose_it_all}


@pytest.mark.parametrize("fault", WRONG_CONTENTS.values(), ids=WRONG_CONTENTS.keys())
def test_wrong_contents_are_not_mended_where_they_lie(fault: rot.Fault, store: Store, tree: StorePath) -> None:
    fault(Path(store.real(tree)))
    before = state(store)
    assert not repair_in_place(store, tree)
    assert state(store) == before


SHARED_FORM: dict[str, Callable[[Path], None]] = {
    "mode": lambda file: file.chmod(0o644),
    "time": lambda file: os.utime(file, (1, 5)),
    "attribute": rot.mark,
}


@pytest.mark.parametrize("fault", SHARED_FORM.values(), ids=SHARED_FORM.keys())
def test_a_file_that_is_shared_with_links_is_mended_where_it_lies(
    fault: Callable[[Path], None], store: Store, twins: tuple[StorePath, StorePath], nix: RealNix
) -> None:
    (entry,) = Path(store.store_dir, ".links").iterdir()
    fault(Path(store.real(twins[0]), "f"))
    assert len(verify(store).findings) == 2
    assert repair_in_place(store, twins[0])
    assert entry.stat().st_nlink == 3
    assert_right(store, nix, *twins)


def test_a_file_that_somebody_else_has_a_name_for_is_not_touched(
    store: Store, tree: StorePath, nix: RealNix, tmp_path: Path
) -> None:
    os.link(Path(store.real(tree), "a"), tmp_path / "theirs")
    (tmp_path / "theirs").chmod(0o640)
    assert not repair_in_place(store, tree)
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o640
    repair(store, tree)
    assert (tmp_path / "theirs").stat().st_mode & 0o777 == 0o640
    assert_right(store, nix, tree)
