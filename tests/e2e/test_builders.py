"""Builders that reconciler.yml lists: who builds what, side by side, and who takes over."""

from __future__ import annotations

import json

import pytest

from tests.core.build.test_sandbox import seconds, wait_until_gone
from tests.e2e.conftest import MakeOperator
from tests.e2e.operator import Operator
from tests.e2e.test_build_on import SLEEPY, built_in, wait_for_build
from tests.hosts.host import TestHost

pytestmark = [pytest.mark.root, pytest.mark.nix]


def project(operator: MakeOperator, builders: str) -> tuple[Operator, dict[str, TestHost]]:
    """web01, web02 and two builders, which reconciler.yml lists as it is said."""
    admin = operator(["web01", "web02", "build01", "build02"])
    (admin.fleet.directory / "reconciler.yml").write_text(f"builders: {builders}\n")
    return admin, {host.name: host for host in admin.fleet}


def recipe(admin: Operator, name: str, text: str) -> None:
    (admin.fleet.directory / f"packages/{name}.yml").write_text(text)


def test_two_builders_build_side_by_side_and_what_several_hosts_need_once(operator: MakeOperator) -> None:
    admin, hosts = project(operator, "[build01, build02]")
    for name in ("one", "two"):
        recipe(admin, name, SLEEPY.format(seconds=5))
    recipe(admin, "both", "version: 1.0\ntoolchain: host\ninputs: [one, two]\nbuild: |\n  echo $one $two > $out\n")
    admin.want({"packages": ["both"], "build_on": "builders"})
    planned = admin.json("plan", "--hosts", "web*")
    assert planned["sites"] == [{"places": ["build01", "build02"], "builds": ["both-1.0", "one-1.0", "two-1.0"]}]
    said = admin.run("deploy", "--hosts", "web*", "--yes").stderr
    assert "3 builds on build01 or build02 (both-1.0, one-1.0, two-1.0)" in said
    made = {name: built_in(hosts[name].root) for name in ("build01", "build02")}
    assert sorted(made["build01"] + made["build02"]) == ["both-1.0", "one-1.0", "two-1.0"]
    assert all(len({"one-1.0", "two-1.0"} & set(built)) == 1 for built in made.values())
    assert not {"both-1.0", "one-1.0", "two-1.0"} & set(built_in(admin.store))
    events = [line.split() for line in said.splitlines() if " built " in line or " builds " in line]
    order = [(words[2], words[3]) for words in events if len(words) == 4 and words[3] in ("one-1.0", "two-1.0")]
    assert {name for _, name in order[:2]} == {"one-1.0", "two-1.0"}, "both were begun before one was done"
    assert [kind for kind, _ in order] == ["builds", "builds", "built", "built"]


def test_features_decide_and_a_package_may_say_where(operator: MakeOperator) -> None:
    builders = "[build01, {build02: {features: [gpu, big-parallel], jobs: 2}}]"
    admin, hosts = project(operator, builders)
    recipe(admin, "shader", SLEEPY.format(seconds=0) + "features: [gpu]\n")
    admin.want({"packages": ["shader", {"words@1.0": {"build_on": "build01"}}, {"tally": {"build_on": "target"}}]})
    planned = admin.run("plan", "--hosts", "web01").stdout
    for part in (
        "1 build on build02 (shader-1.0)",
        "1 build on build01 (words-1.0)",
        "1 build on each host (tally-1.0)",
    ):
        assert part in planned
    admin.run("deploy", "--hosts", "web*", "--yes")
    assert built_in(hosts["build01"].root) == ["words-1.0"]
    assert built_in(hosts["build02"].root) == ["shader-1.0"]
    for name in ("web01", "web02"):
        assert {"tally-1.0"} <= set(built_in(hosts[name].root))
        assert not {"shader-1.0", "words-1.0"} & set(built_in(hosts[name].root))
        assert hosts[name].run("/run/current-system/sw/bin/tally").stdout == "tally\n"
    # The command line wins over the package.
    recipe(admin, "tally", SLEEPY.format(seconds=0))
    admin.run("deploy", "--hosts", "web01", "--build-on", "build01")
    assert built_in(hosts["build01"].root) == ["tally-1.0", "words-1.0"]


