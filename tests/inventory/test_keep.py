"""`keep`: how many generations, for how long; under `desired`, and in reconciler.yml."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.cli.render.inventory import desired_json
from reconciler.core.errors import Faults
from reconciler.core.profile.prune import Retention
from reconciler.inventory.settings import load_settings
from tests.inventory.trees import faults_of, read, write

TREE = """
    all:
      vars: {desired: {keep: {generations: 5, days: 30}}}
      children:
        web:
          vars: {desired: {keep: {generations: 2}}, few: 3}
          hosts:
            web01: {desired: {keep: {days: "{{ few }}"}}}
            web02: {desired: {packages: [jq]}}
        db: {hosts: {db01: }}
    """


def test_the_nearest_keep_counts_whole(tmp_path: Path) -> None:
    inventory = read(tmp_path, TREE)
    found = {host: inventory.desired(host).keep for host in inventory.hosts}
    assert found == {"web01": Retention(days=3), "web02": Retention(2), "db01": Retention(5, 30)}
    assert desired_json(inventory.desired("db01"))["keep"] == {"generations": 5, "days": 30}
    assert desired_json(inventory.desired("web01"))["keep"] == {"days": 3}


def test_where_nothing_is_said_nothing_is_kept_apart(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {a: {desired: {packages: [jq]}}}}")
    assert inventory.desired("a").keep is None
    assert "keep" not in desired_json(inventory.desired("a"))


def test_two_places_equally_near_must_agree(tmp_path: Path) -> None:
    agreeing = "all: {hosts: {a: }, children: {x: {hosts: {a: }}, y: {hosts: {a: }}}}"
    same = {"group_vars__x": "desired: {keep: {days: 3}}", "group_vars__y": "desired: {keep: {days: 3}}"}
    assert read(tmp_path / "same", agreeing, **same).desired("a").keep == Retention(days=3)
    other = {**same, "group_vars__y": "desired: {keep: {generations: 3}}"}
    (fault,) = faults_of(tmp_path / "other", agreeing, **other)
    assert fault.startswith("group_vars/x.yml:1:24: 'keep' is declared twice at the same distance\n")
    assert "days: 3" in fault
    assert "generations: 3" in fault
    assert fault.endswith("on a")


WRONG = {
    "keep: {generation: 3}": "1:36: unknown key 'generation' in desired.keep of host a; did you mean 'generations'?",
    "keep: {generations: 0}": "1:49: keep: '0' is not a number from 1 to 1000000",
    "keep: {days: 3d}": "1:42: keep: '3d' is not a number from 1 to 1000000",
    "keep: {days: [3]}": "1:42: days is not one word",
    "keep: {}": "1:35: keep of host a says nothing",
    "keep: ": "1:35: keep of host a says nothing",
    "keep: 5": "1:35: desired.keep of host a is not a mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_with_a_keep_is_told_with_its_place(text: str, tmp_path: Path) -> None:
    assert faults_of(tmp_path, f"all: {{hosts: {{a: {{desired: {{{text}}}}}}}}}") == [f"hosts.yml:{WRONG[text]}"]


def test_the_project_says_what_is_kept_where_the_inventory_does_not(tmp_path: Path) -> None:
    assert load_settings(tmp_path).keep == Retention()
    assert load_settings(write(tmp_path, {"reconciler.yml": "keep: {generations: 9}"})).keep == Retention(9)


def test_what_is_wrong_with_the_project_s_keep_is_told(tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        load_settings(write(tmp_path, {"reconciler.yml": "keep: {generations: 0, dasy: 1}\n"}))
    assert [error.message.rpartition("/")[2] for error in raised.value.errors] == [
        "reconciler.yml:1:21: generations is not a number from 1 to 1000000",
        "reconciler.yml:1:24: unknown key 'dasy' in keep; did you mean 'days'?",
    ]
    with pytest.raises(Faults, match="keep says nothing"):
        load_settings(write(tmp_path, {"reconciler.yml": "keep: {}\n"}))
