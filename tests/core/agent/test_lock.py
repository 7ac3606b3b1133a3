"""One deployment of a host at a time."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.agent import lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import BeginRequest, LockOwner
from reconciler.core.errors import InternalError, RefusedError
from tests.core.agent.hosts import begin, make_host

HOLDER = """
import sys, time
from reconciler.core.agent import lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import BeginRequest
lock.begin(Host(sys.argv[1]), BeginRequest("260312-1412-k9", "oncall", "hotfix"))
print("begun", flush=True)
time.sleep(60)
"""


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


def hold(host: Host) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, host.root], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.stdout.close()
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_first_deployment_makes_the_store_and_our_folder_and_says_so(host: Host) -> None:
    begun = lock.begin(host, BeginRequest("260312-1412-k7", "deployer", ""))
    assert (begun.first, begun.created) == (True, ("/nix", "/nix/store", "/nix/var/nix", "/nix/var/reconciler"))
    assert Path(host.database).exists()
    assert not Path(host.path("/etc/profile.d")).exists()


def test_a_later_one_creates_nothing(host: Host) -> None:
    begin(host)
    lock.release(host)
    begun = lock.begin(host, BeginRequest("260312-1412-k8", "deployer", ""))
    assert (begun.first, begun.created) == (False, ())


def test_the_file_names_the_owner(host: Host) -> None:
    begin(host)
    header, text = Path(host.lock).read_text().splitlines()
    owner = LockOwner.from_json(json.loads(text))
    assert header == "reconciler-lock 1"
    assert (owner.deployment, owner.who, owner.pid) == ("260312-1412-k7", "deployer", os.getpid())
    assert lock.owner(host) is None, "what this agent holds is no obstacle to it"
    seen = lock.owner(Host(host.root))
    assert seen == owner
    lock.release(host)
    assert lock.owner(Host(host.root)) is None


def test_a_second_deployment_is_refused_and_told_who_has_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.05)
    process = hold(host)
    try:
        with pytest.raises(RefusedError) as caught:
            begin(host)
        said = rf" is locked: oncall deploys 260312-1412-k9 since \d\d:\d\d:\d\d \(pid {process.pid}\)"
        assert re.search(said, caught.value.message)
        assert host.session.lock is None
    finally:
        end(process)
    begin(host)


def test_a_host_is_called_what_the_inventory_calls_it(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.05)
    assert host.name == os.uname().nodename
    process = hold(host)
    try:
        with pytest.raises(RefusedError, match=r"^web01\.shop\.example is locked: oncall deploys"):
            lock.begin(host, BeginRequest("260312-1412-k7", "deployer", "", "web01.shop.example"))
    finally:
        end(process)
    assert host.name == "web01.shop.example"


def test_a_killed_owner_leaves_no_lock(host: Host) -> None:
    end(hold(host))
    assert lock.owner(host) is None
    begin(host)


def test_a_host_that_is_not_managed_has_no_lock_and_gets_none_by_looking(host: Host) -> None:
    assert lock.owner(host) is None
    assert not Path(host.path("/nix")).exists()


def test_an_agent_deploys_once(host: Host) -> None:
    begin(host)
    with pytest.raises(InternalError, match="held already"):
        begin(host)


def test_what_was_not_begun_is_refused(host: Host) -> None:
    with pytest.raises(InternalError, match="k1 was not begun here"):
        lock.require(host, "k1")
    begin(host, "k2")
    with pytest.raises(InternalError, match="k1 was not begun here"):
        lock.require(host, "k1")
    lock.require(host, "k2")


@pytest.mark.parametrize(
    "text", ["", "reconciler-lock 1\n", "reconciler-lock 2\n{}\n", "reconciler-lock 1\n{}\n", "\0"]
)
def test_a_lock_file_that_says_nothing_is_a_lock_still(text: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "_PATIENCE", 0.05)
    begin(host)
    Path(host.lock).write_text(text)
    other = Host(host.root)
    assert lock.owner(other) == LockOwner("", "", 0, 0.0)
    with pytest.raises(RefusedError, match="another deployment is under way"):
        begin(other)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to become an ordinary user")
def test_an_ordinary_user_without_a_store_is_refused_before_anything_is_made(host: Host) -> None:
    code = """
import os, sys
sys.path.insert(0, sys.argv[2])
from reconciler.core.agent import lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import BeginRequest
from reconciler.core.errors import RefusedError
os.chdir(sys.argv[1]); os.setgid(41000); os.setuid(41001)
try:
    lock.begin(Host("."), BeginRequest("k7", "alice", ""))
except RefusedError as error:
    print(error.message, error.hint, sep="|")
"""
    project = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", code, host.root, project], capture_output=True, text=True, check=True, cwd=project
    )
    message, hint = done.stdout.strip().split("|")
    assert message.endswith(": not root (uid 41001), and no store of one's own: /nix belongs to another user")
    assert hint == "ansible_become: true, or log in as root"
    assert not Path(host.path("/nix")).exists()
