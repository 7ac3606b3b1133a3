"""A user of a multi-user Nix deploys to the user's own profile, through the host's real nix-daemon and without root."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.agent import archive, bootstrap
from reconciler.core.nix import nar
from reconciler.core.store.store import Store
from reconciler.packages.keys import generate
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
    assert (
        host.run("until NIX_REMOTE=daemon nix-store --gc --print-roots >/dev/null 2>&1; do sleep 0.01; done").returncode
        == 0
    )


def stop_daemon(host: TestHost) -> None:
    for pid, line in host.processes().items():
        if line.startswith("nix-daemon"):
            os.kill(pid, 9)
    (host.root / "nix/var/nix/daemon-socket/socket").unlink()


@pytest.fixture
def alice(operator: MakeOperator) -> Callable[..., Operator]:
    """`alice(config)`: somebody whose login on web01, a host with a nix-daemon, is alice."""

    def make(config: str = "", python: str | None = None) -> Operator:
        admin = operator(["web01"], nixbld=2, python=python)
        variables = admin.fleet.directory / "host_vars/web01.yml"
        variables.parent.mkdir()
        variables.write_text("{ansible_user: alice}")
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


def tree(host: TestHost) -> list[str]:
    """Everything in alice's home and among her generations, with its time."""
    tops = (host.root / "home/alice", profile(host))
    return sorted(f"{path} {path.lstat().st_mtime_ns}" for top in tops for path in top.rglob("*"))


def profile(host: TestHost) -> Path:
    return host.root / "nix/var/nix/profiles/per-user/alice"


def test_a_user_deploys_upgrades_rolls_back_and_leaves(alice: Callable[..., Operator]) -> None:
    admin = alice()
    (host,) = admin.fleet
    one, two, other = tool(admin, "greet", "1.0"), tool(admin, "greet", "2.0"), tool(admin, "tally", "1.0")
    want(admin, one)
    # Looking leaves nothing.
    planned = admin.run("plan").stdout
    assert "  creates  ~/.local/state/reconciler of alice; /nix (" in planned
    assert "free on its file system) is its Nix daemon's\n           ~/.nix-profile of alice" in planned
    assert "/etc/" not in planned
    assert "alice by its Nix daemon" in admin.run("doctor").stdout
    assert not (host.root / "home/alice/.local").exists()
    # The first deployment: packages by their contents, the environment by the daemon's own builder.
    admin.run("deploy", "--hosts", "web01", "--yes", "-m", "first")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert os.readlink(profile(host) / "profile-1-link").endswith("-user-environment")
    assert {path.stat().st_uid for path in (host.root / STATE).iterdir()} == {1001}
    assert [path.suffix for path in (host.root / STATE / "agent").iterdir()].count(".zip") == 1
    start = ("-I", "-S", "-c", bootstrap.code(), archive.build().sha256, "/nix/var/reconciler/agent", "-", "/")
    assert "reconciler-agent-1\0R" in host.run([host.python, *start], user="alice").stdout
    assert not (host.root / "nix/var/reconciler").exists()
    assert not (host.root / "etc/profile.d/reconciler.sh").exists()
    # Nothing to do, then an upgrade.
    before = tree(host)
    assert admin.json("deploy", "--hosts", "web01", "--yes")["hosts"][0]["state"] == "unchanged"
    assert tree(host) == before
    want(admin, two, other)
    admin.run("deploy", "--hosts", "web01", "--yes", "--users", "alice")
    assert host.run(".nix-profile/bin/greet && .nix-profile/bin/tally", user="alice").stdout == "greet 2.0\ntally 1.0\n"
    # Nix agrees, as alice; and so do we.
    remote = {"NIX_REMOTE": "daemon"}
    listed = host.nix("nix-env", "--list-generations", user="alice", env=remote).stdout
    assert re.findall(r"^ +(\d+) .*?(\(current\))?\s*$", listed, re.MULTILINE) == [("1", ""), ("2", "(current)")]
    assert host.nix("nix-env", "-q", user="alice", env=remote).stdout.split() == ["greet-2.0", "tally-1.0"]
    (told,) = admin.json("generations")["hosts"]
    assert [each["number"] for each in told["profiles"]["user/alice"]] == [1, 2]
    assert [line["message"] for line in admin.json("history")["deployments"]] == ["", "first"]
    assert "web01   ok" in admin.run("status", "--exit-code").stdout
    # Exactly back.
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert os.readlink(profile(host) / "profile") == "profile-1-link"
    said = admin.run("rollback", "--hosts", "web01", "--to", "2", "--yes", status=3)
    assert "no profile but alice's own; the generation is to be of: the system" in said.stdout + said.stderr
    admin.run("rollback", "--hosts", "web01", "--users", "alice", "--to", "2", "--yes")
    assert os.readlink(profile(host) / "profile") == "profile-2-link"
    admin.run("rollback", "--hosts", "web01", "--users", "alice", "--to", "1", "--yes")
    assert "deploy --again" in admin.run("deploy", "--hosts", "web01", "--yes", status=7).stderr
    # What is current stays, whoever collects; what belongs to no generation goes.
    host.nix("nix-collect-garbage", "-d")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert not (host.root / two.lstrip("/")).exists()
    host.verify_store()
    # And away.
    admin.run("leave", "--hosts", "web01", "--yes")
    assert not (host.root / "home/alice/.local").exists()
    assert not (host.root / "home/alice/.nix-profile").is_symlink()
    assert list(profile(host).iterdir()) == []


