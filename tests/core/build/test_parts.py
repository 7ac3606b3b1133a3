"""The parts of the builder by themselves: outputs on disk, logs, users, the toolchain, and every Python."""

from __future__ import annotations

import bz2
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.build import toolchain, users
from reconciler.core.build.logs import BuildLog, log_path, read_log
from reconciler.core.build.outputs import survey
from reconciler.core.build.workshop import Workshop
from reconciler.core.errors import BuildError
from reconciler.core.nix.store_path import StorePath
from tests.core.build.helpers import DRIVER, PROJECT
from tests.oracle import RealNix
from tests.pythons import VERSIONS, interpreter

DRV = StorePath.parse(f"/nix/store/{'1' * 32}-x.drv")


def test_a_hard_link_of_a_file_outside_the_output_is_refused_and_untouched(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o200)
    out = tmp_path / "store" / "out"
    out.mkdir(parents=True)
    (out / "link").hardlink_to(victim)
    with pytest.raises(BuildError, match=r"^\$out/link is a hard link of a file outside the outputs$"):
        survey({"out": str(out)}, os.geteuid())
    assert victim.stat().st_mode & 0o777 == 0o200


def test_hard_links_between_two_outputs_are_fine(tmp_path: Path) -> None:
    outputs = {name: tmp_path / name for name in ("out", "dev")}
    for out in outputs.values():
        out.mkdir()
    (outputs["out"] / "file").write_text("shared")
    (outputs["dev"] / "file").hardlink_to(outputs["out"] / "file")
    survey({name: str(path) for name, path in outputs.items()}, os.geteuid())


@pytest.mark.root
def test_a_file_of_another_owner_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("x")
    os.chown(out, 1234, 1234)
    with pytest.raises(BuildError, match=r"^\$out belongs to uid 1234, not to the build$"):
        survey({"out": str(out)}, 4321)


# --- logs -------------------------------------------------------------------------------------------------------------


def test_a_log_without_bz2_is_kept_as_it_is_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = str(tmp_path / "nix/var/nix")
    monkeypatch.setitem(sys.modules, "bz2", None)
    with BuildLog(log_path(state, DRV), lambda _: None) as log:
        log.write(b"plain\n")
        assert log.show_command == f"cat {log.path}"
    assert Path(log.path).name.endswith("-x.drv")
    assert read_log(state, DRV) == "plain\n"


def test_directories_of_logs_are_open_to_all_whatever_the_mask(tmp_path: Path) -> None:
    state = str(tmp_path / "nix/var/nix")
    before = os.umask(0o077)
    try:
        with BuildLog(log_path(state, DRV), lambda _: None) as log:
            pass
    finally:
        os.umask(before)
    above = Path(log.path).parents
    assert {directory.name: f"{directory.stat().st_mode & 0o777:o}" for directory in above[:2]} == {
        directory.name: "755" for directory in above[:2]
    }


def test_an_interrupted_log_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    state = str(tmp_path / "nix/var/nix")
    path = Path(log_path(state, DRV))
    path.parent.mkdir(parents=True)
    text = os.urandom(2_000_000).hex().encode()
    path.write_bytes(bz2.compress(text)[:-100_000])
    assert text.decode().startswith(read_log(state, DRV))
    assert len(read_log(state, DRV)) > 1_000_000


def test_lines_are_told_one_by_one_wherever_the_output_is_cut(tmp_path: Path) -> None:
    heard: list[str] = []
    with BuildLog(str(tmp_path / "ab/x.drv.bz2"), heard.append) as log:
        for piece in (b"on", b"e\ntwo\n\nth", b"ree"):
            log.write(piece)
        log.write(b"x" * 5000)
    assert heard == ["one", "two", "", ("three" + "x" * 5000)[:4096]]
    assert log.last_lines == tuple(heard)


# --- who and where ----------------------------------------------------------------------------------------------------


