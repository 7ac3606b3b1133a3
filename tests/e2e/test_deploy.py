"""The main job on real sshd hosts, judged by real Nix."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

SYSTEM = "nix/var/nix/profiles/system"
ALICE = "nix/var/nix/profiles/per-user/alice/profile"


def first(operator: MakeOperator, *hosts: str, **options: object) -> Operator:
    """Hosts with greet 1.0 for the system and tally for alice, deployed."""
    admin = operator(list(hosts), **options)
    admin.want({"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web*", "--yes", "-m", "first")
    return admin


def upgrade(admin: Operator) -> None:
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally", "words"]}}})


def generation(host: TestHost, profile: str) -> str:
    return os.readlink(host.root / profile)


def greeting(host: TestHost) -> str:
    return host.run("/run/current-system/sw/bin/greet").stdout.strip()


def test_a_first_deployment_makes_generations_that_run(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    for host in admin.fleet:
        assert generation(host, SYSTEM) == "system-1-link"
        assert generation(host, ALICE) == "profile-1-link"
        assert greeting(host) == "hello from words 1.0"
        assert host.run("~/.nix-profile/bin/tally", user="alice").stdout == "tally\n"
        assert (host.root / "nix/var/nix/profiles/per-user/alice").stat().st_uid != 0


def test_real_nix_knows_what_we_made(operator: MakeOperator) -> None:
    admin = first(operator, "web01")
    (host,) = admin.fleet
    listed = host.nix("nix-env", "--list-generations", "-p", "/nix/var/nix/profiles/system").stdout
    assert listed.split()[0] == "1"
    assert "(current)" in listed
    alice = f"/{ALICE}"
    assert host.nix("nix-env", "-q", "-p", alice).stdout == "tally-1.0\n"
    host.nix("nix-collect-garbage")
    assert greeting(host) == "hello from words 1.0"
    assert host.run("~/.nix-profile/bin/tally", user="alice").stdout == "tally\n"


def test_an_upgrade_and_its_rollback_are_exact(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    before = {host.name: os.readlink(host.root / "nix/var/nix/profiles/system-1-link") for host in admin.fleet}
    upgrade(admin)
    report = admin.json("deploy", "--hosts", "web*", "--yes", "-m", "words 2")
    assert [host["state"] for host in report["hosts"]] == ["confirmed", "confirmed"]
    for host in admin.fleet:
        assert generation(host, SYSTEM) == "system-2-link"
        assert greeting(host) == "hello from words 2.0"
    admin.run("rollback", "--deployment", report["deployment"], "--yes")
    for host in admin.fleet:
        assert generation(host, SYSTEM) == "system-1-link"
        assert generation(host, ALICE) == "profile-1-link"
        assert os.readlink(host.root / SYSTEM.replace("system", "system-1-link")) == before[host.name]
        assert greeting(host) == "hello from words 1.0"


def test_a_bare_rollback_of_a_first_deployment_leaves_no_profile(operator: MakeOperator) -> None:
    admin = first(operator, "web01")
    (host,) = admin.fleet
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert not os.path.lexists(host.root / SYSTEM)
    assert not os.path.lexists(host.root / ALICE)
    assert host.run("test -e /run/current-system").returncode == 1


def test_a_rollback_is_remembered_until_it_is_said_again(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    upgrade(admin)
    admin.run("deploy", "--hosts", "web*", "--yes")
    admin.run("rollback", "--hosts", "web*", "--yes", "-m", "shop 502s")
    refused = admin.run("deploy", "--hosts", "web*", "--yes", status=7)
    assert "error: this would bring back" in refused.stderr
    assert "greet 2.0" in refused.stderr
    assert "'shop 502s'" in refused.stderr
    assert "hint:  change the inventory, or deploy --again" in refused.stderr
    admin.run("deploy", "--hosts", "web*", "--yes", "--again")
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}


def test_a_second_deploy_has_nothing_to_do(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    report = admin.json("deploy", "--hosts", "web*")
    assert [host["state"] for host in report["hosts"]] == ["unchanged", "unchanged"]
    assert {generation(host, SYSTEM) for host in admin.fleet} == {"system-1-link"}


def test_several_hosts_are_not_changed_without_a_yes(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    admin.want({"packages": ["tally"]})
    refused = admin.run("deploy", "--hosts", "web*", status=2)
    assert "would have asked:" in refused.stderr
    assert not any((host.root / "nix/var").exists() for host in admin.fleet)


def test_a_plan_leaves_nothing_on_a_host(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    admin.want({"packages": ["tally"], "users": {"alice": {"packages": ["greet"]}}})
    (host,) = admin.fleet
    before = sorted(str(path) for path in host.root.rglob("*"))
    for command in (["plan", "--hosts", "web01"], ["status"], ["doctor", "--hosts", "web01"]):
        admin.run(*command)
    assert sorted(str(path) for path in host.root.rglob("*")) == before
    assert not admin.store.exists()


def test_a_host_that_is_off_is_told_and_caught_up_later(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02", "web03")
    admin.fleet["web03"].stop()
    upgrade(admin)
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=5)
    assert {host["host"]: host["state"] for host in report["hosts"]} == {
        "web01": "confirmed",
        "web02": "confirmed",
        "web03": "unreachable",
    }
    admin.fleet["web03"].start()
    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert {host["host"]: host["state"] for host in report["hosts"]} == {
        "web01": "unchanged",
        "web02": "unchanged",
        "web03": "confirmed",
    }


def test_one_host_that_fails_before_the_switch_is_left_out(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02", "web03", "web04", "web05")
    broken = admin.fleet["web04"]
    broken.run("rm -r /nix/var/nix/gcroots/reconciler; touch /nix/var/nix/gcroots/reconciler")
    upgrade(admin)
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    states = {host["host"]: host["state"] for host in report["hosts"]}
    assert states.pop("web04") == "failed"
    assert set(states.values()) == {"confirmed"}
    assert generation(broken, SYSTEM) == "system-1-link"
    assert greeting(broken) == "hello from words 1.0"
    broken.run("rm /nix/var/nix/gcroots/reconciler")
    admin.run("rollback", "--deployment", report["deployment"], "--yes")
    assert {greeting(host) for host in admin.fleet} == {"hello from words 1.0"}


def test_all_or_nothing_keeps_every_host_as_it_was(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    admin.fleet["web02"].stop()
    upgrade(admin)
    report = admin.json("deploy", "--hosts", "web*", "--yes", "--all-or-nothing", status=3)
    assert {host["host"]: host["state"] for host in report["hosts"]} == {"web01": "failed", "web02": "unreachable"}
    assert generation(admin.fleet["web01"], SYSTEM) == "system-1-link"
    admin.fleet["web02"].start()


def test_a_build_that_fails_changes_no_host_and_shows_its_log(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    admin.want({"packages": ["greet@1.0", "broken"]})
    failed = admin.run("deploy", "--hosts", "web*", "--yes", status=3)
    assert "this cannot be built" in failed.stdout
    assert {generation(host, SYSTEM) for host in admin.fleet} == {"system-1-link"}


def test_building_on_the_target_gives_the_same_paths(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02"])
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web01", "--yes", "--build-on", "controller")
    admin.run("deploy", "--hosts", "web02", "--yes", "--build-on", "target")
    here, there = (os.readlink(host.root / f"{SYSTEM}-1-link") for host in admin.fleet)
    assert here == there
    hashes = {
        host.nix("nix-store", "-q", "--hash", os.readlink(host.root / f"{SYSTEM}-1-link")).stdout
        for host in admin.fleet
    }
    assert len(hashes) == 1
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}


def test_a_profile_that_nix_rolled_back_is_reported_as_changed_from_outside(operator: MakeOperator) -> None:
    admin = first(operator, "web01")
    upgrade(admin)
    admin.run("deploy", "--hosts", "web*", "--yes")
    (host,) = admin.fleet
    host.nix("nix-env", "--rollback", "-p", f"/{ALICE}")
    shown = admin.run("status", "--exit-code", status=9).stdout
    assert "DRIFT" in shown
    assert "alice is 1" in shown
    assert "we left 2" in shown
    admin.run("deploy", "--hosts", "web*", "--yes")
    assert generation(host, ALICE) == "profile-2-link"


def test_a_user_that_left_the_inventory_ends_with_an_empty_generation(operator: MakeOperator) -> None:
    admin = first(operator, "web01")
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01", "--yes")
    (host,) = admin.fleet
    assert generation(host, ALICE) == "profile-2-link"
    assert host.nix("nix-env", "-q", "-p", f"/{ALICE}").stdout == ""
    assert host.run("id alice").returncode == 0


def test_a_missing_account_fails_that_user_and_not_the_host(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    admin.want({"packages": ["greet@1.0"], "users": {"nosuchuser": {"packages": ["tally"]}}})
    report = admin.json("deploy", "--hosts", "web01", "--yes", status=3)
    assert report["hosts"][0]["state"] == "confirmed"
    assert "nosuchuser" in report["hosts"][0]["detail"]
    assert greeting(admin.fleet["web01"]) == "hello from words 1.0"


def test_a_generation_that_returns_shares_its_store_path(operator: MakeOperator) -> None:
    admin = first(operator, "web01")
    (host,) = admin.fleet
    upgrade(admin)
    admin.run("deploy", "--hosts", "web01", "--yes")
    admin.want({"packages": ["greet@1.0"], "users": {"alice": {"packages": ["tally"]}}})
    admin.run("deploy", "--hosts", "web01", "--yes")
    links = [os.readlink(host.root / f"{SYSTEM}-{number}-link") for number in (1, 2, 3)]
    assert links[0] == links[2] != links[1]


def _wait_until(condition: object, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if callable(condition) and condition():
            return
        time.sleep(0.02)
    raise AssertionError("it did not come to pass")


def test_a_controller_killed_while_it_stages_leaves_the_old_generation(operator: MakeOperator) -> None:
    admin = first(operator, "web01", "web02")
    admin.want({"packages": ["greet@2.0", "slow"]})
    admin.run("deploy", "--hosts", "web*", "--action", "build")
    process = admin.popen("deploy", "--hosts", "web*", "--yes")

    def copying() -> bool:
        stores: list[Path] = [host.root / "nix/store" for host in admin.fleet]
        return any(any(store.glob("*-slow-1.0/share/zeros")) for store in stores)

    _wait_until(copying)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for host in admin.fleet:
        assert generation(host, SYSTEM) == "system-1-link"
        assert greeting(host) == "hello from words 1.0"
    _wait_until(lambda: all("-I -S" not in " ".join(host.processes().values()) for host in admin.fleet))
    for host in admin.fleet:
        host.verify_store()
    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert [host["state"] for host in report["hosts"]] == ["confirmed", "confirmed"]
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}


def test_thirty_hosts_in_one_run(operator: MakeOperator) -> None:
    admin = operator([f"web{number:02}" for number in range(1, 31)], tmpfs=True)
    admin.want({"packages": ["greet@2.0"], "users": {"alice": {"packages": ["tally"]}}})
    report = admin.json("deploy", "--hosts", "web*", "--yes=30", "--forks", "10")
    assert [host["state"] for host in report["hosts"]] == ["confirmed"] * 30
    assert {greeting(host) for host in admin.fleet} == {"hello from words 2.0"}


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_the_agent_runs_under_every_supported_python(operator: MakeOperator, version: str) -> None:
    admin = first(operator, "web01", python=version)
    (host,) = admin.fleet
    upgrade(admin)
    admin.run("deploy", "--hosts", "web01", "--yes", "--build-on", "target")
    admin.run("rollback", "--hosts", "web01", "--yes")
    assert greeting(host) == "hello from words 1.0"
    assert version in admin.run("doctor", "--hosts", "web01").stdout


def test_a_read_only_store_is_written_in_a_mount_namespace_of_the_agents_own(operator: MakeOperator) -> None:
    admin = first(operator, "web01", read_only_store=True)
    (host,) = admin.fleet
    assert greeting(host) == "hello from words 1.0"
    assert host.run("touch /nix/store/x").returncode != 0