def test_what_nobody_can_build_is_one_error_before_anything_is_built(operator: MakeOperator) -> None:
    admin, hosts = project(operator, "[build01, {build02: {features: [gpu]}}]")
    recipe(admin, "shader", SLEEPY.format(seconds=0) + "features: [gpu, kvm]\n")
    admin.want({"packages": ["tally"]})
    admin.want({"packages": ["shader"]}, "host_vars/web01")
    admin.want({"packages": ["words"], "system": "aarch64-linux"}, "host_vars/web02")
    shader = (
        ": shader of web01: shader-1.0 is built on x86_64-linux with gpu, kvm, and nobody has that: "
        "controller x86_64-linux; build01 x86_64-linux; build02 x86_64-linux (gpu)"
    )
    for command in (["plan"], ["deploy"], ["deploy", "--action", "build"]):
        told = admin.run(*command, "--hosts", "web*", status=2).stderr
        assert shader in told
        assert "builders: [HOST: {system: x86_64-linux, features: [gpu, kvm]}]" in told
    # No host was asked what it is, so this is what is wrong with the other one.
    assert ": words of web02: words-2.0 is built on aarch64-linux, and nobody has that: " in told
    assert "builders: [HOST: {system: aarch64-linux}]" in told
    assert built_in(admin.store) == built_in(hosts["build01"].root) == []


def test_a_host_of_another_system_than_is_said_gets_nothing_and_the_others_go_on(operator: MakeOperator) -> None:
    admin, hosts = project(operator, "[{build01: {system: aarch64-linux}}]")
    admin.want({"packages": ["tally"]})
    admin.want({"system": "aarch64-linux"}, "host_vars/web02")
    line = f"{admin.fleet.directory}/host_vars/web02.yml:1:24"
    wrong = f"it is x86_64-linux, and {line} (host web02) says that it is aarch64-linux"
    hint = "say it of the host or its group:  desired: {system: x86_64-linux}"
    for command, status in (("doctor", 3), ("plan", 0), ("status", 0)):
        told = admin.run(command, "--hosts", "web*", status=status)
        assert wrong in told.stdout + told.stderr, f"{command}: {told}"
        assert command == "status" or hint in told.stdout + told.stderr, f"{command}: {told}"
    report = admin.json("deploy", "--hosts", "web*", "--yes", status=3)
    found = {host["host"]: host for host in report["hosts"]}
    assert {name: host["state"] for name, host in found.items()} == {"web01": "confirmed", "web02": "failed"}
    assert wrong in found["web02"]["detail"]
    assert hosts["web02"].run("ls /nix").stdout == "", "nothing was copied there"
    assert hosts["web01"].run("/run/current-system/sw/bin/tally").stdout == "tally\n"
    admin.want({"system": "x86_64-linux"}, "host_vars/web02")
    admin.run("deploy", "--hosts", "web*")


def test_another_builder_takes_over_from_one_that_dies(operator: MakeOperator) -> None:
    admin, hosts = project(operator, "[{build01: {speed: 2}}, build02]")
    mark = seconds()
    recipe(admin, "sleepy", SLEEPY.format(seconds=mark))
    admin.want({"packages": ["sleepy"], "build_on": "builders"})
    deploying = admin.popen("deploy", "--hosts", "web*", "--yes", "--json")
    wait_for_build(mark)
    hosts["build01"].stop()
    assert deploying.stderr is not None
    assert any("build02 builds sleepy-1.0" in line for line in deploying.stderr)
    hosts["build02"].stop()
    out, err = deploying.communicate(timeout=90)
    assert wait_until_gone(mark)
    assert deploying.returncode == 3, out + err
    report = json.loads(out)
    assert [host["state"] for host in report["hosts"]] == ["failed"] * 2
    (note,) = [note for note in report["notes"] if "sleepy-1.0" in note]
    assert note.startswith("the builder build01 was lost: ")
    assert note.endswith("; sleepy-1.0 is built on build02")
    assert "the builder build02 was lost: " in report["hosts"][0]["detail"]

    # The first stays off: it cannot be reached, which is said, and the second makes all of it.
    hosts["build02"].start()
    recipe(admin, "sleepy", SLEEPY.format(seconds=0))
    again = admin.json("deploy", "--hosts", "web*", "--yes")
    assert [host["state"] for host in again["hosts"]] == ["confirmed"] * 2
    assert any(note.startswith("the builder build01 cannot be reached: ") for note in again["notes"])
    hosts["build01"].start()
