"""Switching: all profiles of a host or none, only from what the plan saw, and told in the history."""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.agent import change, history, lock, observe, profiles, recovery, stage
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    BeginRequest,
    GenerationRef,
    HistoryEntry,
    ObserveRequest,
    ProfileChange,
    ProfileState,
)
from reconciler.core.errors import FormatError, InternalError, RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.conftest import make_writable
from tests.core.agent.hosts import away, begin, everything, make_host, request, stage_all, switch, to
from tests.core.profile.homes import UIDS, link, own
from tests.core.profile.packages import make_environment, make_toplevel, package
from tests.oracle import RealNix
from tests.pythons import VERSIONS, interpreter


@dataclass(frozen=True)
class Deployed:
    """A host, its lock held, with systems and environments of one package each in its store."""

    host: Host
    systems: tuple[StorePath, ...]
    users: tuple[StorePath, ...]

    def state(self, profile: str) -> ProfileState:
        user = ProfileId.parse(profile).user
        found = observe.observe(self.host, ObserveRequest((user,) if user else ())).profile(profile)
        assert found is not None
        return found

    def current(self, profile: str) -> GenerationRef | None:
        return self.state(profile).current

    def numbers(self, profile: str) -> list[int]:
        return [one.number for one in profiles.find(self.host, ProfileId.parse(profile)).generations]

    @property
    def running(self) -> str:
        return observe.observe(self.host, ObserveRequest()).running

    @property
    def told(self) -> tuple[HistoryEntry, ...]:
        return history.read(self.host.history)


@pytest.fixture
def deployed(tmp_path: Path) -> Iterator[Deployed]:
    host = make_host(tmp_path / "host")
    begin(host)
    with Store.open(host.root) as store:
        packages = [package(store, f"{name}-1.0") for name in ("a", "b", "c")]
        systems = tuple(make_toplevel(store, one) for one in packages)
        users = tuple(make_environment(store, one) for one in packages)
    yield Deployed(host, systems, users)
    make_writable(Path(host.root))


def ref(number: int, path: StorePath) -> GenerationRef:
    return GenerationRef(number, str(path))


# --- deploying --------------------------------------------------------------------------------------------------------


@pytest.mark.nix
def test_a_first_deployment_sets_every_profile_and_what_runs(deployed: Deployed) -> None:
    host, system, user = deployed.host, deployed.systems[0], deployed.users[0]
    stage_all(host, {"system": system, "user/alice": user})
    made = switch(host, to("system", system), to("user/alice", user))
    assert [(one.profile, one.before, one.after, one.created) for one in made] == [
        ("system", None, ref(1, system), True),
        ("user/alice", None, ref(1, user), True),
    ]
    assert os.readlink(host.system_profile) == "system-1-link"
    assert os.readlink(host.path("/run/current-system")) == str(system)
    assert os.readlink(host.path("/home/alice/.nix-profile")) == "/nix/var/nix/profiles/per-user/alice/profile"
    assert os.path.exists(host.path("/etc/profile.d/reconciler.sh"))
    assert os.listdir(host.path("/nix/var/nix/gcroots/reconciler/user")) == []
    assert not os.path.lexists(host.stage_root("system"))
    assert not os.path.lexists(host.switching)
    nix = RealNix(host.root)
    assert {str(system), str(user)} <= set(nix.output("nix-store", "--gc", "--print-live").splitlines())
    nix.verify()


def test_each_profile_has_its_line_of_history(deployed: Deployed) -> None:
    before = time.time()
    switch(deployed.host, to("system", deployed.systems[0]), to("user/alice", deployed.users[0]))
    told = deployed.told
    assert [(one.profile, one.before, one.after) for one in told] == [
        ("system", None, ref(1, deployed.systems[0])),
        ("user/alice", None, ref(1, deployed.users[0])),
    ]
    first = told[0]
    assert (first.deployment, first.kind, first.who, first.message, first.undoes) == (
        "260312-1412-k7",
        "deploy",
        "deployer",
        "a message",
        "",
    )
    assert before <= first.when <= time.time()
    assert [deployed.state(name).changed_outside for name in ("system", "user/alice")] == [False, False]


