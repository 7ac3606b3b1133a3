"""`nixos`: the system of a host that runs NixOS, under `desired`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.render.inventory import desired_json
from tests.inventory.trees import faults_of, read

PATH = "/nix/store/00000000000000000000000000000000-nixos-system-web01-24.05"
TREE = """
    all:
      vars: {desired: {packages: [htop], users: {dana: {packages: [jq]}}}}
      children:
        nixos:
          vars: {desired: {nixos: "path:./nixos#{{ inventory_hostname }}"}}
          hosts:
            web01:
            web02: {desired: {nixos: unmanaged}}
            web03: {desired: {nixos: nixos/web03.nix, drop: {packages: [htop]}}}
        debian:
          hosts:
            db01:
    """


def test_it_is_the_system_profile_and_the_packages_are_those_of_default(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    found = {
        host: {
            str(profile): [entry.reference for entry in spec.packages.values()]
            for profile, spec in inventory.desired(host).profiles.items()
        }
        for host in inventory.hosts
    }
    assert found == {
        "web01": {"system": ["nixos#path:./nixos#web01"], "default": ["htop"], "user/dana": ["jq"]},
        "web02": {"default": ["htop"], "user/dana": ["jq"]},
        "web03": {"system": ["nixos#nixos/web03.nix"], "default": [], "user/dana": ["jq"]},
        "db01": {"system": ["htop"], "user/dana": ["jq"]},
    }
    assert [inventory.desired(host).nixos for host in ("web02", "db01")] == ["unmanaged", ""]
    said = desired_json(inventory.desired("web01"))
    assert (said["nixos"], said["profiles"]) == ("path:./nixos#web01", {"default": {"packages": ["htop"]}})
    assert "packages" not in said


def test_a_store_path_is_a_system_as_it_stands(tmp_path: Path) -> None:
    inventory = read(tmp_path, f"all: {{hosts: {{a: {{desired: {{nixos: {PATH}}}}}}}}}")
    system = inventory.desired("a").system
    assert system is not None
    assert system.nixos
    assert [entry.reference for entry in system.packages.values()] == [PATH]
    assert str(system.packages["nixos"].origin.position).endswith(":1:36")


WRONG = {
    "nixos: web01": "nixos: 'web01' is no NixOS system",
    "nixos: unmanagd": "nixos: 'unmanagd' is no NixOS system",
    "nixos: 'path:./nixos#'": "nixos: 'path:./nixos#' is no NixOS system",
    "nixos: '#web01'": "nixos: '#web01' is no NixOS system",
    "nixos: 'a b.nix'": "nixos: 'a b.nix' is no NixOS system",
    "nixos: '-x#web01'": "nixos: '-x#web01' is no NixOS system",
    "nixos: /nix/store/x": "'x' is no store path",
    "nixos: [a.nix]": "nixos is not one word",
    "nixo: a.nix": "unknown key 'nixo'",
}


@pytest.mark.parametrize("said", WRONG)
def test_what_can_be_no_system_is_a_fault(tmp_path: Path, said: str) -> None:
    (fault,) = faults_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{{said}}}}}}}}}")
    assert WRONG[said] in fault


def test_two_places_equally_near_must_agree(tmp_path: Path) -> None:
    tree = "all: {hosts: {a: }, children: {x: {hosts: {a: }}, y: {hosts: {a: }}}}"
    files = {"group_vars__x": "desired: {nixos: a.nix}", "group_vars__y": "desired: {nixos: b.nix}"}
    (fault,) = faults_of(tmp_path, tree, **files)
    assert fault.startswith("group_vars/x.yml:1:18: 'nixos' is declared twice at the same distance\n")


def test_packages_of_the_host_and_of_its_default_profile_are_not_mixed(tmp_path: Path) -> None:
    tree = """
    all:
      hosts:
        a: {desired: {nixos: a.nix, packages: [htop], profiles: {default: {packages: [jq]}}}}
        b: {desired: {nixos: a.nix, profiles: {default: {packages: [jq]}}}}
    """
    (fault,) = faults_of(tmp_path, tree)
    assert ":4:83: the packages of a NixOS host are those of its default profile" in fault
    assert fault.endswith("  on a")
