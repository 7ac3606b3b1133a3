"""A channel of real Debian packages that real Nix built, wrote and signed, with two systems, several outputs and twins:
read from a web server, and deployed to hosts that have no Nix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.inventory.outputs import Named
from tests.channels.maker import RealChannel, real_channel, site
from tests.core.store.web_server import Server
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost
from tests.packages.channel import ARM, X86

pytestmark = [pytest.mark.root, pytest.mark.nix, pytest.mark.network, pytest.mark.slow]

PROGRAMS = "/run/current-system/sw/bin"


def offer(admin: Operator, channel: RealChannel, server: Server) -> None:
    """The channel alone; where its cache is, it says itself."""
    line = f'debian: {{channel: "{server.url}/channel", key: "{channel.key}"}}'
    (admin.fleet.directory / "reconciler.yml").write_text(f"sets:\n  - {line}\n")


def loaded(host: TestHost) -> set[str]:
    """The files that the profile's Python has mapped as program code: its own, its libraries', its C library's."""
    script = 'print(*(line.split()[-1] for line in open("/proc/self/maps") if "r-xp" in line and "/" in line))'
    done = host.run([f"{PROGRAMS}/python3", "-c", f"import sqlite3, ssl, zlib; {script}"])
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


TOOLS = ["bash", "coreutils", "curl", "gawk", "git", "htop", "jq", "less", "python3", "rsync", "sqlite3", "tree"]
SAID = {
    "bash -c 'echo $BASH_VERSION'": "(1)-release",
    "curl --version": "OpenSSL",
    "gawk 'BEGIN { print 2 ^ 10 }'": "1024",
    "git --version": "git version",
    "htop --version": "htop",
    "jq -n 6*7": "42",
    "less --version": "GNU regular expressions",
    "python3 -c 'import ssl; print(ssl.OPENSSL_VERSION)'": "OpenSSL",
    "rsync --version": "protocol version",
    "sqlite3 :memory: 'select 6*7'": "42",
    "tree --version": "tree v",
    "sha256sum --version": "(GNU coreutils)",
}


@pytest.fixture(scope="module")
def big() -> RealChannel:
    return real_channel()


@pytest.fixture
def served(big: RealChannel, tmp_path: Path) -> Iterator[Server]:
    with site(big, tmp_path / "site") as server:
        yield server


def test_the_big_channel_is_as_large_and_as_mixed_as_it_is_meant_to_be(big: RealChannel) -> None:
    listed = [Named.of(path) for path in big.paths]
    signers = [{signature.partition(":")[0] for signature in found.signatures} for found in big.narinfos()]
    assert len(listed) >= 150
    assert big.size >= 500 * 10**6
    assert all(found == {big.key.partition(":")[0]} for found in signers)
    kinds = Counter((each.name, each.output) for each in listed)
    assert kinds["glibc", ""] == 2, "one for each system"
    assert kinds["busybox", ""] == 4, "twins of both systems"
    assert kinds["ncdu", ""] == 1
    assert {"man", "dev", "bin", "doc"} <= {each.output for each in listed}


def test_the_big_channel_is_deployed_to_hosts_without_nix(
    operator: MakeOperator, big: RealChannel, served: Server
) -> None:
    admin = operator(["web01", "web02"])
    offer(admin, big, served)
    admin.want({"packages": TOOLS, "users": {"alice": {"packages": ["vim", "zlib.dev"]}}})
    assert "vim is 2 packages of debian" in admin.run("deploy", "--hosts", "web*", "--yes", status=2).stderr
    admin.want({"packages": TOOLS, "users": {"alice": {"packages": ["zlib.dev", "tzdata"]}}})
    admin.run("deploy", "--hosts", "web*", "--yes", timeout=600)
    for host in admin.fleet:
        for command, said in SAID.items():
            done = host.run(f"{PROGRAMS}/{command}")
            assert said in done.stdout, f"{command}: {done}"
        assert all(file.startswith("/nix/store/") for file in loaded(host))
        assert host.run("test -e ~/.nix-profile/include/zlib.h", "alice").returncode == 0
        assert host.run("TZDIR=~/.nix-profile/share/zoneinfo TZ=Asia/Tokyo date +%Z", "alice").stdout == "JST\n"
        assert host.run(f"ls {PROGRAMS}/nix-store").returncode != 0, "what the hosts have comes from the channel alone"
    asked = len(served.asked)
    again = admin.run("deploy", "--hosts", "web*", "--yes").stderr
    assert "0 to change, 2 unchanged" in again
    assert len(served.asked) == asked, "with all locked and there, neither channel nor cache is asked"


def test_names_in_the_big_channel_mean_what_they_should(
    operator: MakeOperator, big: RealChannel, served: Server
) -> None:
    admin = operator(["web01"])
    offer(admin, big, served)
    found = {one["name"] for one in admin.json("packages", "search", "sql")["packages"]}
    assert {"sqlite3", "libsqlite3_0", "postgresql_15"} <= found
    shown = admin.json("packages", "show", "busybox")["packages"][0]["builds"]
    assert sorted(build["system"] for build in shown) == [ARM, ARM, X86, X86]
    assert {build["system"] for build in admin.json("packages", "show", "ncdu")["packages"][0]["builds"]} == {ARM}
    twins = sorted(build["path"] for build in shown if build["system"] == X86)
    admin.want({"packages": ["busybox"]})
    told = admin.run("plan", status=2).stderr
    assert "busybox is 2 packages of debian" in told
    assert all(path in told for path in twins)
    admin.want({"packages": ["jq", "ncdu"]})
    refused = admin.run("deploy", "--hosts", "web01", "--yes", status=2).stderr
    assert "there is no ncdu for x86_64-linux" in refused
    assert "debian has it for aarch64-linux" in refused
    admin.want({"packages": [twins[0], "iso-codes", "tzdata", "glibc", "libssl3.dev"]})
    admin.run("lock")
    lock = (admin.fleet.directory / "reconciler.lock").read_text()
    assert twins[0] not in lock, "a store path needs no pin"
    assert "-libssl3-3.0" in lock
    assert "-dev" in lock
    admin.run("lock", "--check")
    assert "has anything newer" in admin.run("lock", "--outdated").stdout
