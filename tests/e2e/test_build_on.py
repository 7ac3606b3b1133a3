"""Where a package is made makes no difference: here, on the target, on a third host, or taken from a cache."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import pytest

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.core.build.test_sandbox import running, seconds, wait_until_gone
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.hosts.host import TestHost
from tests.oracle import RealNix

pytestmark = [pytest.mark.root, pytest.mark.nix]

SYSTEM = "nix/var/nix/profiles/system"
LOGS = "nix/var/log/nix/drvs"


def held(host: TestHost) -> dict[str, tuple[str, tuple[str, ...]]]:
    """The hash and references of each path that a host's system is made of."""
    link = host.root / SYSTEM
    system = StorePath.parse(os.readlink(link.parent / os.readlink(link)))
    with Store.open(str(host.root)) as store:
        infos = store.infos(store.closure([system]))
    return {str(info.path): (info.nar_hash.nix, tuple(map(str, info.references))) for info in infos}


def built_in(root: Path) -> list[str]:
    """What was built in a store, by the logs that its builds left."""
    # The name of a log lacks the first two characters of its hash, which are its directory's name.
    return sorted(file.name[31:].removesuffix(".drv.bz2") for file in (root / LOGS).glob("*/*"))


def ours(root: Path) -> list[str]:
    """What was built in a store, but for profiles' environments."""
    return [name for name in built_in(root) if "environment" not in name]


def other_store(admin: Operator, name: str) -> Path:
    """The controller starts again with an empty store."""
    admin.store = admin.directory / name
    admin.environment["RECONCILER_STORE"] = str(admin.store)
    return admin.store


