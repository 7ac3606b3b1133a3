"""`substitute_on`: who fetches from binary caches, under `desired`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.render.inventory import desired_json
from tests.inventory.trees import faults_of, read

TREE = """
    all:
      vars: {desired: {substitute_on: target}}
      children:
        web:
          vars: {who: controller}
          hosts:
            web01: {desired: {substitute_on: "{{ who }}"}}
            web02: {desired: {packages: [jq]}}
    """


def test_the_nearest_place_counts_and_may_be_a_template(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    found = {host: inventory.desired(host).substitute_on for host in inventory.hosts}
    assert found == {"web01": "controller", "web02": "target"}
    assert desired_json(inventory.desired("web02"))["substitute_on"] == "target"


def test_nothing_is_said_where_nothing_is_said(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {desired: {packages: [jq]}}}}")
    assert inventory.desired("a").substitute_on == ""
    assert "substitute_on" not in desired_json(inventory.desired("a"))


WRONG = {
    "substitute_on: moon": "substitute_on: 'moon' is not one of controller and target",
    "substitute_on: targt": "substitute_on: 'targt' is not one of controller and target",
    "substitute_on: [target]": "substitute_on is not one word",
    "substitut_on: target": "unknown key 'substitut_on'",
}


@pytest.mark.parametrize("said", WRONG)
def test_a_word_that_there_is_not_is_a_fault(tmp_path: Path, said: str) -> None:
    (fault,) = faults_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{{said}}}}}}}}}")
    assert WRONG[said] in fault


def test_two_places_equally_near_must_agree(tmp_path: Path) -> None:
    tree = "all: {hosts: {a: }, children: {x: {hosts: {a: }}, y: {hosts: {a: }}}}"
    files = {
        "group_vars__x": "desired: {substitute_on: controller}",
        "group_vars__y": "desired: {substitute_on: target}",
    }
    (fault,) = faults_of(tmp_path, tree, **files)
    assert fault.startswith("group_vars/x.yml:1:26: 'substitute_on' is declared twice at the same distance\n")