@pytest.mark.root
def test_two_builds_have_two_users_and_neither_is_root(tmp_path: Path) -> None:
    state = str(tmp_path)
    with users.build_user(state) as one, users.build_user(state) as other:
        assert not one.single
        assert one.uid != other.uid
        assert min(one.uid, other.uid) >= 872415232
    with users.build_user(state) as again:
        assert again.uid == one.uid


def test_where_only_our_own_uid_is_mapped_builds_run_as_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_maps", lambda path, wanted: wanted == os.geteuid())
    with users.build_user(str(tmp_path)) as user:
        assert user == users.BuildUser(os.geteuid(), os.getegid(), single=True)


@pytest.mark.root
@pytest.mark.parametrize(("mapped", "first"), [(2**32 - 1, 872415232), (65536, 30001), (872415232, 30001)])
def test_the_build_users_are_those_that_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: int, first: int
) -> None:
    monkeypatch.setattr(users, "_maps", lambda path, wanted: wanted < mapped)
    monkeypatch.setattr(users, "_is_account", lambda uid: False)
    with users.build_user(str(tmp_path)) as user:
        assert user == users.BuildUser(first, first, single=False)


@pytest.mark.root
def test_the_uid_of_an_account_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_is_account", lambda uid: uid < 872415232 + 65536 * 3)
    with users.build_user(str(tmp_path)) as user:
        assert user.uid == 872415232 + 65536 * 3


@pytest.mark.root
def test_more_builds_than_users_are_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(users, "_is_account", lambda uid: True)
    with pytest.raises(BuildError, match="all 128 build users are taken"), users.build_user(str(tmp_path)):
        pass


def test_a_run_removes_what_a_killed_one_left_and_nothing_of_one_that_lives(tmp_path: Path) -> None:
    builds = tmp_path / "builds"
    (builds / "reconciler-1-dead/1/build").mkdir(parents=True)
    (builds / "reconciler-1-dead.lock").touch()
    with Workshop(str(tmp_path)) as living:
        kept = Path(living.new())
        with Workshop(str(tmp_path)) as other:
            other.new()
            assert kept.is_dir()
            assert not (builds / "reconciler-1-dead").exists()
            assert not (builds / "reconciler-1-dead.lock").exists()
        assert kept.is_dir()
    assert list(builds.iterdir()) == []


# --- the toolchain ----------------------------------------------------------------------------------------------------


def test_the_toolchain_is_told_apart_by_distribution_library_and_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def value() -> str:
        toolchain.host_toolchain.cache_clear()
        return toolchain.host_toolchain()

    found = {value(), value()}
    monkeypatch.setattr(toolchain, "_os_release", lambda: "ID=other\n")
    found.add(value())
    said = dict(zip(toolchain._PROGRAMS, toolchain._versions(toolchain._PROGRAMS), strict=True))
    monkeypatch.setattr(toolchain, "_versions", lambda programs: [said[program] for program in programs])
    for program in ("ldd", "cc", "ld"):
        said[program] = "9"
        found.add(value())
    toolchain.host_toolchain.cache_clear()
    assert len(found) == 5
    assert all(len(one) == len("host-") + 32 for one in found)


def test_a_program_that_is_not_there_has_no_version() -> None:
    assert toolchain._versions(["no-such-compiler", "false"]) == ["none", "none"]


# --- every Python that hosts have -------------------------------------------------------------------------------------


@pytest.mark.nix
@pytest.mark.parametrize("version", VERSIONS)
def test_the_builder_runs_under_every_supported_python(store_root: Path, nix: RealNix, version: str) -> None:
    python = interpreter(version)
    given = {"root": str(store_root), "name": "test", "script": "echo built > $out"}
    command = [python, "-W", "error", "-I", "-S", str(DRIVER), str(PROJECT)]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(json.loads(done.stdout)["output"]).read_text() == "built\n"
    nix.verify()
