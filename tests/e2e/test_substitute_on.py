"""Hosts that fetch from a cache by themselves: a real web server, real sshd hosts, and what goes over the channel."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.store import web_server as wrong
from tests.core.store.web_server import Server, serving
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.test_build_on import built_in, held
from tests.packages.channel import X86, ChannelMaker, elf

pytestmark = [pytest.mark.root, pytest.mark.nix]

BIG = 3_000_000  # bytes of data that do not compress: what goes over the channel is far less


class Offered(ChannelMaker):
    """A channel with `htop`, which needs a library and much data; served by `server`."""

    def fill(self) -> None:
        libc_tree = nar.Directory({"lib": nar.Directory({"libc.so.6": nar.File(elf(X86), executable=True)})})
        self.libc = self.build("glibc-2.40-66", libc_tree, derivation="glibc")
        self.data = self.build("data-1.0", nar.File(random.Random(1).randbytes(BIG)), self.libc, derivation="data")
        text = f"#!/bin/sh\nls {self.libc}/lib\nwc -c < {self.data}\n"
        program = nar.Directory({"bin": nar.Directory({"htop": nar.File(text.encode(), executable=True)})})
        self.htop = self.build("htop-3.3.0", program, self.libc, self.data, derivation="htop")
        self.publish()

    def archive(self, path: StorePath) -> str:
        lines = (self.cache / f"{path.hash_part}.narinfo").read_text().splitlines()
        return "/" + next(line[5:] for line in lines if line.startswith("URL: "))

    @property
    def archives(self) -> set[str]:
        return {self.archive(path) for path in (self.libc, self.data, self.htop)}


@pytest.fixture(scope="module")
def offered(tmp_path_factory: pytest.TempPathFactory) -> Offered:
    made = Offered(tmp_path_factory.mktemp("made"))
    made.fill()
    make_writable(made.directory)
    return made


@pytest.fixture
def server(offered: Offered) -> Iterator[Server]:
    with serving(offered.cache) as running:
        yield running


def offer(admin: Operator, made: Offered, url: str) -> None:
    line = f'{{channel: {made.channel}/, cache: "{url}", key: "{made.key}"}}'
    (admin.fleet.directory / "reconciler.yml").write_text(f"sets:\n  - recipes: packages/\n  - nixpkgs: {line}\n")


def unreachable_for(admin: Operator, server: Server, name: str) -> str:
    """A URL of the server that leads elsewhere on the host `name`: there, nobody listens."""
    for host in admin.fleet:
        if host.name == name:
            (host.root / "etc/hosts").write_text("127.0.0.9 localhost\n")
    return f"http://localhost:{server.port}"


def deployed(admin: Operator, *words: str, status: int = 0) -> dict[str, Any]:
    done = admin.run("deploy", "--hosts", "web*", "--yes", "--json", *words, status=status)
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def valid_here(admin: Operator, path: StorePath) -> bool:
    with Store.open(str(admin.store)) as store:
        return store.is_valid(path)


def test_what_a_cache_has_goes_from_there_to_the_host_and_not_through_the_controller(
    operator: MakeOperator, offered: Offered, server: Server
) -> None:
    admin = operator(["web01", "web02"])
    offer(admin, offered, server.url)
    admin.want({"packages": ["htop", "greet@1.0"], "substitute_on": "target"})
    admin.want({"substitute_on": "controller"}, "host_vars/web02")
    admin.run("plan", "--hosts", "web02")
    server.asked.clear()
    admin.run("lock")
    assert not [path for path in server.asked if path.endswith(".narinfo")], "what caches said is known from the plan"
    report = deployed(admin, "-l", "web01")
    (web01,) = report["hosts"]
    assert web01["state"] == "confirmed"
    assert (report["notes"], web01["fetched"] > BIG, web01["sent"] < 100_000) == ([], True, True)
    assert all(server.asked.count(archive) == 1 for archive in offered.archives)
    assert not any(valid_here(admin, path) for path in (offered.libc, offered.data, offered.htop))

    # The other way: the same paths, and the bytes are told truly.
    report = deployed(admin)
    by_host = {host["host"]: host for host in report["hosts"]}
    assert by_host["web02"]["sent"] > BIG
    assert by_host["web02"]["fetched"] == 0
    assert valid_here(admin, offered.data)
    first, second = admin.fleet
    assert held(first) == held(second)
    for host in admin.fleet:
        assert host.run("/run/current-system/sw/bin/htop").stdout == f"libc.so.6\n{BIG}\n"
        assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    assert built_in(first.root) == [name for name in built_in(first.root) if "environment" in name], "only joined there"


def test_a_host_that_does_not_reach_the_cache_gets_all_of_it_from_the_controller(
    operator: MakeOperator, offered: Offered, server: Server
) -> None:
    admin = operator(["web01", "web02"])
    offer(admin, offered, unreachable_for(admin, server, "web02"))
    admin.want({"packages": ["htop"]})
    report = deployed(admin, "--substitute-on", "target")
    by_host = {host["host"]: host for host in report["hosts"]}
    assert {host["state"] for host in report["hosts"]} == {"confirmed"}
    assert (by_host["web01"]["fetched"] > BIG, by_host["web01"]["sent"] < 100_000) == (True, True)
    assert (by_host["web02"]["fetched"], by_host["web02"]["sent"] > BIG) == (0, True)
    (note,) = report["notes"]
    assert note.startswith(f"web02: 3 of 3 paths came through the controller: http://localhost:{server.port}/")
    assert "refused" in note
    first, second = admin.fleet
    assert held(first) == held(second)


# By name: what becomes of `data`'s archive at the first requests, and what the report says of it.
ONCE = {
    "cut": (wrong.cut(1000), "cut short after 1000"),
    "corrupt": (wrong.instead(bytes(1000)), "FileSize: the file has 1000 bytes"),
}


@pytest.mark.parametrize("what", ONCE)
def test_a_path_that_fails_on_its_way_to_the_host_comes_through_the_controller_and_no_other_does(
    operator: MakeOperator, offered: Offered, server: Server, what: str
) -> None:
    admin = operator(["web01"])
    offer(admin, offered, server.url)
    admin.want({"packages": ["htop"], "substitute_on": "target"})
    admin.run("lock")
    answer, reason = ONCE[what]
    server.answers[offered.archive(offered.data)] = [answer] * (3 if what == "cut" else 1)
    report = deployed(admin)
    (web01,) = report["hosts"]
    assert web01["state"] == "confirmed"
    (note,) = report["notes"]
    assert note.startswith("web01: 1 of 3 paths came through the controller: ")
    assert reason in note
    assert (0 < web01["fetched"] < 100_000, web01["sent"] > BIG) == (True, True)
    (host,) = admin.fleet
    assert host.run("/run/current-system/sw/bin/htop").stdout == f"libc.so.6\n{BIG}\n"


def test_an_archive_that_nobody_can_have_right_changes_nothing_on_the_host(
    operator: MakeOperator, offered: Offered, server: Server
) -> None:
    admin = operator(["web01"])
    offer(admin, offered, server.url)
    admin.want({"packages": ["htop"], "substitute_on": "target"})
    admin.run("lock")
    server.always(offered.archive(offered.data), wrong.instead(bytes(1000)))
    failed = admin.run("deploy", "--hosts", "web01", "--yes", status=3)
    assert "FileSize: the file has 1000 bytes" in failed.stderr + failed.stdout
    (host,) = admin.fleet
    assert not (host.root / "nix/var/nix/profiles/system").is_symlink()
    assert not os.path.lexists(f"{host.root}{offered.data}")
    server.answers.clear()
    report = deployed(admin)
    assert (report["notes"], report["hosts"][0]["state"]) == ([], "confirmed")


def test_a_directory_of_the_controller_is_not_asked_for_on_a_host(operator: MakeOperator, offered: Offered) -> None:
    admin = operator(["web01"])
    offer(admin, offered, f"file://{offered.cache}")
    admin.want({"packages": ["htop"], "substitute_on": "target"})
    (web01,) = deployed(admin)["hosts"]
    assert (web01["state"], web01["fetched"], web01["sent"] > BIG) == ("confirmed", 0, True)
    failed = admin.run("deploy", "--hosts", "web01", "--substitute-on", "targt", status=2)
    assert "'targt' is not one of controller, target; did you mean 'target'?" in failed.stderr


@pytest.mark.parametrize("place", [pytest.param("controller", marks=pytest.mark.slow), "target"])
def test_recipes_come_from_caches_and_what_these_lack_is_built_where_it_is_told(
    operator: MakeOperator, tmp_path: Path, place: str
) -> None:
    admin = operator(["web01"])
    admin.run("key", "generate", "test-1", "--out", str(admin.home))
    cache = tmp_path / "cache"
    admin.run("cache", "push", "--to", str(cache), "--key", str(admin.home / "test-1.secret"), "words@1.0", "tally")
    admin.store = admin.directory / "empty"
    admin.environment["RECONCILER_STORE"] = str(admin.store)
    admin.want({"packages": ["greet@1.0", "tally"], "substitute_on": "target", "build_on": place})
    key = (admin.home / "test-1.public").read_text().strip()
    with serving(cache) as server:
        settings = f'caches: [{{url: "{server.url}", key: "{key}"}}]\n'
        (admin.fleet.directory / "reconciler.yml").write_text(settings)
        report = deployed(admin)
    assert (report["notes"], report["hosts"][0]["fetched"] > 0) == ([], True)
    (host,) = admin.fleet
    assert host.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    assert host.run("/run/current-system/sw/bin/tally").stdout == "tally\n"
    made = {name for name in built_in(host.root if place == "target" else admin.store) if "environment" not in name}
    assert made == {"greet-1.0"}, "what the cache has is not built"


@pytest.mark.slow
def test_the_command_line_wins_over_the_inventory(operator: MakeOperator, offered: Offered, server: Server) -> None:
    admin = operator(["web01"])
    offer(admin, offered, server.url)
    admin.want({"packages": ["htop"], "substitute_on": "target"})
    (web01,) = deployed(admin, "--substitute-on", "controller")["hosts"]
    assert (web01["fetched"], web01["sent"] > BIG) == (0, True)
