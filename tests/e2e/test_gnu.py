"""inventories/gnu on real sshd hosts: programs from upstream's source, installed, removed, rolled back, returned to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from reconciler.packages import downloads
from tests.e2e.operator import Operator
from tests.hosts.fixture import MakeFleet
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix, pytest.mark.network]

INVENTORY = Path(__file__).parents[2] / "inventories/gnu"
ALICE = "nix/var/nix/profiles/per-user/alice/profile"
SYSTEM = "nix/var/nix/profiles/system"
HELLO = "Hello, world!\n"


@pytest.fixture
def admin(fleet: MakeFleet, tmp_path: Path) -> Operator:
    """Somebody with a copy of inventories/gnu, and two hosts of its names where `lab up` would put them."""
    hosts = fleet(["gnu01", "gnu02"])
    inventory = tmp_path / "gnu"
    shutil.copytree(INVENTORY, inventory, ignore=shutil.ignore_patterns(".lab"))
    (inventory / ".lab").mkdir()
    shutil.copy(hosts.ssh_config, inventory / ".lab/ssh_config")
    # Sources and the toolchain's packages are fetched once for all tests, not once for each operator.
    cache = str(downloads.cache_directory().parent)
    return Operator(tmp_path, hosts, {"RECONCILER_INVENTORY": str(inventory), "XDG_CACHE_HOME": cache})


def alice_wants(admin: Operator, *packages: str) -> None:
    file = Path(admin.environment["RECONCILER_INVENTORY"], "host_vars/gnu01.yml")
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"desired": {"users": {"alice": {"packages": list(packages)}}}}))


def links(host: TestHost, profile: str) -> dict[str, str]:
    """Generations by their link's name, and `current`."""
    link = host.root / profile
    numbered = {entry.name: os.readlink(entry) for entry in link.parent.glob(f"{link.name}-*-link")}
    return {**numbered, "current": os.readlink(link)}


def packages_of_alice(host: TestHost) -> list[str]:
    return host.nix("nix-env", "-q", "-p", f"/{ALICE}").stdout.split()


def test_gnu_programs_are_built_run_removed_rolled_back_and_returned_to(admin: Operator) -> None:
    alice_wants(admin, "hello", "units")
    admin.run("deploy", "--hosts", "all", "--yes=2", "-m", "three GNU programs", timeout=420)
    first, second = admin.fleet
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/hello").stdout == HELLO
        assert host.run(["bash", "-lc", "hello --version"]).stdout.startswith("hello (GNU Hello) 2.10\n")
        assert host.run(["bash", "-lc", "units -t 'kilometer' 'meter'"]).stdout.split() == ["1000"]
    assert second.run(["bash", "-lc", "which hello"]).stdout == "/run/current-system/sw/bin/hello\n"
    assert second.run(["bash", "-lc", "readlink $(type -p which)"]).stdout.startswith("/nix/store/")
    assert first.run("hello", "alice").returncode == 127, "a shell that reads no profile has no PATH of ours"
    assert first.run(["su", "-", "alice", "-c", "hello"]).stdout == HELLO
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO
    assert packages_of_alice(first) == ["hello-2.10", "units-2.22"]

    alice_wants(admin, "units")
    admin.run("deploy", "--hosts", "gnu01", "-m", "without hello")
    assert packages_of_alice(first) == ["units-2.22"]
    assert first.run("~/.nix-profile/bin/hello", "alice").returncode == 127
    admin.run("rollback", "--hosts", "gnu01", "--yes")
    assert packages_of_alice(first) == ["hello-2.10", "units-2.22"]
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO
    assert links(first, ALICE)["current"] == "profile-1-link"

    # Again without it: the highest generation points there already, so there is no new one; then back with a new one.
    admin.run("deploy", "--hosts", "gnu01", "--again")
    assert links(first, ALICE)["current"] == "profile-2-link"
    alice_wants(admin, "hello", "units")
    admin.run("deploy", "--hosts", "gnu01")
    made = links(first, ALICE)
    assert made["current"] == "profile-3-link"
    assert made["profile-1-link"] == made["profile-3-link"] != made["profile-2-link"]
    assert first.run("~/.nix-profile/bin/hello", "alice").stdout == HELLO

    listed = first.nix("nix-env", "--list-generations", "-p", f"/{ALICE}").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["1", "2", "3"]
    assert listed[2].endswith("(current)")
    before = links(first, SYSTEM)
    for host in admin.fleet:
        host.nix("nix-collect-garbage")
        assert host.run("/run/current-system/sw/bin/hello").stdout == HELLO
    first.nix("nix-env", "--rollback", "-p", f"/{ALICE}")
    assert packages_of_alice(first) == ["units-2.22"], "what we recorded is whole after a collection"
    assert links(first, SYSTEM) == before
    admin.verify()
