"""A store that is ours is read-only for the host, and writable for the reconciler and for real Nix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.activate.host_files import install_host_files
from tests.e2e.conftest import MakeOperator
from tests.hosts.booted import boot
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]

STORE = "/nix/store"
UNITS = ("nix-store.mount", "local-fs.target.d/reconciler.conf")


def mounts(host: TestHost) -> list[str]:
    """The options of every mount on the host's store, in the host's own namespace."""
    lines = host.run("cat /proc/1/mountinfo").stdout.splitlines()
    return [line.split()[5] for line in lines if line.split()[4] == STORE]


def refuses_writes(host: TestHost) -> bool:
    done = host.run(f"touch {STORE}/x || touch {STORE}/*-greet-*/bin/greet")
    assert not (host.root / "nix/store/x").exists() or not done.returncode
    return "Read-only file system" in done.stderr and done.returncode != 0


def test_a_store_that_a_deployment_made_cannot_be_written_to_by_hand(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    admin.want({"packages": ["greet@1.0"]})
    plan = admin.run("plan", "--hosts", "web01").stdout
    assert "/etc/systemd/system/nix-store.mount where systemd is: /nix/store is read-only" in plan
    admin.run("deploy", "--hosts", "web01")
    assert refuses_writes(host)
    assert [options.split(",")[0] for options in mounts(host)] == ["ro"]
    assert host.run("bash -lc greet").stdout == "hello from words 1.0\n"

    # All that writes to it goes on to work: the next deployments, upkeep, and real Nix.
    admin.want({"packages": ["greet@2.0"]})
    admin.run("deploy", "--hosts", "web01")
    admin.run("rollback", "--hosts", "web01", "--yes")
    for command in (["optimise"], ["verify"], ["gc", "--yes"]):
        admin.run(*command, "--hosts", "web01")
    host.nix("nix-env", "--delete-generations", "2", "-p", "/nix/var/nix/profiles/system")
    there = sorted(path.name.partition("-")[2] for path in (host.root / "nix/store").glob("*-greet-*"))
    host.nix("nix-store", "--gc")
    assert there == ["greet-1.0", "greet-2.0"]
    assert not list((host.root / "nix/store").glob("*-greet-2.0"))
    host.nix("nix-store", "--add", "/etc/hostname")
    assert refuses_writes(host)
    assert len(mounts(host)) == 1, "made once, however often it is deployed"


def test_a_store_that_a_build_made_is_ours_too(operator: MakeOperator) -> None:
    """The host builds for others before anything is deployed to it."""
    admin = operator(["web01"])
    host = admin.fleet[0]
    admin.run("build", "greet@1.0", "--build-on", "web01")
    assert list((host.root / "nix/store").glob("*-greet-1.0"))
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    assert refuses_writes(host)
    admin.run("leave", "--hosts", "web01", "--yes")
    assert os.listdir(host.root / "nix") == []


def test_where_it_was_unmounted_or_the_host_was_started_again_the_next_switch_mounts_it(
    operator: MakeOperator,
) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    host.stop()
    host.start()
    assert mounts(host) == []
    admin.want({"packages": ["greet@2.0"]})
    admin.run("deploy", "--hosts", "web01")
    assert refuses_writes(host)


def test_a_store_that_was_there_before_is_mounted_as_it_was(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    host.nix("nix-store", "--add", "/etc/hostname")
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    assert mounts(host) == []
    host.run(f"mount --bind {STORE} {STORE} && mount -o remount,bind,ro {STORE}")
    admin.want({"packages": ["greet@2.0"]})
    admin.run("deploy", "--hosts", "web01")
    assert host.run("bash -lc greet").stdout == "hello from words 2.0\n"
    admin.run("leave", "--hosts", "web01", "--yes")
    assert len(mounts(host)) == 1, "the mount is the host's own"


def test_a_first_deployment_that_fails_and_one_that_is_left_again_leave_no_mount(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    for unit in UNITS:
        (host.root / "etc/systemd/system" / unit).parent.mkdir(parents=True, exist_ok=True)
    (host.root / "etc/systemd/system/local-fs.target.d").rmdir()
    host.run("mkdir /run/current-system")  # what the switch wants to be a link, after the mount is made
    admin.want({"packages": ["greet@1.0"]})
    failed = admin.run("deploy", "--hosts", "web01", status=3)
    assert "/run/current-system is not a link" in failed.stdout + failed.stderr
    assert mounts(host) == []
    assert os.listdir(host.root / "etc/systemd/system") == []


def test_what_makes_it_read_only_at_boot_is_there_and_goes(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    host = admin.fleet[0]
    units = host.root / "etc/systemd/system"
    units.mkdir(parents=True)
    admin.want({"packages": ["greet@1.0"]})
    admin.run("deploy", "--hosts", "web01")
    verified = host.run(["systemd-analyze", "verify", "--man=no", "/etc/systemd/system/nix-store.mount"])
    assert (verified.returncode, verified.stderr) == (0, "")
    assert "Wants=nix-store.mount" in (units / UNITS[1]).read_text()
    would = admin.run("leave", "--hosts", "web01", "--check").stdout
    assert all(f"removes   /etc/systemd/system/{unit}" in would for unit in UNITS)
    admin.run("leave", "--hosts", "web01", "--yes")
    assert os.listdir(units) == []
    assert mounts(host) == []
    assert os.listdir(host.root / "nix") == []


@pytest.mark.parametrize(("own_store", "options"), [(True, "ro"), (False, "")], ids=["ours", "not ours"])
def test_systemd_mounts_it_read_only_at_boot(tmp_path: Path, own_store: bool, options: str) -> None:
    root = tmp_path / "root"
    (root / "nix/store").mkdir(parents=True)
    (root / "etc/systemd/system").mkdir(parents=True)
    install_host_files(str(root), own_store)
    said = boot(
        tmp_path,
        root,
        """
        awk '$5 == "/nix/store" {print "mounted", substr($6, 1, 2)}' /proc/self/mountinfo
        touch /nix/store/x || true
        systemctl list-units --failed --no-legend
        systemctl is-active nix-store.mount || true
        """,
    )
    if options:
        assert said.splitlines() == [
            "mounted ro",
            "touch: cannot touch '/nix/store/x': Read-only file system",
            "active",
        ]
    else:
        assert said.splitlines() == ["inactive"]
