"""What patterns refuse, and what Ansible's own tool cannot be asked: files of parts, errors, advice."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.patterns import split_pattern
from tests.inventory.trees import read


@pytest.fixture
def shop(tmp_path: Path) -> Inventory:
    return read(
        tmp_path,
        """
        all:
          children:
            web: {hosts: {"web[01:04].shop.example": }}
            db: {hosts: {"db[01:02]": }}
            empty:
        """,
    )


SPLIT = {
    "web": ["web"],
    "web:db": ["web", "db"],
    "web:&prod:!db": ["web", "&prod", "!db"],
    " web , db:x ,,": ["web", "db:x"],
    "web[0:2]": ["web[0:2]"],
    "web[0:2]:db": ["web[0:2]", "db"],
    "web db": ["web", "db"],
    "fe80::1": ["fe80::1"],
    "2001:db8:0:0:0:0:0:1": ["2001:db8:0:0:0:0:0:1"],
    "web01:2222": ["web01:2222"],
    "~web[0-9]:db": ["~web[0-9]", "db"],
    "*": ["*"],
}


@pytest.mark.parametrize("pattern", SPLIT)
def test_a_pattern_is_split_as_ansible_does(pattern: str) -> None:
    assert split_pattern(pattern) == SPLIT[pattern]


REFUSED = {
    "web:!web03": (
        "pattern 'web:!web03': '!web03' excludes no host",
        "did you mean web03.shop.example?  ('web:!web03*' also works)",
    ),
    "wbe": ("pattern 'wbe' matches no host", "did you mean web?"),
    "web:dbb": ("pattern 'web:dbb': 'dbb' matches no host", "did you mean db?"),
    "zzz*": ("pattern 'zzz*' matches no host", "reconciler inventory lists hosts and groups"),
    "web,zzz": ("pattern 'web,zzz': 'zzz' matches no host", "reconciler inventory lists hosts and groups"),
    "web:&prod": ("pattern 'web:&prod': '&prod' matches no host", "reconciler inventory lists hosts and groups"),
    "ungroupd": ("pattern 'ungroupd' matches no host", "reconciler inventory lists hosts and groups"),
    "~web[": ("pattern '~web[' has a bracket without its other half", None),
    "web[0:1": ("pattern 'web[0:1' has a bracket without its other half", None),
    "web0]": ("pattern 'web0]' has a bracket without its other half", None),
    "web:&db": (
        "pattern 'web:&db': '&db' leaves no host",
        "db01, db02: not among the hosts that the rest of it means",
    ),
    "web:!db": (
        "pattern 'web:!db': '!db' excludes no host",
        "db01, db02: not among the hosts that the rest of it means",
    ),
    "web:!web": ("pattern 'web:!web' leaves no host", None),
    "empty": ("pattern 'empty' matches no host", "the group 'empty' has no hosts"),
    "web[9]": ("pattern 'web[9]' matches no host", "[9] picks by position; '~web[9]$' matches by name"),
    "web0[1-3]": ("pattern 'web0[1-3]' matches no host", "[1-3] picks by position; '~web0[1-3]$' matches by name"),
    "web:db,db01": (
        "pattern 'web:db,db01': 'web:db' matches no host",
        "where a comma separates, ':' does not: put commas between all parts",
    ),
    "localhost": (
        "pattern 'localhost' matches no host",
        "localhost is a host only where the inventory names it, with ansible_connection: local",
    ),
    "~web(": (
        "pattern '~web(': '~web(' is not a regular expression: missing ), unterminated subpattern",
        None,
    ),
    "!": ("pattern '!' has a sign without a name behind it", None),
    "": ("the pattern is empty", "--hosts all means every host"),
    " , ": ("the pattern is empty", "--hosts all means every host"),
    "@/nothing/here": ("pattern '@/nothing/here': '/nothing/here' cannot be read: No such file or directory", None),
}


@pytest.mark.parametrize("pattern", REFUSED)
def test_a_part_that_matches_nothing_is_an_error_that_says_what_to_type(pattern: str, shop: Inventory) -> None:
    with pytest.raises(UsageError) as raised:
        shop.select(pattern)
    assert (raised.value.message, raised.value.hint) == REFUSED[pattern]
    assert raised.value.status is ExitStatus.USAGE


def test_an_inventory_without_hosts_has_no_all(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as raised:
        read(tmp_path, "all: {}").select("all")
    assert raised.value.hint == "the inventory has no hosts"


def test_a_file_holds_parts_one_a_line(shop: Inventory, tmp_path: Path) -> None:
    listed = tmp_path / "retry"
    listed.write_text("web01.shop.example\n# not db02\n\n  web0*  \n!web04.shop.example\n", encoding="utf-8")
    assert shop.select(f"db01,@{listed}") == [
        "db01",
        "web01.shop.example",
        "web02.shop.example",
        "web03.shop.example",
    ]


def test_a_file_without_parts_is_not_everything(shop: Inventory, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("# nothing\n", encoding="utf-8")
    with pytest.raises(UsageError, match="names files that are empty"):
        shop.select(f"@{tmp_path}/none")


def test_localhost_is_a_host_where_the_inventory_names_it(tmp_path: Path) -> None:
    inventory = read(tmp_path, "all: {hosts: {localhost: {ansible_connection: local}}}")
    assert inventory.select("localhost") == ["localhost"]
