"""Leaving: nothing of ours stays, nothing of others' goes, and what was killed halfway is finished by the next."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.agent import created, leave, lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import BeginRequest, LeaveReply, LeaveRequest
from reconciler.core.errors import RefusedError
from reconciler.core.profile.generations import Profile
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.agent.hosts import begin, everything, make_host, stage_all, switch, to
from tests.core.profile.packages import make_environment, make_toplevel, package

STEPS = ("unlink", "rmdir", "rename", "symlink", "mkdir")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path / "host")
    (tmp_path / "host/run").mkdir()
    yield made
    for each in tmp_path.iterdir():
        make_writable(each)


def deploy(host: Host) -> None:
    """The first deployment: the system, alice, and a place of its own."""
    begin(host)
    with Store.open(host.root) as store:
        one = package(store, "a-1.0")
        system, environment = make_toplevel(store, one), make_environment(store, one)
    stage_all(host, {"system": system, "user/alice": environment, "/opt/site/tools": environment})
    switch(host, to("system", system), to("user/alice", environment), to("/opt/site/tools", environment))
    lock.release(host)


def asked(host: Host) -> LeaveReply:
    return leave.leave(host, LeaveRequest(check=True))


def left(host: Host) -> LeaveReply:
    return leave.leave(host, LeaveRequest(False, "oncall", "web01", asked(host).profiles))


def test_a_host_that_was_never_managed_has_nothing_to_undo(host: Host) -> None:
    before = everything(host)
    assert asked(host) == left(host) == LeaveReply(False)
    assert everything(host) == before


def test_everything_that_a_first_deployment_made_goes(host: Host) -> None:
    before = everything(host)
    deploy(host)
    there = everything(host)
    reply = asked(host)
    assert everything(host) == there
    assert (reply.nix, reply.kept) == (True, ())
    assert [(one.profile, one.back, one.drops) for one in reply.profiles] == [
        ("system", None, ("system-1-link",)),
        ("/opt/site/tools", None, ("tools-1-link",)),
        ("user/alice", None, ("profile-1-link",)),
    ]
    assert left(host).nix
    assert everything(host) == before
    assert left(host) == LeaveReply(False)


def killed_at(step: int, host: Host) -> bool:
    """Leave in a process that ends, as if killed, at its n-th change of a directory; whether it got that far."""
    pid = os.fork()
    if pid == 0:
        count = itertools.count(1)

        def counted(real: Callable[..., Any]) -> Callable[..., Any]:
            def change(*arguments: Any, **named: Any) -> Any:
                if next(count) == step:
                    os._exit(1)
                return real(*arguments, **named)

            return change

        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        try:
            left(host)
        except BaseException:  # the child that had become a user was killed
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1] != 0


@pytest.mark.parametrize("stride", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_one_that_is_killed_at_any_step_is_finished_by_the_next(host: Host, tmp_path: Path, stride: int) -> None:
    before = everything(host)
    deploy(host)
    step, reached = 0, True
    while reached:
        step += stride
        copy = tmp_path / f"copy{step // stride % 2}"
        if copy.exists():
            make_writable(copy)
            shutil.rmtree(copy)
        subprocess.run(["cp", "-a", host.root, copy], check=True)
        reached = killed_at(step, Host(str(copy)))
        left(Host(str(copy)))
        assert everything(Host(str(copy))) == before, f"killed at step {step}"
    assert step > 40


def test_a_generation_of_before_comes_back_and_what_others_made_since_stays(host: Host) -> None:
    with Store.open(host.root, create=True) as store:
        others = [make_environment(store, package(store, f"{name}-1.0")) for name in ("x", "y")]
        Profile(host.path("/nix/var/nix/profiles/site"), store).record(str(others[0]))
        Profile(host.path("/nix/var/nix/profiles/site"), store).switch(1)
        begin(host)
        ours = make_environment(store, package(store, "a-1.0"))
        from tests.core.agent.test_change import ref

        switch(host, to("/nix/var/nix/profiles/site", ours, ref(1, others[0])))
        Profile(host.path("/nix/var/nix/profiles/site"), store).record(str(others[1]))
    lock.release(host)
    reply = left(host)
    assert not reply.nix
    profiles = Path(host.path("/nix/var/nix/profiles"))
    assert {one.name: os.readlink(one) for one in profiles.iterdir() if one.is_symlink()} == {
        "site": "site-1-link",
        "site-1-link": str(others[0]),
        "site-3-link": str(others[1]),
    }
    assert not host.managed


@pytest.mark.parametrize(
    ("make", "why"),
    [
        ("mkdir nix/mine", "/nix/mine is not ours"),
        ("ln -s /etc nix/var/nix/profiles/mine", "/nix/var/nix/profiles/mine is not ours"),
        ("ln -s /etc/passwd nix/var/nix/gcroots/mine", "/nix/var/nix/gcroots/mine is a root that is not ours"),
        ("mkdir nix/var/nix/daemon-socket", "a Nix of the host's own uses it"),
    ],
)
def test_nix_stays_where_something_else_uses_it(host: Host, make: str, why: str) -> None:
    deploy(host)
    subprocess.run(make, shell=True, cwd=host.root, check=True)
    reply = left(host)
    assert (reply.nix, reply.kept) == (False, (f"/nix: {why}",))
    assert os.path.exists(host.path("/nix/store"))
    assert not host.managed


def test_nix_stays_where_a_process_runs_from_it(host: Host) -> None:
    deploy(host)
    with subprocess.Popen(["sleep", "60"], cwd=host.path("/nix/store"), stdout=subprocess.PIPE) as process:
        # Below /nix/store itself, as a program's own directory is.
        folder = next(path for path in Path(host.path("/nix/store")).iterdir() if path.is_dir() and path.name[0] != ".")
        with subprocess.Popen(["sleep", "60"], cwd=folder) as other:
            assert asked(host).kept == (f"/nix: process {other.pid} runs from it",)
            other.kill()
        process.kill()
    assert asked(host).kept == ()


def test_a_file_that_was_changed_by_hand_stays(host: Host) -> None:
    deploy(host)
    file = Path(host.path("/etc/profile.d/reconciler.sh"))
    file.write_text(file.read_text() + "# by hand\n")
    assert left(host).kept == ("/etc/profile.d/reconciler.sh: it was changed by hand",)
    assert file.exists()


def test_a_deployment_at_work_and_a_host_that_has_changed_are_refused(host: Host) -> None:
    deploy(host)
    other = Host(host.root)
    lock.begin(other, BeginRequest("260312-1412-k8", "deployer", ""))
    with pytest.raises(RefusedError, match="deployer deploys 260312-1412-k8"):
        left(host)
    lock.release(other)
    expect = asked(host).profiles
    os.unlink(host.system_profile)
    with pytest.raises(RefusedError, match="has changed since it was asked about"):
        leave.leave(host, LeaveRequest(False, "oncall", "web01", expect))


def test_what_a_begin_that_was_killed_has_left_is_ours_all_the_same(host: Host) -> None:
    before = everything(host)
    Path(host.path("/nix/var/reconciler")).mkdir(parents=True)
    deploy(host)
    assert created.read(host)[:2] == ("/nix", "/nix/store")
    assert left(host).nix
    assert everything(host) == before


def test_an_empty_nix_of_somebody_elses_is_empty_again(host: Host) -> None:
    Path(host.path("/nix")).mkdir()
    before = everything(host)
    deploy(host)
    assert left(host).nix
    assert everything(host) == before