def test_the_next_deployment_is_the_next_generation(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)))
    assert deployed.current("system") == ref(2, b)
    assert deployed.running == str(b)


def test_a_profile_that_is_right_already_is_left_and_not_told(deployed: Deployed) -> None:
    a = deployed.users[0]
    switch(deployed.host, to("user/alice", a))
    (made,) = switch(deployed.host, to("user/alice", a, ref(1, a)))
    assert (made.before, made.after, made.created) == (ref(1, a), ref(1, a), False)
    assert len(deployed.told) == 1
    assert deployed.numbers("user/alice") == [1]


def test_a_system_that_is_right_but_does_not_run_is_put_to_work(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)), action="test")
    switch(deployed.host, to("system", a, ref(1, a)))
    assert deployed.running == str(a)
    assert len(deployed.told) == 1


def test_what_the_highest_generation_holds_is_taken_again(deployed: Deployed) -> None:
    a, b, _ = deployed.users
    switch(deployed.host, to("user/alice", a))
    switch(deployed.host, to("user/alice", b, ref(1, a)))
    switch(deployed.host, to("user/alice", a, ref(2, b), number=1), kind="rollback")
    (made,) = switch(deployed.host, to("user/alice", b, ref(1, a)))
    assert (made.after, made.created) == (ref(2, b), False)
    assert deployed.numbers("user/alice") == [1, 2]


@pytest.mark.nix
def test_a_user_profile_outside_the_profiles_folder_is_rooted(deployed: Deployed) -> None:
    host, a = deployed.host, deployed.users[0]
    link(Path(host.path("/home/alice/.nix-profile")), ".local/state/nix/profiles/profile", "alice")
    switch(host, to("user/alice", a))
    (root,) = Path(host.path("/nix/var/nix/gcroots/auto")).iterdir()
    assert os.readlink(root) == "/home/alice/.local/state/nix/profiles/profile-1-link"
    assert Path(host.path("/home/alice/.local/state/nix/profiles/profile-1-link")).lstat().st_uid == UIDS["alice"]
    assert deployed.state("user/alice").link == "/home/alice/.local/state/nix/profiles/profile"
    # Below another root the collector sees the link only by its real path.
    os.unlink(root)
    root.symlink_to(host.path("/home/alice/.local/state/nix/profiles/profile-1-link"))
    assert str(a) in RealNix(host.root).output("nix-store", "--gc", "--print-live").splitlines()


# --- actions ----------------------------------------------------------------------------------------------------------


def test_boot_sets_the_profile_and_leaves_what_runs(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)), action="boot")
    assert deployed.current("system") == ref(2, b)
    assert deployed.running == str(a)


def test_boot_leaves_what_runs_also_when_it_was_booted_through_the_profile(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    current = Path(deployed.host.path("/run/current-system"))
    current.unlink()
    current.symlink_to("/nix/var/nix/profiles/system")
    switch(deployed.host, to("system", b, ref(1, a)), action="boot")
    assert deployed.running == str(a)


def test_test_puts_to_work_and_leaves_the_profile_and_the_history(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a), to("user/alice", deployed.users[0]))
    user = deployed.current("user/alice")
    made = switch(deployed.host, to("system", b, ref(1, a)), to("user/alice", deployed.users[1], user), action="test")
    assert [one.created for one in made] == [False, False]
    assert deployed.running == str(b)
    assert (deployed.current("system"), deployed.current("user/alice")) == (ref(1, a), user)
    assert len(deployed.told) == 2


@pytest.mark.parametrize("action", ["stage", "build", "reboot"])
def test_an_action_that_switches_nothing_is_refused(action: str, deployed: Deployed) -> None:
    with pytest.raises(FormatError, match=action):
        switch(deployed.host, to("system", deployed.systems[0]), action=action)
    assert deployed.current("system") is None


# --- the host has changed since the plan ------------------------------------------------------------------------------


def refused(deployed: Deployed, *changes: ProfileChange) -> RefusedError:
    before = everything(deployed.host)
    with pytest.raises(RefusedError) as caught:
        switch(deployed.host, *changes)
    assert everything(deployed.host) == before
    return caught.value


