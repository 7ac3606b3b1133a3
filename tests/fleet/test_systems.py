"""Whether a host is of the system that the inventory says, and the line to write where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.fleet.systems import other_system
from tests.inventory.trees import read

TREE = """
    all:
      children:
        edge:
          vars: {desired: {system: aarch64-linux}}
          hosts: {arm01: {desired: {packages: [jq]}}, arm02: {desired: {packages: [jq], system: armv7l-linux}}}
        web:
          vars: {desired: {packages: [jq]}}
          hosts: {web01: , web02: {desired: {system: i686-linux}}}
        hosts_of_nothing: {hosts: {build01: }}
    """

RIGHT = [
    ("arm01", "aarch64-linux"),
    ("arm02", "aarch64-linux"),  # its kernel runs these
    ("web01", "x86_64-linux"),
    ("web02", "x86_64-linux"),
    ("web02", "i686-linux"),
    ("build01", "aarch64-linux"),  # nothing is made for it
]


@pytest.mark.parametrize(("host", "found"), RIGHT)
def test_nothing_is_wrong_where_a_host_runs_what_it_is_to_hold(tmp_path: Path, host: str, found: str) -> None:
    assert other_system(read(tmp_path, TREE).desired(host), found) is None


WRONG = [
    ("arm01", "x86_64-linux", "aarch64-linux", "5:32 (group edge)"),
    ("arm02", "x86_64-linux", "armv7l-linux", "6:93 (host arm02)"),
    ("web02", "aarch64-linux", "i686-linux", "9:50 (host web02)"),
]


@pytest.mark.parametrize(("host", "found", "said", "where"), WRONG)
def test_what_is_said_wrongly_is_told_with_its_line(
    tmp_path: Path, host: str, found: str, said: str, where: str
) -> None:
    error = other_system(read(tmp_path, TREE).desired(host), found)
    assert error is not None
    assert error.message.startswith(f"it is {found}, and ")
    assert error.message.endswith(f"hosts.yml:{where} says that it is {said}"), error.message
    assert error.hint == f"say it of the host or its group:  desired: {{system: {found}}}"


def test_what_is_not_said_at_all_is_told_with_the_line_to_write(tmp_path: Path) -> None:
    error = other_system(read(tmp_path, TREE).desired("web01"), "aarch64-linux")
    assert error is not None
    assert error.message == (
        "it is aarch64-linux, and the inventory does not say so: without `system`, a host is x86_64-linux"
    )
    assert error.hint == "say it of the host or its group:  desired: {system: aarch64-linux}"
