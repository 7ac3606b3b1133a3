"""The checker itself: every rule of it is seen to be broken."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.core import fs
from tests.conftest import make_writable
from tests.faults import checker
from tests.faults.checker import Expected, Outcome
from tests.faults.disks import Copies
from tests.faults.scenarios import Scenario, World, switching

pytestmark = [pytest.mark.root, pytest.mark.nix]


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Scenario, Copies]]:
    """A host before a switch, where real users can reach their homes."""
    directory = tmp_path_factory.mktemp("checker")
    for above in (directory, *directory.parents[:2]):
        above.chmod(0o755)
    world = World.make(directory / "source")
    scenario = switching(world)
    yield scenario, Copies(directory, scenario.prepare)
    world.source.close()
    make_writable(directory)


@pytest.fixture
def host(switch: tuple[Scenario, Copies]) -> tuple[Path, Expected]:
    scenario, copies = switch
    copies.renew()
    return copies.root, scenario.expected


def package(root: Path) -> Path:
    return next((root / "nix/store").glob("*-tally-1.0"))


def in_database(root: Path, statement: str) -> None:
    with closing(sqlite3.connect(root / "nix/var/nix/db/db.sqlite", isolation_level=None)) as database:
        database.execute(statement)


def rot(root: Path) -> None:
    (package(root) / "bin/tally").write_bytes(b"rot")


def lose_files(root: Path) -> None:
    shutil.rmtree(package(root))


def lose_row(root: Path) -> None:
    in_database(root, f"delete from ValidPaths where path = '{'/nix/store/' + package(root).name}'")


def lose_profile(root: Path) -> None:
    (root / "nix/var/nix/profiles/system").unlink()


def lose_generation(root: Path) -> None:
    (root / "nix/var/nix/profiles/system-2-link").unlink()


def point_elsewhere(root: Path) -> None:
    fs.replace_symlink("system-1-link", str(root / "nix/var/nix/profiles/system"))


def point_past_generations(root: Path) -> None:
    link = root / "nix/var/nix/profiles/system"
    fs.replace_symlink(os.readlink(link.with_name("system-2-link")), str(link))


def point_at_nothing_valid(root: Path) -> None:
    (root / "nix/var/nix/profiles/system-7-link").symlink_to("/nix/store/00000000000000000000000000000000-x")


def make_writable_file(root: Path) -> None:
    (package(root) / "bin/tally").chmod(0o755)


def touch(root: Path) -> None:
    os.utime(package(root))


def damage_database(root: Path) -> None:
    (root / "nix/var/nix/db/db.sqlite").write_bytes(b"not a database at all" * 400)


BROKEN = [
    (rot, "its files are not what was registered"),
    (lose_files, "is valid, and nothing is there"),
    (lose_row, "the database refers to nothing|is not valid"),
    (lose_profile, "system leads to '', not to"),
    (lose_generation, "system leads to '', not to"),
    (point_elsewhere, "system leads to '/nix/store/.*', not to"),
    (point_past_generations, "by no generation"),
    (point_at_nothing_valid, "system-7-link leads to .*-x, which is not valid"),
    (make_writable_file, "has mode 755"),
    (touch, "has mode 555 and mtime"),
    (damage_database, "the database cannot be read"),
]


def test_a_host_that_is_right_is_found_right(host: tuple[Path, Expected]) -> None:
    root, expected = host
    assert checker.check(root, expected, Outcome.OLD) == []
    assert checker.check(root, expected, Outcome.EITHER) == []
    assert checker.nix_verify(root) == []
    assert checker.nix_collect(root) == []
    assert checker.leftovers(root) == []


@pytest.mark.parametrize(("break_it", "found"), BROKEN, ids=lambda it: getattr(it, "__name__", ""))
def test_what_is_broken_is_found(break_it: Callable[[Path], None], found: str, host: tuple[Path, Expected]) -> None:
    root, expected = host
    break_it(root)
    assert_found(checker.check(root, expected, Outcome.EITHER), found)


def test_what_was_not_done_is_no_success(host: tuple[Path, Expected]) -> None:
    root, expected = host
    violations = checker.check(root, expected, Outcome.NEW)
    assert_found(violations, "system leads to '/nix/store/.*', not to")
    assert_found(violations, "user/alice leads to '/nix/store/.*', not to")
    assert_found(violations, "the history tells 0 times that system became")


def test_a_lock_that_outlives_its_owner_is_found(host: tuple[Path, Expected]) -> None:
    root, expected = host
    with fs.FileLock(str(root / "nix/var/reconciler/lock")):
        violations = checker.check(root, expected, Outcome.OLD)
    assert_found(violations, "nix/var/reconciler/lock is locked, and its owner is dead")
    assert_found(violations, "the host is locked by")


@pytest.mark.parametrize(
    "name", ["nix/var/reconciler/.switching.tmp-17-0123abcd", "run/.0_current-system", "nix/var/nix/profiles/.0_system"]
)
def test_a_temporary_name_that_is_left_is_found(name: str, host: tuple[Path, Expected]) -> None:
    root, _ = host
    (root / name).write_bytes(b"")
    assert checker.leftovers(root) == [f"left over: {name}"]


def test_what_real_nix_finds_is_found(host: tuple[Path, Expected]) -> None:
    root, _ = host
    rot(root)
    assert_found(checker.nix_verify(root), "real Nix: .*was modified")


def assert_found(violations: list[str], pattern: str) -> None:
    assert any(re.search(pattern, one, re.DOTALL) for one in violations), violations