def test_what_is_not_the_users_is_told_before_anything_is_copied(alice: Callable[..., Operator]) -> None:
    admin = alice()
    (host,) = admin.fleet
    mine = tool(admin, "greet", "1.0")
    admin.want({"packages": [mine], "users": {"alice": {"packages": [mine]}, "bob": {"packages": [mine]}}})
    words = (
        "the login is alice, a user of its Nix daemon, who may change no profile but alice's own; "
        "the inventory has more: the system, user bob"
    )
    assert "1 ready" in admin.run("doctor", "--users", "alice").stdout
    for command in (("plan",), ("deploy", "--hosts", "web01", "--yes"), ("doctor",)):
        said = admin.run(*command, status=0 if command == ("plan",) else 3)
        assert words in said.stdout + said.stderr
        assert "--users alice leaves the rest to others" in said.stdout + said.stderr
    assert not (host.root / mine.lstrip("/")).exists()
    assert not (host.root / "home/alice/.local").exists()
    admin.run("deploy", "--hosts", "web01", "--users", "alice", "--yes")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    assert words.rpartition(": ")[0] in admin.run("deploy", "--hosts", "web01", "--users", "*", status=3).stderr
    # What works on the store's own files is root's.
    for work in ("gc --yes", "verify"):
        said = admin.run(*work.split(), "--hosts", "web01", status=7)
        assert "the store is its Nix daemon's, and alice may not work on its files" in said.stdout + said.stderr


def test_what_nobody_signed_is_refused_by_name_and_taken_when_it_is_signed_or_built_there(
    alice: Callable[..., Operator], tmp_path: Path
) -> None:
    secret, public = generate("ours-1")
    admin = alice(f"trusted-public-keys = {public}\n", python="3.9")
    (host,) = admin.fleet
    want(admin, "greet@1.0")
    refused = admin.run("deploy", "--hosts", "web01", "--yes", status=3)
    assert re.search(
        r"its Nix daemon takes from users only what is content-addressed or signed by a key that it trusts, "
        r"and not /nix/store/\S+-words-1.0 \(unsigned\)",
        refused.stdout,
    )
    assert "RECONCILER_CACHE_KEY_FILE" in refused.stdout
    assert not (profile(host) / "profile").is_symlink()
    # Built there, by the daemon.
    want(admin, "tally")
    admin.run("deploy", "--hosts", "web01", "--yes", "--build-on", "target")
    assert host.run(".nix-profile/bin/tally", user="alice").stdout == "tally\n"
    # Signed by a key that is trusted there.
    key = tmp_path / "key"
    key.write_text(secret)
    key.chmod(0o600)
    admin.environment["RECONCILER_CACHE_KEY_FILE"] = str(key)
    want(admin, "greet@1.0", "tally")
    admin.run("deploy", "--hosts", "web01", "--yes")
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "hello from words 1.0\n"
    # And what a cache has signed keeps that signature, also where the host is to fetch for itself.
    admin.run("cache", "push", "greet@2.0", "--to", str(tmp_path / "cache"))
    del admin.environment["RECONCILER_CACHE_KEY_FILE"]
    admin.environment["RECONCILER_STORE"] = str(tmp_path / "another")
    settings = admin.fleet.directory / "reconciler.yml"
    settings.write_text(f"caches: [{{url: 'file://{tmp_path}/cache', keys: ['{public}']}}]\n")
    want(admin, "greet@2.0")
    (report,) = admin.json("deploy", "--hosts", "web01", "--yes", "--substitute-on", "target")["hosts"]
    assert (report["state"], report["fetched"]) == ("confirmed", 0)
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "hello from words 2.0\n"
    host.verify_store()


