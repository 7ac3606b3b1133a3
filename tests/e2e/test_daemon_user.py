"""A user of a multi-user Nix deploys to the user's own profile, through the host's real nix-daemon and without root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.store.store import Store
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

STATE = "home/alice/.local/state/reconciler"
NIX_CONF = "build-users-group = nixbld\nsandbox = false\nsubstitute = false\n"


def start_daemon(host: TestHost, config: str = "") -> None:
    """A Nix of root's that serves users, and builds as its build users."""
    (host.root / "etc/nix").mkdir(exist_ok=True)
    (host.root / "etc/nix/nix.conf").write_text(NIX_CONF + config)
    with (host.root / "etc/group").open("a") as groups:
        groups.write("nixbld:x:30000:nixbld1,nixbld2\n")
    script = "nix-store --init && (setsid nix-daemon </dev/null >/tmp/daemon.log 2>&1 &)"
    started = host.run(script)
    assert started.returncode == 0, started.stderr
    assert host.run("while ! [ -S /nix/var/nix/daemon-socket/socket ]; do sleep 0.01; done").returncode == 0


def stop_daemon(host: TestHost) -> None:
    for pid, line in host.processes().items():
        if line.startswith("nix-daemon"):
            os.kill(pid, 9)
    (host.root / "nix/var/nix/daemon-socket/socket").unlink()


@pytest.fixture
def alice(operator: MakeOperator) -> Callable[..., Operator]:
    """`alice(config)`: somebody whose login on web01, a host with a nix-daemon, is alice."""

    def make(config: str = "", daemon: bool = True) -> Operator:
        admin = operator(["web01"], nixbld=2)
        variables = admin.fleet.directory / "host_vars/web01.yml"
        variables.parent.mkdir()
        variables.write_text("{ansible_user: alice}")
        if daemon:
            start_daemon(admin.fleet["web01"], config)
        return admin

    return make


def tool(admin: Operator, name: str, version: str) -> str:
    """A content-addressed package of two store paths, in the controller's store; its path."""
    with Store.open(str(admin.store), create=True) as store:
        words = store.add_text(f"words-{version}", f"{name} {version}\n".encode())
        script = nar.File(f"#!/bin/sh\ncat {words}\n".encode(), executable=True)
        tree = nar.Directory({"bin": nar.Directory({name: script})})
        return str(store.add_tree(f"{name}-{version}", tree, [words]))


def want(admin: Operator, *packages: str) -> None:
    admin.want({"users": {"alice": {"packages": list(packages)}}})


def profile(host: TestHost) -> Path:
    return host.root / "nix/var/nix/profiles/per-user/alice"


def test_a_user_deploys_upgrades_rolls_back_and_leaves(alice: Callable[..., Operator]) -> None:
    admin = alice()
    (host,) = admin.fleet
    one, two, other = tool(admin, "greet", "1.0"), tool(admin, "greet", "2.0"), tool(admin, "tally", "1.0")
    want(admin, one)
    # Looking leaves nothing.
    assert "+ greet" in admin.run("plan").stdout
    assert "1 ready" in admin.run("doctor").stdout
    assert not (host.root / "home/alice/.local").exists()
    first = admin.run("deploy", "--hosts", "web01", "--yes")
    assert "confirmed" in first.stderr + first.stdout
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert (host.root / STATE / "history").stat().st_uid == 1001
    assert not (host.root / "nix/var/reconciler").exists()
    again = admin.run("deploy", "--hosts", "web01", "--yes")
    print(again.stdout, again.stderr)
    want(admin, two, other)
    admin.run("deploy", "--hosts", "web01", "--yes")
    assert host.run(".nix-profile/bin/greet && .nix-profile/bin/tally", user="alice").stdout == "greet 2.0\ntally 1.0\n"
    # Nix agrees, as alice.
    remote = {"NIX_REMOTE": "daemon"}
    listed = host.nix("nix-env", "--list-generations", user="alice", env=remote).stdout
    assert re.findall(r"^ +(\d+) .*?(\(current\))?\s*$", listed, re.MULTILINE) == [("1", ""), ("2", "(current)")]
    assert host.nix("nix-env", "-q", user="alice", env=remote).stdout.split() == ["greet-2.0", "tally-1.0"]
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert os.readlink(profile(host) / "profile") == "profile-1-link"
    host.verify_store()