def test_another_deployment_since_the_plan_is_named(deployed: Deployed) -> None:
    a, b, c = deployed.systems
    switch(deployed.host, to("system", a))
    lock.release(deployed.host)
    lock.begin(deployed.host, BeginRequest("260312-1420-k9", "oncall", "hotfix"))
    hotfix = replace(request(deployed.host, to("system", b, ref(1, a))), who="oncall", message="hotfix")
    change.switch(deployed.host, hotfix)
    error = refused(deployed, to("system", c, ref(1, a)))
    moved = "system was 1, is 2 (oncall, 0 s ago, 260312-1420-k9 'hotfix')"
    assert error.message == f"{os.uname().nodename} has changed since the plan: {moved}"
    assert error.hint == "reconciler history 260312-1420-k9; then deploy again to see a fresh plan"


@pytest.mark.nix
def test_a_change_by_nix_is_told_as_such(deployed: Deployed) -> None:
    a, b, c = deployed.users
    switch(deployed.host, to("user/alice", a))
    switch(deployed.host, to("user/alice", b, ref(1, a)))
    profile = deployed.host.path("/nix/var/nix/profiles/per-user/alice/profile")
    RealNix(deployed.host.root).run("nix-env", "-p", profile, "--rollback")
    own(Path(profile), "alice")
    assert deployed.state("user/alice").changed_outside
    error = refused(deployed, to("user/alice", c, ref(2, b)))
    assert error.message.endswith("has changed since the plan: alice was 2, is 1 (not by the reconciler)")
    assert error.hint == "deploy again to see a fresh plan"


def test_a_number_that_was_given_again_is_no_excuse(deployed: Deployed) -> None:
    a, b, c = deployed.systems
    switch(deployed.host, to("system", a))
    error = refused(deployed, to("system", c, ref(1, b)))
    assert f"system was 1 ({b}), is another 1 ({a}) (deployer, " in error.message


def test_a_profile_that_came_or_went_is_told(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    assert "system was 4, is not there (not by the reconciler)" in refused(deployed, to("system", b, ref(4, a))).message
    switch(deployed.host, to("system", a))
    assert "system was not there, is 1 (deployer, " in refused(deployed, to("system", b)).message


def test_all_that_moved_is_told_at_once(deployed: Deployed) -> None:
    a, b = deployed.systems[0], deployed.users[0]
    message = refused(deployed, to("system", a, ref(3, a)), to("user/alice", b, ref(5, b))).message
    assert "system was 3, is not there (not by the reconciler); alice was 5, is not there" in message


AGES = {0: "0 s", 59: "59 s", 60: "1 min", 3599: "59 min", 3600: "1 h", 86399: "23 h", 200000: "2 d", -5: "0 s"}


@pytest.mark.parametrize("seconds", AGES)
def test_an_age_is_told_in_its_largest_unit(seconds: int) -> None:
    assert change._ago(seconds) == AGES[seconds]


# --- going back -------------------------------------------------------------------------------------------------------


def test_a_recorded_generation_is_gone_back_to(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)))
    (made,) = switch(deployed.host, to("system", a, ref(2, b), number=1), kind="rollback", undoes="260312-1412-k7")
    assert (made.before, made.after, made.created) == (ref(2, b), ref(1, a), False)
    assert deployed.running == str(a)
    assert deployed.numbers("system") == [1, 2]
    assert (deployed.told[-1].kind, deployed.told[-1].undoes) == ("rollback", "260312-1412-k7")
    assert [one.before for one in deployed.state("system").undone] == [ref(2, b)]


def test_a_generation_with_that_number_but_another_path_is_refused(deployed: Deployed) -> None:
    a, b, c = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)))
    error = refused(deployed, to("system", c, ref(2, b), number=1))
    assert f"system has no generation 1 that is {c}" in error.message
    assert error.hint == "reconciler generations shows what there is"


def test_a_generation_that_is_not_whole_any_more_is_refused(deployed: Deployed) -> None:
    a, b, _ = deployed.systems
    switch(deployed.host, to("system", a))
    switch(deployed.host, to("system", b, ref(1, a)))
    os.chmod(deployed.host.path(str(a)), 0o755)  # for an ordinary user, who may move only what may be written to
    os.rename(deployed.host.path(str(a)), deployed.host.path("/nix/gone"))
    with pytest.raises(StoreError, match="its files are not there"):
        switch(deployed.host, to("system", a, ref(2, b), number=1))
    assert deployed.current("system") == ref(2, b)