def test_a_deployment_that_was_killed_is_completed_by_the_next(alice: Callable[..., Operator]) -> None:
    admin = alice()
    (host,) = admin.fleet
    with Store.open(str(admin.store), create=True) as store:
        large = nar.Directory(
            {"share": nar.Directory({f"noise-{n}": nar.File(os.urandom(4 << 20)) for n in range(16)})}
        )
        want(admin, str(store.add_tree("large-1.0", large)), tool(admin, "greet", "1.0"))
    arrives = (host.root / "nix/store").glob
    admin.killed("deploy", "--hosts", "web01", "--yes", there=lambda: any(arrives("*-large-1.0")))
    host.verify_store()
    assert not (profile(host) / "profile").is_symlink()
    # What a switch that was cut off has done is told by the next; a stage keeps what it brought from a collection by
    # root, until the switch.
    admin.run("deploy", "--hosts", "web01", "--yes", "--action", "stage")
    host.nix("nix-collect-garbage", "-d")
    assert admin.json("deploy", "--hosts", "web01", "--yes")["hosts"][0]["sent"] == 0
    assert host.run(".nix-profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    history, switching = host.root / STATE / "history", host.root / STATE / "switching"
    header, *lines = history.read_text().splitlines(keepends=True)
    history.write_text("".join([header, *lines[:-1]]))
    switching.write_text("reconciler-switching 1\n" + lines[-1])
    want(admin, tool(admin, "greet", "2.0"))
    admin.run("deploy", "--hosts", "web01", "--yes")
    assert history.read_text().startswith("".join([header, *lines]))
    assert not switching.exists()
    host.verify_store()


def test_without_a_daemon_that_serves_the_user_the_host_is_refused(alice: Callable[..., Operator]) -> None:
    admin = alice("allowed-users = bob root\n")
    (host,) = admin.fleet
    want(admin, tool(admin, "greet", "1.0"))
    said = admin.run("deploy", "--hosts", "web01", "--yes", status=3).stderr
    assert "alice is not root here, and the Nix daemon ended the connection" in said
    stop_daemon(host)
    said = admin.run("deploy", "--hosts", "web01", "--yes", status=3).stderr
    assert "not root (uid 1001), and no store of one's own: /nix belongs to another user" in said
    assert not (host.root / "home/alice/.local").exists()


def test_a_profile_below_the_home_is_kept_by_a_root_of_its_own(alice: Callable[..., Operator]) -> None:
    admin = alice()
    (host,) = admin.fleet
    home = ".local/state/nix/profiles"
    host.run(f"mkdir -p {home} && ln -s {home}/profile .nix-profile", user="alice")
    want(admin, tool(admin, "greet", "1.0"))
    admin.run("deploy", "--hosts", "web01", "--yes")
    host.nix("nix-store", "--gc")
    assert host.run(f"{home}/profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    want(admin)
    admin.run("deploy", "--hosts", "web01", "--yes")
    assert host.run(f"ls {home}/profile/", user="alice").stdout == "manifest.nix\n"
    admin.run("rollback", "--deployment", "last", "--yes")
    assert host.run(f"{home}/profile/bin/greet", user="alice").stdout == "greet 1.0\n"
    admin.run("leave", "--hosts", "web01", "--yes")
    assert host.run(f"ls -A {home}", user="alice").stdout == ""
    host.nix("nix-store", "--gc")
    assert list((host.root / "nix/store").glob("*-greet-1.0")) == []
