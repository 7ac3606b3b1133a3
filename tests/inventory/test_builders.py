"""`builders` in reconciler.yml, and `build_on` of a package."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.render.inventory import desired_json
from reconciler.core.build.machine import USUAL_FEATURES, Machine
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import Faults
from reconciler.fleet.choosing import Maker, Makers
from reconciler.inventory.builders import BuilderSpec, check_builders
from reconciler.inventory.settings import Settings, load_settings
from tests.inventory.trees import faults_of, read, write


def builders(root: Path, text: str) -> tuple[BuilderSpec, ...]:
    return load_settings(write(root, {"reconciler.yml": f"builders: {text}\n"})).builders


def test_builders_are_read_with_what_is_said_of_them(tmp_path: Path) -> None:
    text = """
      - build01
      - build02: {system: [x86_64-linux, i686-linux], jobs: 4, features: [kvm, big-parallel], speed: 1.5}
      - arm01: {system: aarch64-linux, features: []}
    """
    first, second, third = builders(tmp_path, text)
    assert first == BuilderSpec("build01", first.position)
    assert (first.systems, first.jobs, first.features, first.speed) == ((), 1, USUAL_FEATURES, 1.0)
    assert (second.host, second.jobs, second.speed) == ("build02", 4, 1.5)
    assert (second.systems, second.features) == (("x86_64-linux", "i686-linux"), ("big-parallel", "kvm"))
    assert (third.systems, third.features) == (("aarch64-linux",), ())
    assert str(third.position).endswith("reconciler.yml:4:9")
    assert load_settings(tmp_path / "elsewhere").builders == ()


def test_a_system_that_is_not_said_is_that_of_the_host(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {desired: {system: aarch64-linux}}, b: {desired: {packages: []}}}}")
    listed = Makers.of(inventory, Settings(builders=builders(tmp_path, "[a, b, ]"))).listed
    assert listed == (
        Maker("a", ("aarch64-linux",), listed=True),
        Maker("b", ("x86_64-linux",), listed=True),
    )


EMULATED = {
    # what reconciler.yml says, what the inventory says of the host: those that are not its own
    ("[x86_64-linux, aarch64-linux]", ""): ("aarch64-linux",),
    ("[x86_64-linux, aarch64-linux]", "aarch64-linux"): ("x86_64-linux",),
    ("aarch64-linux", "x86_64-linux"): ("aarch64-linux",),
    ("aarch64-linux", "aarch64-linux"): (),
    ("aarch64-linux", ""): (),  # it may be: nobody says what it is itself
}


@pytest.mark.parametrize(("said", "own"), EMULATED)
def test_what_a_builder_emulates_is_what_it_is_not_itself(tmp_path: Path, said: str, own: str) -> None:
    desired = f"{{desired: {{system: {own}}}}}" if own else ""
    inventory = read(tmp_path, f"all: {{hosts: {{a: {desired}}}}}")
    (maker,) = Makers.of(inventory, Settings(builders=builders(tmp_path, f"[a: {{system: {said}}}]"))).listed
    assert maker.emulates == EMULATED[said, own]


def test_of_the_controller_what_it_can_do_besides_is_said(tmp_path: Path) -> None:
    text = "builders: [build01, {controller: {system: [aarch64-linux], features: [kvm]}}]\n"
    settings = load_settings(write(tmp_path, {"reconciler.yml": text}))
    assert [each.host for each in settings.builders] == ["build01"], "it is no host"
    inventory = read(tmp_path, "all: {hosts: {build01: }}")
    own = host_system()
    others = tuple(each for each in ("aarch64-linux",) if each != own)
    controller = Makers.of(inventory, settings).controller
    assert controller == Maker("controller", (own, *others), ("kvm",), runs=others, emulates=others)
    assert controller.machine == Machine(others, ("kvm",))
    assert Makers.of(inventory, Settings()).controller == Maker("controller", (own,))


WRONG = {
    "[controller]": "1:12: 'controller' is not a host",
    "[{controller: {jobs: 4}}]": "1:26: unknown key 'jobs' of the builder 'controller'",
    "[{controller: {system: x86}}]": "1:34: 'x86' is not a system",
    "[{target: {system: x86_64-linux}}]": "1:13: 'target' is not a host",
    "build01": "1:11: builders is not a list",
    "[build01, build01]": "1:21: the builder 'build01' is there twice",
    "[{a: {}, b: {}}]": "1:12: a builder has one name",
    "[{a: 4}]": "1:16: what is said of the builder 'a' is not a mapping",
    "[target]": "1:12: 'target' is not a host",
    "[builders]": "1:12: 'builders' is not a host",
    "['a b']": "1:12: the name of a host is one word",
    "[{a: {job: 4}}]": "1:17: unknown key 'job' of the builder 'a'",
    "[{a: {jobs: 0}}]": "1:23: jobs is not a number from 1 to 1024",
    "[{a: {jobs: many}}]": "1:23: jobs is not a number from 1 to 1024",
    "[{a: {system: x86_64}}]": "1:25: 'x86_64' is not a system",
    "[{a: {system: []}}]": "1:25: a builder has a system",
    "[{a: {features: kvm}}]": "1:27: features is not a list",
    "[{a: {features: ['a;b']}}]": "1:28: 'a;b' cannot name a feature",
    "[{a: {speed: 0}}]": "1:24: speed is not a number above 0",
    "[{a: {speed: fast}}]": "1:24: speed is not a number above 0",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_builder_that_cannot_be_is_a_fault_at_its_place(tmp_path: Path, text: str) -> None:
    with pytest.raises(Faults) as error:
        builders(tmp_path, text)
    assert WRONG[text] in error.value.errors[0].message


def test_a_key_that_is_nearly_right_is_named(tmp_path: Path) -> None:
    with pytest.raises(Faults) as error:
        builders(tmp_path, "[{a: {job: 4}}]")
    assert error.value.errors[0].hint == "did you mean 'jobs'?"


def test_a_builder_is_a_host_of_the_inventory(tmp_path: Path) -> None:
    found = builders(tmp_path, "[build01, buidl02]")
    assert check_builders(found, ["build01", "build02"])[0].message.endswith(
        "reconciler.yml:1:21: builders: no host of the inventory is called 'buidl02'"
    )
    assert check_builders(found, ["build01", "build02"])[0].hint == "did you mean 'build02'?"
    assert check_builders(found[:1], ["build01"]) == []


# --- build_on of a package --------------------------------------------------------------------------------------------

TREE = """
    all:
      vars: {where: b, desired: {packages: [jq, orders@5.1: {build_on: target}]}}
      children:
        web:
          vars: {desired: {packages: [orders@5.2: {build_on: "{{ where }}", priority: 4}]}}
          hosts: {a: }
        db:
          vars: {desired: {packages: [orders@5.3]}}
          hosts: {b: }
        other: {hosts: {c: }}
    """


def test_a_package_says_where_it_is_built_and_the_nearer_entry_replaces_all_of_it(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    found = {}
    for host in inventory.hosts:
        system = inventory.desired(host).system
        assert system is not None
        found[host] = [(one.reference, one.build_on, one.priority) for one in system.packages.values()]
    assert found == {
        "a": [("jq", "", 5), ("orders@5.2", "b", 4)],
        "b": [("jq", "", 5), ("orders@5.3", "", 5)],
        "c": [("jq", "", 5), ("orders@5.1", "target", 5)],
    }
    assert desired_json(inventory.desired("a"))["packages"] == ["jq", {"orders@5.2": {"priority": 4, "build_on": "b"}}]
    assert desired_json(inventory.desired("c"))["packages"] == ["jq", {"orders@5.1": {"build_on": "target"}}]


FAULTS = {
    "{jq: {build_on: moon}}": "build_on: no host is called 'moon'",
    "{jq: {build_on: 'a b'}}": "build_on: 'a b' is not a place",
    "{jq: {build_on: [a]}}": "build_on is not one word",
    "{jq: {buildon: a}}": "unknown option 'buildon' of package 'jq'",
}


@pytest.mark.parametrize("said", FAULTS)
def test_a_place_of_a_package_that_there_is_not_is_a_fault(tmp_path: Path, said: str) -> None:
    (fault,) = faults_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{packages: [{said}]}}}}}}}}")
    assert FAULTS[said] in fault


def test_two_places_equally_near_must_agree_on_a_package(tmp_path: Path) -> None:
    tree = "all: {hosts: {a: }, children: {x: {hosts: {a: }}, y: {hosts: {a: }}}}"
    files = {
        "group_vars__x": "desired: {packages: [jq: {build_on: a}]}",
        "group_vars__y": "desired: {packages: [jq: {build_on: target}]}",
    }
    (fault,) = faults_of(tmp_path, tree, **files)
    assert "'jq' is declared twice at the same distance\n" in fault
    assert "jq (build_on a)" in fault
    assert "jq (build_on target)" in fault
