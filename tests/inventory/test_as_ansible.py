"""Groups, variables and patterns against what ansible-core itself said of the same files (golden/ansible.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import UsageError
from reconciler.inventory.inventory import Inventory, load
from tests.inventory.trees import write

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "golden" / "ansible.json").read_text(encoding="utf-8"))
CASES: dict[str, Any] = GOLDEN["cases"]
PATTERNS = [(name, pattern) for name, case in CASES.items() for pattern in case["patterns"]]


@pytest.fixture(scope="module")
def inventories(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Inventory]:
    found = {}
    for name, case in CASES.items():
        root = write(tmp_path_factory.mktemp(name), case["files"])
        found[name] = load(root / next(file for file in case["files"] if file.startswith("hosts")))
    return found


@pytest.mark.parametrize("name", CASES)
def test_hosts_groups_and_depths_are_ansibles(name: str, inventories: dict[str, Inventory]) -> None:
    ours, golden = inventories[name], CASES[name]
    assert {group: sorted(ours.hosts_of(group)) for group in ours.groups} == golden["groups"]
    assert {group: ours.groups[group].depth for group in ours.groups} == golden["depth"]
    assert {host: list(ours.hosts[host].groups) for host in ours.hosts} == golden["group_order"]


@pytest.mark.parametrize("name", CASES)
def test_variables_have_ansibles_precedence_and_types(name: str, inventories: dict[str, Inventory]) -> None:
    for host in inventories[name].hosts:
        ours = json.loads(json.dumps(inventories[name].variables(host), default=str))
        assert ours == CASES[name]["hostvars"].get(host, {}), host


@pytest.mark.parametrize(("name", "pattern"), PATTERNS)
def test_a_pattern_means_ansibles_hosts_in_ansibles_order(
    name: str, pattern: str, inventories: dict[str, Inventory]
) -> None:
    wanted = CASES[name]["patterns"][pattern]
    try:
        assert inventories[name].select(pattern) == wanted
    except UsageError:
        # Ours is stricter: a part that matches nothing is an error. What Ansible made of the rest is in test_patterns.
        assert (name, pattern) in STRICTER


# Patterns of which Ansible quietly passes over a part, or that leave no host.
STRICTER = {("shop", "e*-x0[12]"), ("depth", "ungrouped:solo"), ("depth", "empty:h1")}