@pytest.mark.nix
def test_a_first_deployment_is_undone_to_no_profile_and_keeps_its_generation(deployed: Deployed) -> None:
    host, a, user = deployed.host, deployed.systems[0], deployed.users[0]
    switch(host, to("system", a), to("user/alice", user))
    made = switch(host, away("system", ref(1, a)), away("user/alice", ref(1, user)), kind="rollback")
    assert [one.after for one in made] == [None, None]
    assert not os.path.lexists(host.system_profile)
    assert not os.path.lexists(host.path("/run/current-system"))
    assert os.readlink(f"{host.system_profile}-1-link") == str(a)
    state = deployed.state("system")
    assert (state.current, state.highest, state.changed_outside) == (None, 1, False)
    assert [one.before for one in state.undone] == [ref(1, a)]
    switch(host, to("system", a))
    assert deployed.current("system") == ref(1, a)
    assert deployed.state("system").undone == ()
    RealNix(host.root).verify()


# --- all or none ------------------------------------------------------------------------------------------------------


def fail_at(monkeypatch: pytest.MonkeyPatch, profile: str) -> None:
    real = profiles.change

    def fail(host: Host, store: object, found: profiles.Found, step: object) -> object:
        if str(found.profile) == profile:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(host, store, found, step)  # type: ignore[arg-type]

    monkeypatch.setattr(profiles, "change", fail)