def test_the_same_bits_come_out_wherever_a_package_is_made(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02", "web03", "web04", "build01"])
    admin.want({"packages": ["greet@1.0", "tally"]})
    hosts = {host.name: host for host in admin.fleet}
    made = ["greet-1.0", "tally-1.0", "words-1.0"]

    here = admin.store
    admin.run("deploy", "--hosts", "web01", "--build-on", "controller")
    assert [name for name in built_in(here) if name in made] == made
    admin.run("key", "generate", "test-1", "--out", str(admin.home))
    pushed = ["cache", "push", "--to", str(admin.home / "cache"), "--key", str(admin.home / "test-1.secret")]
    admin.run(*pushed, "greet@1.0", "tally")

    there = other_store(admin, "store-target")
    admin.run("deploy", "--hosts", "web02", "--build-on", "target")
    assert [name for name in built_in(hosts["web02"].root) if name in made] == made
    assert built_in(there) == []

    third = other_store(admin, "store-third")
    said = admin.run("deploy", "--hosts", "web03", "--build-on", "build01", "-v").stderr
    assert "3 builds on build01 (greet-1.0, tally-1.0, words-1.0)" in said
    assert "build01 built greet-1.0\n" in said
    assert "here built user-environment\n" in said
    assert built_in(hosts["build01"].root) == made
    assert not set(made) & set(built_in(third)) | set(built_in(hosts["web03"].root))
    # That the store is ours is written down; a builder is not managed for that.
    assert os.listdir(hosts["build01"].root / "nix/var/reconciler") == ["created"]
    assert "build01   nothing: this host is not managed" in admin.run("gc", "--hosts", "build01", "--yes").stdout

    substituted = other_store(admin, "store-cache")
    key = (admin.home / "test-1.public").read_text().strip()
    settings = f'caches: [{{url: "file://{admin.home}/cache", key: "{key}"}}]\n'
    (admin.fleet.directory / "reconciler.yml").write_text(settings)
    admin.run("deploy", "--hosts", "web04")
    assert not set(made) & set(built_in(substituted))

    wanted = held(hosts["web01"])
    assert {name.partition("-")[2] for name in wanted} >= {"greet-1.0", "tally-1.0", "words-1.0"}
    for name in ("web02", "web03", "web04"):
        assert held(hosts[name]) == wanted, name
        assert hosts[name].run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    for store in (here, third, substituted):
        RealNix(store).verify()


@pytest.mark.parametrize("who", ["controller", "target"])
def test_a_host_that_builds_for_itself_builds_nothing_that_a_cache_has(operator: MakeOperator, who: str) -> None:
    """The cache is a directory of the controller's, so it is the controller that fetches, whoever else does."""
    admin = operator(["web01", "web02"])
    one, two = admin.fleet
    admin.run("key", "generate", "test-1", "--out", str(admin.home))
    cache, secret = admin.home / "cache", str(admin.home / "test-1.secret")
    admin.run("cache", "push", "--to", str(cache), "--key", secret, "words@1.0", "tally")
    key = (admin.home / "test-1.public").read_text().strip()
    (admin.fleet.directory / "reconciler.yml").write_text(f'caches: [{{url: "file://{cache}", key: "{key}"}}]\n')
    store = other_store(admin, "store-empty")
    admin.want({"packages": ["greet@1.0", "tally"], "build_on": "target", "substitute_on": who})
    planned = admin.run("plan", "--hosts", "web01").stdout
    assert "realise    1 build on each host (greet-1.0), 2 paths from caches" in planned, planned

    report = admin.json("deploy", "--hosts", "web01", "--yes")
    assert (report["notes"], [host["state"] for host in report["hosts"]]) == ([], ["confirmed"])
    assert ours(one.root) == ["greet-1.0"], "words and tally came from the cache"
    assert built_in(store) == []
    assert one.run("/run/current-system/sw/bin/greet").stdout == "hello from words 1.0\n"
    assert one.run("/run/current-system/sw/bin/tally").stdout == "tally\n"

    # What the host has is not fetched again for it, by a controller that has nothing.
    store = other_store(admin, "store-empty-too")
    admin.want({"packages": ["greet@2.0", "tally"], "build_on": "target", "substitute_on": who})
    assert admin.json("deploy", "--hosts", "web01", "--yes")["notes"] == []
    assert ours(one.root) == ["greet-1.0", "greet-2.0", "words-2.0"]
    assert not [name for name in os.listdir(store / "nix/store") if name.endswith(("-tally-1.0", "-words-1.0"))]

    # A cache that is broken costs a build, not the run.
    for archive in (cache / "nar").iterdir():
        archive.write_bytes(archive.read_bytes()[:-8])
    admin.want({"packages": ["tally"], "build_on": "target", "substitute_on": who})
    report = admin.json("deploy", "--hosts", "web02", "--yes")
    assert [host["state"] for host in report["hosts"]] == ["confirmed"]
    assert ours(two.root) == ["tally-1.0"]
    assert two.run("/run/current-system/sw/bin/tally").stdout == "tally\n"


def test_the_inventory_says_where_and_what_several_need_is_made_once(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02", "web03", "build01"])
    admin.want({"packages": ["greet@1.0"], "build_on": "build01"})
    admin.want({"packages": ["tally"], "build_on": "controller"}, "host_vars/web02")
    admin.want({"packages": ["greet@2.0"], "build_on": "target"}, "host_vars/web03")
    planned = admin.run("plan", "--hosts", "web*").stdout
    first = "2 builds on build01 (greet-1.0, words-1.0), 1 build here (tally-1.0)"
    assert f"{first}, 2 builds on each host (greet-2.0, words-2.0)" in planned
    assert admin.json("plan", "--hosts", "web*")["build_on"] == ["build01", "controller", "target"]
    report = admin.json("deploy", "--hosts", "web*", "--yes")
    assert [host["state"] for host in report["hosts"]] == ["confirmed"] * 3
    hosts = {host.name: host for host in admin.fleet}
    assert built_in(hosts["build01"].root) == ["greet-1.0", "words-1.0"]
    assert [name for name in built_in(admin.store) if name[:5] in ("greet", "words", "tally")] == ["tally-1.0"]
    assert {"greet-2.0", "words-2.0"} <= set(built_in(hosts["web03"].root))
    # The command line wins, and what is there already is made nowhere again.
    admin.want({"packages": ["greet@1.0", "words@2.0"]}, "host_vars/web02")
    admin.run("deploy", "--hosts", "web02", "--build-on", "build01")
    assert built_in(hosts["build01"].root) == ["greet-1.0", "words-1.0", "words-2.0"]
    admin.want({"packages": ["tally", "words@1.0"]}, "host_vars/web01")
    admin.run("deploy", "--hosts", "web01", "--build-on", "web01")
    assert built_in(hosts["web01"].root) == []  # tally and words are here: nobody builds them again
    said = admin.run("build", "words@2.0", "broken", "--build-on", "build01", status=3).stderr
    assert "broken-1.0 could not be built: the builder failed with exit status 1" in said
    assert "on build01: the whole log: bzcat /nix/var/log/nix/drvs/" in said


SLEEPY = """\
version: 1.0
toolchain: host
build: |
  sleep {seconds}
  touch $out
"""


def wait_for_build(mark: str) -> None:
    deadline = time.monotonic() + 30
    while not running(mark):  # in a namespace of its own, so not among its host's processes
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_builder_that_dies_fails_the_hosts_that_need_it_and_no_other(operator: MakeOperator) -> None:
    admin = operator(["web01", "web02", "web03", "build01"])
    mark = seconds()
    recipe = admin.fleet.directory / "packages/sleepy.yml"
    recipe.write_text(SLEEPY.format(seconds=mark))
    admin.want({"packages": ["sleepy"], "build_on": "build01"})
    admin.want({"packages": ["sleepy", "tally"]}, "host_vars/web02")
    admin.want({"drop": {"packages": ["sleepy"]}, "packages": ["words"], "build_on": "controller"}, "host_vars/web03")
    builder = admin.fleet["build01"]
    deploying = admin.popen("deploy", "--hosts", "web*", "--yes", "--json")
    wait_for_build(mark)
    builder.stop()
    assert wait_until_gone(mark)
    out, err = deploying.communicate(timeout=60)
    assert deploying.returncode == 3, out + err
    report = json.loads(out)
    assert {host["host"]: host["state"] for host in report["hosts"]} == {
        "web01": "failed",
        "web02": "failed",
        "web03": "confirmed",
    }
    assert "the builder build01 was lost: " in report["hosts"][0]["detail"]
    assert report["hosts"][1]["detail"] == report["hosts"][0]["detail"]

    # It is still off: told as that, and the rest goes on.
    admin.want({"drop": {"packages": ["sleepy"]}, "packages": ["tally"], "build_on": "controller"}, "host_vars/web03")
    again = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    assert [host["state"] for host in again["hosts"]] == ["failed", "failed", "confirmed"]
    assert "the builder build01 cannot be reached: " in again["hosts"][0]["detail"]

    builder.start()
    recipe.write_text(SLEEPY.format(seconds=0))
    admin.run("deploy", "--hosts", "web*", "--yes")
    assert {"sleepy-1.0"} <= set(built_in(builder.root))


def test_an_interrupted_run_ends_the_builds_on_its_builder(operator: MakeOperator) -> None:
    admin = operator(["web01", "build01"])
    mark = seconds()
    (admin.fleet.directory / "packages/sleepy.yml").write_text(SLEEPY.format(seconds=mark))
    admin.want({"packages": ["sleepy"]})
    deploying = admin.popen("deploy", "--hosts", "web01", "--build-on", "build01")
    wait_for_build(mark)
    deploying.send_signal(signal.SIGINT)
    out, err = deploying.communicate(timeout=30)
    assert deploying.returncode in (3, 130), out + err
    assert "Traceback" not in err
    assert wait_until_gone(mark)


def test_a_place_that_there_is_not_is_told_before_any_host_is_asked(operator: MakeOperator) -> None:
    admin = operator(["web01"])
    admin.want({"packages": ["tally"]})
    typed = admin.run("deploy", "--hosts", "web01", "--build-on", "web0l", status=2).stderr
    assert "--build-on web0l: not a place to build" in typed
    assert "did you mean 'web01'?" in typed
    admin.want({"packages": ["tally"], "build_on": "contoller"})
    written = admin.run("deploy", "--hosts", "web01", status=2).stderr
    assert "build_on: no host is called 'contoller'" in written
    assert "did you mean 'controller'?" in written
