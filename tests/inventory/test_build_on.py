"""`build_on`: where packages are built; under `desired`, and what one build may use, in reconciler.yml."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.render.inventory import desired_json
from reconciler.core.build.events import BuildLimits
from reconciler.core.errors import Faults, UsageError
from reconciler.fleet.places import places
from reconciler.inventory.settings import load_settings
from tests.inventory.trees import faults_of, read, write

TREE = """
    all:
      vars: {desired: {build_on: build01}}
      children:
        web:
          vars: {desired: {build_on: target}, where: controller}
          hosts:
            web01: {desired: {build_on: "{{ where }}"}}
            web02: {desired: {packages: [jq]}}
        db: {hosts: {db01: , build01: }}
    """


def test_the_nearest_place_counts(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    found = {host: inventory.desired(host).build_on for host in inventory.hosts}
    assert found == {"web01": "controller", "web02": "target", "db01": "build01", "build01": "build01"}
    assert desired_json(inventory.desired("db01"))["build_on"] == "build01"


def test_where_nothing_is_said_the_controller_builds(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {desired: {packages: [jq]}}}}")
    assert inventory.desired("a").build_on == ""
    assert "build_on" not in desired_json(inventory.desired("a"))
    assert places(inventory, ["a"], "") == {"a": ""}


def test_the_command_line_wins_and_hosts_may_have_different_places(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    hosts = ["web01", "web02", "db01"]
    assert places(inventory, hosts, "") == {"web01": "controller", "web02": "target", "db01": "build01"}
    assert places(inventory, hosts, "web02") == dict.fromkeys(hosts, "web02")
    # A run that goes to no host has no target.
    assert places(inventory, hosts, "", reaches_hosts=False)["web02"] == ""


def test_a_place_on_the_command_line_is_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--build-on bild01: not a place to build") as error:
        places(read(tmp_path, TREE), ["web01"], "bild01")
    assert error.value.hint == "did you mean 'build01'?"


WRONG = {
    "build_on: moon": "1:39: build_on: no host is called 'moon'",
    "build_on: targt": "1:39: build_on: no host is called 'targt'",
    "build_on: [a]": "1:39: build_on is not one word",
    "build_on: 'a b'": "1:39: build_on: 'a b' is not a place",
}


@pytest.mark.parametrize("said", WRONG)
def test_a_place_that_there_is_not_is_a_fault(tmp_path: Path, said: str) -> None:
    (fault,) = faults_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{{said}}}}}}}}}")
    assert WRONG[said] in fault


def test_two_places_equally_near_must_agree(tmp_path: Path) -> None:
    tree = "all: {hosts: {a: }, children: {x: {hosts: {a: }}, y: {hosts: {a: }}}}"
    files = {"group_vars__x": "desired: {build_on: a}", "group_vars__y": "desired: {build_on: target}"}
    (fault,) = faults_of(tmp_path, tree, **files)
    assert fault.startswith("group_vars/x.yml:1:21: 'build_on' is declared twice at the same distance\n")


def test_limits_of_builds_are_read(tmp_path: Path) -> None:
    text = "builds: {memory: 8G, processes: 500, time: 90m, log: 3M}\n"
    found = load_settings(write(tmp_path, {"reconciler.yml": text})).builds
    assert found == BuildLimits(timeout=5400.0, max_log=3 * 2**20, max_processes=500, max_memory=8 * 2**30)
    some = load_settings(write(tmp_path, {"reconciler.yml": "builds: {time: 2d}\n"})).builds
    assert some == BuildLimits(timeout=172800.0)


LIMITS = {
    "builds: {memory: much}": "1:18: a size is a number with K, M, G or T behind it",
    "builds: {memory: 0}": "1:18: a size is a number with K, M, G or T behind it",
    "builds: {time: 5}": "1:16: a time is a number with s, m, h or d behind it",
    "builds: {processes: 3}": "1:21: processes is not a number from 10 to 1000000",
    "builds: {memroy: 1G}": "1:10: unknown key 'memroy' in builds; did you mean 'memory'?",
    "builds: 8G": "1:9: builds is a mapping: memory, processes, time, log",
}


@pytest.mark.parametrize("text", LIMITS)
def test_a_limit_that_cannot_be_is_a_fault(tmp_path: Path, text: str) -> None:
    with pytest.raises(Faults) as error:
        load_settings(write(tmp_path, {"reconciler.yml": text + "\n"}))
    assert LIMITS[text] in error.value.errors[0].message