@pytest.mark.parametrize("failing", ["system", "user/alice", "user/bob"])
def test_when_one_profile_fails_none_has_changed(
    failing: str, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, (a, b, _), (x, y, _) = deployed.host, deployed.systems, deployed.users
    switch(host, to("system", a), to("user/alice", x))
    os.unlink(host.path("/etc/profile.d/reconciler.sh"))
    before = everything(host)
    told = deployed.told
    fail_at(monkeypatch, failing)
    with pytest.raises(OSError, match="No space left"):
        switch(host, to("user/alice", y, ref(1, x)), to("system", b, ref(1, a)), to("user/bob", x))
    leftover = {line for line in everything(host) if line.endswith("per-user/bob")}
    assert set(everything(host)) - leftover == set(before)
    assert deployed.told == told
    assert deployed.running == str(a)


def test_a_first_deployment_that_fails_leaves_the_host_as_it_was(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = deployed.host
    fail_at(monkeypatch, "user/bob")
    with pytest.raises(OSError, match="No space left"):
        switch(host, to("system", deployed.systems[0]), to("user/bob", deployed.users[0]))
    for path in ("/run/current-system", "/etc/profile.d/reconciler.sh", "/etc/tmpfiles.d/reconciler.conf"):
        assert not os.path.lexists(host.path(path))
    assert os.listdir(host.path("/nix/var/nix/profiles")) == ["per-user"] or not os.listdir(
        host.path("/nix/var/nix/profiles")
    )
    assert not os.path.lexists(host.path("/nix/var/nix/gcroots/current-system"))


def test_when_the_history_cannot_be_written_nothing_has_changed(
    deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, a = deployed.host, deployed.systems[0]

    def full(path: str, entries: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(history, "append", full)
    with pytest.raises(OSError, match="No space left"):
        switch(host, to("system", a), to("user/alice", deployed.users[0]))
    assert (deployed.current("system"), deployed.current("user/alice"), deployed.running) == (None, None, "")


@pytest.mark.parametrize("broken", ["done", "free"])
def test_a_switch_that_is_told_stands_also_when_its_traces_cannot_be_removed(
    broken: str, deployed: Deployed, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, a = deployed.host, deployed.systems[0]

    def cannot(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(*((recovery, "done", cannot) if broken == "done" else (stage, "free", cannot)))
        (switched,) = switch(host, to("system", a))
    assert (switched.after, deployed.current("system")) == (ref(1, a), ref(1, a))
    assert len(deployed.told) == 1
    lock.release(host)
    begin(host, "k2")
    assert len(deployed.told) == 1
    assert not os.path.exists(host.switching)


def test_what_a_killed_agent_left_under_temporary_names_goes_with_the_next_deployment(deployed: Deployed) -> None:
    host = deployed.host
    switch(host, to("system", deployed.systems[0]))
    lock.release(host)
    left = ["nix/var/reconciler/.switching.tmp-17-0123abcd", "run/.0_current-system", "etc/.passwd.tmp-17-0123abcd"]
    left += ["nix/var/nix/gcroots/.0_current-system", "etc/profile.d/.reconciler.sh.tmp-17-0123abcd"]
    for name in left:
        Path(host.path(name)).write_text("")
    begin(host, "k2")
    assert [name for name in left if os.path.lexists(host.path(name))] == ["etc/.passwd.tmp-17-0123abcd"]


def test_what_could_not_be_undone_is_said(deployed: Deployed, monkeypatch: pytest.MonkeyPatch) -> None:
    host = deployed.host
    fail_at(monkeypatch, "user/bob")

    def cannot(host: Host, found: object, applied: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(profiles, "restore", cannot)
    with pytest.raises(StoreError, match=r"No space left on device; and it could not be undone: .*Input/output error"):
        switch(host, to("system", deployed.systems[0]), to("user/bob", deployed.users[0]))
    assert os.path.exists(host.switching), "the next deployment must find out what came of it"
    assert deployed.state("system").last is not None


def test_a_missing_account_switches_nothing_else_either(deployed: Deployed) -> None:
    with pytest.raises(StoreError, match="nobody-at-all: there is no account 'nobody-at-all'"):
        switch(deployed.host, to("system", deployed.systems[0]), to("user/nobody-at-all", deployed.users[0]))
    assert deployed.current("system") is None


def test_switching_is_for_the_deployment_that_was_begun(deployed: Deployed) -> None:
    lock.release(deployed.host)
    with pytest.raises(InternalError, match="was not begun here"):
        switch(deployed.host, to("system", deployed.systems[0]))


# --- cut off ----------------------------------------------------------------------------------------------------------

SWITCHER = """
import os, signal, sys
from reconciler.core.agent import change, lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import BeginRequest, ProfileChange, SwitchRequest
root, who, when, system, user = sys.argv[1:]
left, forks, agent = [int(when)], [0], os.getpid()
def kill(event, arguments):
    forks[0] += event == "os.fork"
    # The second child is the one that makes the change; the first looked, a third puts back.
    if (os.getpid() == agent) != (who == "agent") or (who == "child" and forks[0] != 2):
        return
    if event in ("os.rename", "os.symlink", "os.remove", "os.truncate", "os.fork", "os.mkdir") or (
        event == "open" and isinstance(arguments[0], str) and arguments[0].endswith("history")
    ):
        left[0] -= 1
        if left[0] == 0:
            (os.killpg if who == "agent" else os.kill)(0 if who == "agent" else os.getpid(), signal.SIGKILL)
host = Host(root)
lock.begin(host, BeginRequest("k8", "oncall", "cut off"))
changes = (ProfileChange("system", None, system), ProfileChange("user/alice", None, user))
sys.addaudithook(kill)
change.switch(host, SwitchRequest("k8", "deploy", "oncall", "cut off", "switch", changes))
"""


@pytest.mark.parametrize("who", ["agent", "child"])
def test_a_kill_at_any_step_leaves_old_or_new_and_a_true_history(who: str, deployed: Deployed, tmp_path: Path) -> None:
    system, user = deployed.systems[0], deployed.users[0]
    lock.release(deployed.host)
    seen = set()
    for step in range(1, 100):
        # Each on a copy of its own, so that the same step is the same call.
        copy = dataclasses.replace(deployed, host=Host(str(tmp_path / f"copy-{step}")))
        subprocess.run(["cp", "-a", deployed.host.root, copy.host.root], check=True)
        arguments = [copy.host.root, who, str(step), str(system), str(user)]
        ended = subprocess.run(
            [sys.executable, "-c", SWITCHER, *arguments], check=False, capture_output=True, start_new_session=True
        )
        if who == "child":
            said = b"" if ended.returncode == 0 else b"the child working as alice ended without an answer"
            assert ended.returncode in (0, 1)
            assert said in ended.stderr
            assert ended.returncode == 0 or copy.current("system") is None, "one failed, so none has changed"
            assert ended.returncode == 0 or copy.current("user/alice") is None, step
        else:
            assert ended.returncode in (0, -signal.SIGKILL), ended.stderr.decode()
        seen.add((os.path.exists(copy.host.switching), len(copy.told)))
        check_after_a_kill(copy, {"system": system, "user/alice": user}, step)
        make_writable(Path(copy.host.root))
        shutil.rmtree(copy.host.root)
        if ended.returncode == 0:
            break
    assert ended.returncode == 0
    # Whether a switch was written down as under way, and how much was told: before it, in it, after it was told, done.
    reached = {"agent": {(False, 0), (True, 0), (True, 2), (False, 2)}, "child": {(False, 0), (False, 2)}}
    assert seen == reached[who]


def check_after_a_kill(deployed: Deployed, wanted: dict[str, StorePath], step: int) -> None:
    """Old or new, whole; told the same by a probe before anything is repaired and after the next deployment began."""
    by_a_probe = {name: deployed.state(name) for name in wanted}
    assert lock.owner(deployed.host) is None
    begin(deployed.host, "k9")
    for name, path in wanted.items():
        state = deployed.state(name)
        assert state == by_a_probe[name], step
        assert state.current in (None, ref(1, path)), step
        assert state.complete, step
        assert not state.changed_outside, step
        assert sum(one.profile == name for one in deployed.told) == (state.current is not None), step
        switch(deployed.host, to(name, path, state.current))
        assert deployed.current(name) == ref(1, path), step
    lock.release(deployed.host)


def test_a_record_of_another_version_is_refused_by_name(deployed: Deployed) -> None:
    Path(deployed.host.switching).write_text("reconciler-switching 2\n")
    with pytest.raises(FormatError, match="is of another version: reconciler-switching 2"):
        recovery.recover(deployed.host)
    problems = observe.observe(deployed.host, ObserveRequest()).problems
    assert any("another version" in problem for problem in problems)


# --- other hosts ------------------------------------------------------------------------------------------------------

WHOLE = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from tests.core.agent.hosts import *
from tests.core.profile.packages import *
from reconciler.core.agent import observe
from reconciler.core.agent.messages import ObserveRequest
host = Host(sys.argv[1])
for name in ("", "etc", "home", "home/alice"):
    Path(host.root, name).mkdir()
uid = Path(host.root).stat().st_uid
Path(host.path("/etc/passwd")).write_text(f"root:x:0:0::/root:/bin/sh\\nalice:x:{uid}:{uid}::/home/alice:/bin/sh\\n")
begin(host)
with host.open_store() as store:
    a = package(store, "a-1.0")
    system, user = make_toplevel(store, a), make_environment(store, a)
assert stage_all(host, {"system": system, "user/alice": user}) == {}
first, second = switch(host, to("system", system), to("user/alice", user))
switch(host, away("system", first.after), kind="rollback")
switch(host, to("system", system))
seen = observe.observe(host, ObserveRequest(("alice",)))
print([(state.current.number, state.packages == (str(a),), state.problem) for state in seen.profiles], seen.problems)
"""
WHOLE_SAYS = "[(1, True, ''), (1, True, '')] ()\n"
PROJECT = str(Path(__file__).parents[3])


def test_a_namespace_with_one_uid_and_no_setgroups_is_a_host_like_any_other(tmp_path: Path) -> None:
    try:
        subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no user namespaces here: {error}")
    script = 'test "$(cat /proc/self/setgroups)" = deny && exec "$@"'
    command = ["unshare", "-Ur", "sh", "-c", script, "sh", sys.executable, "-c", WHOLE, str(tmp_path / "host"), PROJECT]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=PROJECT)
    assert (done.returncode, done.stdout) == (0, WHOLE_SAYS), done.stderr
    make_writable(tmp_path)


@pytest.mark.nix
@pytest.mark.parametrize("version", VERSIONS)
def test_a_deployment_is_the_same_under_every_python(version: str, tmp_path: Path) -> None:
    command = [interpreter(version), "-I", "-S", "-W", "error", "-c", WHOLE, str(tmp_path / "host"), PROJECT]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, WHOLE_SAYS, "")
    RealNix(tmp_path / "host").verify()
    make_writable(tmp_path)
