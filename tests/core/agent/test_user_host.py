"""A host as one user of its multi-user Nix sees it."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from reconciler.core.agent import created, lock
from reconciler.core.agent.host import DAEMON_SOCKET, Host
from reconciler.core.agent.messages import BeginRequest, LockOwner
from reconciler.core.agent.user_host import UserHost
from reconciler.core.errors import RefusedError
from reconciler.core.profile.names import ProfileId

ALICE = ProfileId("alice")


@pytest.fixture
def somebody(monkeypatch: pytest.MonkeyPatch) -> pwd.struct_passwd:
    """This process is that account's, and /nix is not."""
    account = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: account.pw_uid)
    monkeypatch.setattr(os, "access", lambda *_: False)
    return account


def socket(root: Path) -> Path:
    place = root / DAEMON_SOCKET.lstrip("/")
    place.parent.mkdir(parents=True)
    place.touch()
    return place


def test_where_a_daemon_is_one_is_its_user_and_else_refused(tmp_path: Path, somebody: pwd.struct_passwd) -> None:
    alone = Host.here(str(tmp_path))
    assert type(alone) is Host
    assert alone.login == ""
    with pytest.raises(RefusedError, match="no store of one's own: /nix belongs to another user"):
        alone.require_privilege()
    socket(tmp_path)
    host = Host.here(str(tmp_path))
    assert isinstance(host, UserHost)
    assert host.login == somebody.pw_name
    assert host.state == f"{somebody.pw_dir}/.local/state/reconciler"
    # Nobody listens there.
    with pytest.raises(RefusedError, match=f"{somebody.pw_name} is not root here, and the Nix daemon, .*: Connection"):
        host.require_privilege()


def test_the_owner_of_a_store_works_on_it_though_a_daemon_serves_it(
    tmp_path: Path, somebody: pwd.struct_passwd, monkeypatch: pytest.MonkeyPatch
) -> None:
    socket(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: True)
    assert type(Host.here(str(tmp_path))) is Host


def test_who_has_no_account_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    socket(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999_999)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert type(Host.here(str(tmp_path))) is Host


@pytest.fixture
def host(tmp_path: Path) -> UserHost:
    (tmp_path / "home/alice").mkdir(parents=True)
    return UserHost(str(tmp_path), user="alice", home="/home/alice")


def test_its_own_files_are_in_the_home(host: UserHost, tmp_path: Path) -> None:
    state = f"{tmp_path}/home/alice/.local/state/reconciler"
    own = (host.own_state, host.history, host.lock, host.switching, host.created, host.nix_version)
    assert [os.path.relpath(path, state) for path in own] == [
        ".",
        "history",
        "lock",
        "switching",
        "created",
        "nix-version",
    ]
    assert host.agent_cache("/nix/var/reconciler/agent") == f"{state}/agent"
    assert host.stage_root("user/alice") == f"{state}/roots/user/alice"
    assert not host.managed
    assert created.missing_state(host) == [
        "/home/alice/.local",
        "/home/alice/.local/state",
        "/home/alice/.local/state/reconciler",
    ]
    os.makedirs(host.own_state)
    lock.take(host, LockOwner("test", "tester", 1, 0.0)).release()
    assert host.managed
    # What a first deployment that was killed has left is not taken for a store of ours.
    assert created.new_state(host, []) == ()


@pytest.mark.parametrize("profile", [ProfileId.SYSTEM, ProfileId("bob"), ProfileId(place="default")])
def test_nothing_but_the_users_own_profile_is_changed(host: UserHost, profile: ProfileId) -> None:
    host.require_mine(ALICE)
    with pytest.raises(RefusedError, match=f"{profile.owner} cannot be changed as alice, only alice's own profile"):
        host.require_mine(profile)
    Host(host.root).require_mine(profile)


def test_a_deployment_is_not_begun_where_no_daemon_answers(host: UserHost) -> None:
    with pytest.raises(RefusedError, match="alice is not root here, and the Nix daemon"):
        lock.begin(host, BeginRequest("260101-0000-aa", "tester", "a test"))
    assert not os.path.exists(host.own_state)
