"""Versions are ordered as Nix orders them."""

from __future__ import annotations

import itertools
import json
import subprocess

import pytest

from reconciler.packages.versions import compare, matches, newest_first
from tests.oracle import program

VERSIONS = [
    "1.0",
    "1.1",
    "1.10",
    "1.2",
    "2.0",
    "2",
    "2.0.1",
    "2.0pre1",
    "2.0pre2",
    "2.0rc1",
    "2.0a",
    "2.3a",
    "2.3.1",
    "2.3.0",
    "1.24",
    "1.24.1",
    "1.24pre",
    "1.240",
    "1-0",
    "1_0",
    "0",
    "00",
    "01",
    "1",
    "pre",
    "1.pre",
    "1.prea",
    "2.21+dfsg",
    "2.21",
    "2.21+dfsg-2",
    "20240101",
    "2024.1",
    "1.0.0",
    "1.0-",
    "1.0.",
    "1..0",
    "5a",
    "5b",
    "5.a",
    "5-a",
]


@pytest.mark.nix
def test_every_pair_is_compared_as_nix_compares_it() -> None:
    pairs = list(itertools.product(VERSIONS, repeat=2))
    literal = " ".join(f'["{left}" "{right}"]' for left, right in pairs)
    expression = f"map (p: builtins.compareVersions (builtins.elemAt p 0) (builtins.elemAt p 1)) [ {literal} ]"
    command = [program("nix-instantiate"), "--eval", "--strict", "--json", "--store", "dummy://", "--expr", expression]
    said = subprocess.run(command, capture_output=True, check=True)
    expected = dict(zip(pairs, json.loads(said.stdout), strict=True))
    assert {pair: compare(*pair) for pair in pairs} == expected


def test_newest_first() -> None:
    assert newest_first(["1.2", "1.10", "1.10pre1", "1.9"]) == ["1.10", "1.10pre1", "1.9", "1.2"]


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("1.24", "1.24", True),
        ("1.24.3", "1.24", True),
        ("1.24.3", "1", True),
        ("1.240", "1.24", False),
        ("1.24pre1", "1.24", False),
        ("1.2", "1.24", False),
        ("1.10", "1.1", False),
    ],
)
def test_a_wanted_version_is_meant_by_components(version: str, wanted: str, expected: bool) -> None:
    assert matches(version, wanted) is expected
