"""A channel that real Nix wrote, deployed to hosts without Nix; and the lock that keeps what it meant."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.packages.channel import X86, ChannelMaker, elf

pytestmark = [pytest.mark.root, pytest.mark.nix]


def channel(directory: Path, version: str = "3.3.0") -> ChannelMaker:
    """`htop`, a script that says its version, with a library and a manual."""
    directory.mkdir()
    made = ChannelMaker(directory)
    libc_tree = nar.Directory({"lib": nar.Directory({"libc.so.6": nar.File(elf(X86), executable=True)})})
    libc = made.build("glibc-2.40-66", libc_tree, derivation="glibc")
    text = f"#!/bin/sh\nls {libc}/lib\necho htop {version}\n"
    program = nar.Directory({"bin": nar.Directory({"htop": nar.File(text.encode(), executable=True)})})
    made.build(f"htop-{version}", program, libc, derivation="htop")
    manual = nar.Directory({"share": nar.Directory({"man": nar.Directory({"htop.1": nar.File(b"manual")})})})
    made.build(f"htop-{version}-man", manual, derivation="htop")
    made.publish()
    return made


def offer(admin: Operator, made: ChannelMaker) -> None:
    line = f'{{channel: {made.channel}/, cache: "file://{made.cache}", key: "{made.key}"}}'
    (admin.fleet.directory / "reconciler.yml").write_text(f"sets:\n  - recipes: packages/\n  - nixpkgs: {line}\n")


def test_a_package_of_a_channel_runs_on_hosts_that_have_no_nix(operator: MakeOperator, tmp_path: Path) -> None:
    admin = operator(["web01", "web02"])
    offer(admin, channel(tmp_path / "one"))
    admin.want({"packages": ["htop", "greet@1.0"]})
    planned = admin.run("plan").stdout
    assert "1 build here" not in planned
    assert "2 builds here (greet-1.0, words-1.0), 3 paths from caches" in planned
    said = admin.run("deploy", "--hosts", "web*", "--yes").stderr
    assert "locked     3 new references in " in said
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/htop").stdout == "libc.so.6\nhtop 3.3.0\n"
        assert host.run("cat /run/current-system/sw/share/man/htop.1").stdout == "manual"


def test_what_is_locked_stays_when_the_channel_moves_and_moves_when_it_is_told_to(
    operator: MakeOperator, tmp_path: Path
) -> None:
    admin = operator(["web01"])
    offer(admin, channel(tmp_path / "one"))
    admin.want({"packages": ["htop"]})
    admin.run("deploy", "--hosts", "web01", "--yes", "--locked", status=2)
    admin.run("deploy", "--hosts", "web01", "--yes")
    second = channel(tmp_path / "two", "3.4.0")
    subprocess.run(["cp", "-rn", f"{tmp_path}/one/cache/.", second.cache], check=True)
    offer(admin, second)
    assert "0 to change, 1 unchanged" in admin.run("plan", "--locked").stdout
    assert "3.3.0 -> 3.4.0" in admin.run("lock", "--outdated").stdout
    admin.run("lock", "--update", "htop")
    admin.run("deploy", "--hosts", "web01", "--yes", "--locked")
    (host,) = admin.fleet
    assert host.run("/run/current-system/sw/bin/htop").stdout.endswith("htop 3.4.0\n")
    admin.run("rollback", "--deployment", "last", "--yes")
    assert host.run("/run/current-system/sw/bin/htop").stdout.endswith("htop 3.3.0\n")


def test_two_controllers_with_one_lock_plan_the_same_paths(operator: MakeOperator, tmp_path: Path) -> None:
    admin = operator(["web01"])
    offer(admin, channel(tmp_path / "one"))
    admin.want({"packages": ["htop", "greet@1.0"]})
    admin.run("lock")
    wanted = admin.json("plan")["hosts"][0]["changes"]
    shutil.rmtree(tmp_path / "one/channel")  # the other one has the lock and the cache alone
    for variable, place in (("HOME", "home2"), ("RECONCILER_STORE", "store2"), ("XDG_CACHE_HOME", "cache2")):
        admin.environment[variable] = str(tmp_path / place)
        (tmp_path / place).mkdir()
    assert admin.json("plan", "--locked")["hosts"][0]["changes"] == wanted


REASONS = {
    "cut": "FileSize: the file has",
    "gone": "is not there, though the cache says that it is",
    "untrusted": "Sig",
}


@pytest.mark.parametrize("what", REASONS)
def test_a_cache_that_fails_changes_nothing_on_any_host(operator: MakeOperator, tmp_path: Path, what: str) -> None:
    admin = operator(["web01"])
    made = channel(tmp_path / "one")
    offer(admin, made)
    admin.want({"packages": ["htop"]})
    admin.run("lock")
    archives = sorted((made.cache / "nar").iterdir())
    if what == "cut":
        for archive in archives:
            archive.write_bytes(archive.read_bytes()[:-8])
    elif what == "gone":
        for archive in archives:
            archive.unlink()
    else:
        made.key = f"test-1:{'A' * 43}="
        offer(admin, made)
    failed = admin.run("deploy", "--hosts", "web01", "--yes", status=3)
    assert REASONS[what] in failed.stderr + failed.stdout
    (host,) = admin.fleet
    assert not (host.root / "nix/var/nix/profiles/system").is_symlink()
