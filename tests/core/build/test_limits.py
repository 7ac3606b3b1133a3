"""Control groups of builds: where one is made, what is written there, and what it says afterwards."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reconciler.core.build import limits
from reconciler.core.build.events import BuildLimits, BuildOptions
from reconciler.core.build.realise import realise
from reconciler.core.errors import BuildError
from reconciler.core.store.store import Store
from tests.core.build.helpers import derivation, output

MOUNTS = "30 24 0:26 {root} {top} rw,nosuid - cgroup2 cgroup2 rw\n24 1 8:1 / / rw - ext4 /dev/sda1 rw\n"


def hierarchy(monkeypatch: pytest.MonkeyPatch, tmp: Path, own: str, handed_on: dict[str, str], root: str = "/") -> Path:
    """A tree of files like the kernel's; `handed_on`: what each group below the mount point hands on."""
    top = tmp / "cgroup"
    (top / own.lstrip("/")).mkdir(parents=True)
    for group, controllers in handed_on.items():
        (top / group).mkdir(parents=True, exist_ok=True)
        (top / group / "cgroup.subtree_control").write_text(controllers)
    (tmp / "mounts").write_text(MOUNTS.format(root=root, top=top))
    (tmp / "own").write_text(f"3:pids:/elsewhere\n0::{os.path.join(root, own.lstrip('/'))}\n")
    monkeypatch.setattr(limits, "_MOUNTS", str(tmp / "mounts"))
    monkeypatch.setattr(limits, "_OWN", str(tmp / "own"))
    return top


@pytest.mark.parametrize("root", ["/", "/machine.slice/box"])
def test_a_group_is_made_below_the_nearest_that_hands_on_memory_and_pids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str
) -> None:
    handed_on = {"": "cpu memory pids", "user": "memory pids", "user/session": ""}
    top = hierarchy(monkeypatch, tmp_path, "user/session", handed_on, root)
    group = limits.make_group(1000, 50)
    assert group is not None
    made = Path(group.path)
    assert made.parent == top / "user"
    group.enter(77)
    written = {file.name: file.read_text() for file in made.iterdir()}
    assert written == {"memory.max": "1000", "pids.max": "50", "cgroup.procs": "77"}


NONE = {
    "no controllers are handed on": {"": "cpu", "user": "memory"},
    "nothing is known of the groups": {},
}


@pytest.mark.parametrize("what", NONE)
def test_no_group_is_made_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    hierarchy(monkeypatch, tmp_path, "user/session", NONE[what])
    assert limits.make_group(1000, 50) is None


def test_no_group_is_made_where_ours_is_not_to_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hierarchy(monkeypatch, tmp_path, "user", {"": "memory pids"})
    (tmp_path / "own").write_text("0::/../outside\n")
    assert limits.make_group(1000, 50) is None
    (tmp_path / "own").write_text("3:memory:/version/one\n")
    assert limits.make_group(1000, 50) is None


EVENTS = {
    "memory": ("low 0\noom 3\noom_kill 1\n", "max 4\n"),
    "processes": ("low 0\noom 3\noom_kill 0\n", "max 4\n"),
    "": ("low 0\noom 3\noom_kill 0\n", "max 0\n"),
}


@pytest.mark.parametrize("hit", EVENTS)
def test_a_group_says_which_limit_was_hit(tmp_path: Path, hit: str) -> None:
    memory, pids = EVENTS[hit]
    (tmp_path / "memory.events").write_text(memory)
    (tmp_path / "pids.events").write_text(pids)
    assert limits.ControlGroup(str(tmp_path)).hit == hit


def test_a_group_that_tells_nothing_says_nothing(tmp_path: Path) -> None:
    assert limits.ControlGroup(str(tmp_path)).hit == ""


@pytest.mark.root
def test_a_real_group_takes_a_process_kills_it_and_goes() -> None:
    """The kernel's own files, as far as this machine has them: version 2 without its controllers is enough."""
    found = limits._hierarchy()
    if found is None:
        pytest.skip("no control groups of version 2")
    path = os.path.join(found[0], f"reconciler-test-{os.getpid()}")
    try:
        os.mkdir(path)
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    group = limits.ControlGroup(path)
    with subprocess.Popen(["sleep", "100"]) as process:
        try:
            group.enter(process.pid)
            assert str(process.pid) in Path(path, "cgroup.procs").read_text().split()
            group.end()
            assert not os.path.exists(path)
            assert process.wait(5) == -9
        finally:
            process.kill()


LINES = {
    "cc1: out of memory allocating 65536 bytes": "it may have hit the limit of 7 bytes a process",
    "MemoryError": "it may have hit the limit of 7 bytes a process",
    "sh: 0: Cannot fork": "it may have hit the limit of 9 processes",
    "make: fork: Resource temporarily unavailable": "it may have hit the limit of 9 processes",
    "error: no such file": None,
}


@pytest.mark.parametrize("line", LINES)
def test_what_a_failed_build_printed_is_read_for_a_limit(line: str) -> None:
    said = limits.suspicion(["first", line], 7, 9)
    assert (said or "").startswith(LINES[line] or "")
    assert (said is None) == (LINES[line] is None)


class Group:
    """A control group that says which limit was hit, and counts nothing."""

    def __init__(self, hit: str) -> None:
        self.hit = hit
        self.entered: list[int] = []
        self.ended = False

    def enter(self, process: int) -> None:
        self.entered.append(process)

    def end(self) -> None:
        self.ended = True


NAMED = {
    "memory": ("used more than 1073741824 bytes of memory and was killed", "builds: {memory: 16G}"),
    "processes": ("wanted more than 500 processes at a time", "builds: {processes: 20000}"),
}


@pytest.mark.nix
@pytest.mark.parametrize("hit", NAMED)
def test_the_error_names_the_limit_that_the_kernel_says_was_hit(
    store: Store, monkeypatch: pytest.MonkeyPatch, hit: str
) -> None:
    group = Group(hit)
    asked: list[tuple[int, int]] = []

    def make(memory: int, processes: int) -> Group:
        asked.append((memory, processes))
        return group

    monkeypatch.setattr(limits, "make_group", make)
    options = BuildOptions(limits=BuildLimits(max_memory=2**30, max_processes=500))
    with pytest.raises(BuildError) as error:
        realise(store, [derivation(store, "hog", "exit 1")], options)
    said, hint = NAMED[hit]
    assert error.value.message == f"hog could not be built: the builder {said}"
    assert hint in (error.value.hint or "")
    # Children that were killed do not matter where the builder knew how to go on without them.
    fine = derivation(store, "fine", "ulimit -d > $out")
    realise(store, [fine], options)
    assert Path(store.real(output(store, fine))).read_text() == "unlimited\n"
    assert asked == [(2**30, 500)] * 2
    assert len(group.entered) == 2
    assert group.ended


@pytest.mark.nix
def test_without_a_group_each_process_is_limited(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "make_group", lambda *_: None)
    drv = derivation(store, "limited", "ulimit -d > $out")
    realise(store, [drv], BuildOptions(limits=BuildLimits(max_memory=2**30)))
    assert Path(store.real(output(store, drv))).read_text() == f"{2**20}\n"
