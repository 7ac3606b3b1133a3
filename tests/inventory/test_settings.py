"""reconciler.yml, and which inventory is meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import Faults, UsageError
from reconciler.inventory.settings import (
    Settings,
    find_inventory,
    load_settings,
    project_directory,
    version_matches,
)
from tests.inventory.trees import write

MATCHES = {
    ("1.0", ">=1.0,<2"): True,
    ("1.0.3", ">=1.0,<2"): True,
    ("2.0", ">=1.0,<2"): False,
    ("0.9", ">=1.0"): False,
    ("1.10", ">1.9"): True,
    ("1", "==1.0.0"): True,
    ("1.1", "!=1.1"): False,
    ("1.2.dev0", "<=1.2"): True,
}


@pytest.mark.parametrize("case", MATCHES)
def test_versions_are_compared_by_their_numbers(case: tuple[str, str]) -> None:
    assert version_matches(*case) is MATCHES[case]


def test_settings_are_read(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, {"reconciler.yml": 'requires: ">=0.0,<99"\nforks: 50\n'}))
    assert settings == Settings(">=0.0,<99", 50)


def test_the_package_of_the_python_that_is_brought_is_python3_or_what_is_named(tmp_path: Path) -> None:
    assert load_settings(tmp_path).python == "python3"
    named = write(tmp_path, {"reconciler.yml": "python: nixpkgs:python312@3.12\n"})
    assert load_settings(named).python == "nixpkgs:python312@3.12"
    for wrong in ("[python3]", "", "{a: b}"):
        with pytest.raises(Faults, match="python is not a package"):
            load_settings(write(tmp_path, {"reconciler.yml": f"python: {wrong}\n"}))


def test_without_a_file_there_are_defaults(tmp_path: Path) -> None:
    assert load_settings(tmp_path) == Settings()
    assert load_settings(write(tmp_path, {"reconciler.yml": ""})) == Settings()


def test_another_version_is_refused() -> None:
    settings = Settings(requires=">=2")
    settings.check_version("2.1")
    with pytest.raises(UsageError, match=r"this project needs reconciler >=2; this is 0\.1"):
        settings.check_version("0.1")


def test_a_project_that_wants_another_version_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"this project needs reconciler >=99; this is "):
        load_settings(write(tmp_path, {"reconciler.yml": 'requires: ">=99"'}))


def test_everything_wrong_with_the_settings_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(Faults) as raised:
        load_settings(write(tmp_path, {"reconciler.yml": "forsk: 1\nforks: many\nkep: {days: 1}\nrequires: one\n"}))
    assert [error.message.removeprefix(f"{tmp_path}/") for error in raised.value.errors] == [
        "reconciler.yml:1:1: unknown key 'forsk' in reconciler.yml; did you mean 'forks'?",
        "reconciler.yml:2:8: forks is not a number from 1 to 1000",
        "reconciler.yml:3:1: unknown key 'kep' in reconciler.yml; did you mean 'keep'?",
        "reconciler.yml:4:11: requires is not a list of conditions",
    ]


def test_the_inventory_is_the_flags_then_the_variables_then_the_only_one(tmp_path: Path) -> None:
    write(tmp_path, {"inventories/shop/hosts.yml": "", "other/hosts.yml": "", "third.yml": ""})
    assert find_inventory("other", {"RECONCILER_INVENTORY": "third.yml"}, tmp_path) == Path("other")
    assert find_inventory(None, {"RECONCILER_INVENTORY": "third.yml"}, tmp_path) == Path("third.yml")
    assert find_inventory(None, {}, tmp_path) == Path("inventories/shop")


def test_two_inventories_are_not_chosen_between(tmp_path: Path) -> None:
    write(tmp_path, {"inventories/a/hosts.yml": "", "inventories/b.yml": "", "inventories/.git/x": ""})
    with pytest.raises(UsageError) as raised:
        find_inventory(None, {}, tmp_path)
    assert raised.value.message == "which inventory? there are 2: inventories/a, inventories/b.yml"
    assert raised.value.hint == "-i inventories/a, or $RECONCILER_INVENTORY"


def test_no_inventory_says_how_to_begin(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        find_inventory(None, {}, tmp_path)
    assert raised.value.hint == "-i PATH names one; reconciler init makes one"


def test_an_inventory_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    write(tmp_path, {"inventories/shop/hosts.yml": ""})
    with pytest.raises(UsageError) as raised:
        find_inventory("inventories/shp", {}, tmp_path)
    assert (raised.value.message, raised.value.hint) == (
        "-i inventories/shp: no such inventory",
        "there is inventories/shop",
    )


def test_the_project_is_where_its_settings_or_its_inventories_are(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"p/inventories/shop/hosts.yml": "", "q/reconciler.yml": "", "q/inv/deep/hosts.yml": "", "r/h.yml": ""},
    )
    assert project_directory(Path("p/inventories/shop"), tmp_path) == tmp_path / "p"
    assert project_directory(Path("p/inventories/shop/hosts.yml"), tmp_path) == tmp_path / "p"
    assert project_directory(Path("q/inv/deep"), tmp_path) == tmp_path / "q"
    assert project_directory(Path("r/h.yml"), tmp_path) == tmp_path
