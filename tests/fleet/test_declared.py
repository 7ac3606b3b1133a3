"""A collision is told with its user and its lines, whether it was found here or came from a host."""

from __future__ import annotations

import pytest

from reconciler.core.errors import BuildError, ExitStatus
from reconciler.core.profile.environment import CollisionError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.declared import Declared, located
from reconciler.inventory.desired import Origin, PackageEntry, Position
from reconciler.packages.model import Package
from tests.fleet.values import path

ALICE, SYSTEM = ProfileId("alice"), ProfileId.SYSTEM


def package(name: str, version: str, place: str, priority: int = 5) -> Declared:
    file, _, line = place.partition(":")
    reference = f"{name}@{version.partition('.')[0]}"
    origin = Origin(Position(file, int(line), 5), "host lt-alice", reference)
    made = Package(name, version, path(f"{name}-{version}"), path(f"{name}-{version}.drv"))
    return Declared(PackageEntry(name, reference, origin, priority), made)


GCC = package("gcc", "13.2", "people/alice.yml:3")
CLANG = package("clang", "18.1", "people/alice.yml:4")
TREE = package("tree", "2.1", "people/alice.yml:2")
FAR = package("clang", "18.1", "bundles/dev.yml:7")


def collision(one: Declared, other: Declared, priority: int | None = 5) -> CollisionError:
    return CollisionError("bin/cc", one.package.output, other.package.output, priority)


@pytest.mark.parametrize("order", [(GCC, CLANG), (CLANG, GCC)])
def test_two_packages_with_one_file_are_told_with_the_user_the_lines_and_the_way_out(
    order: tuple[Declared, Declared],
) -> None:
    error = located(collision(*order), ALICE, (TREE, GCC, CLANG))
    assert error is not None
    assert error.message == (
        "two packages of user alice own bin/cc: gcc 13.2 and clang 18.1 (people/alice.yml:3, :4)\nequal priority 5"
    )
    assert error.hint == "- gcc@13: {priority: 4}      lower wins; both stay installed"
    assert error.status is ExitStatus.USAGE


def test_what_a_host_reported_is_told_alike() -> None:
    found = collision(GCC, CLANG)
    assert str(located(BuildError(found.message, found.hint), ALICE, (GCC, CLANG))) == str(
        located(found, ALICE, (GCC, CLANG))
    )


def test_lines_of_two_files_are_both_named_and_the_system_is_called_so() -> None:
    error = located(collision(GCC, FAR), SYSTEM, (FAR, GCC))
    assert error is not None
    assert error.message.startswith(
        "two packages of the system own bin/cc: clang 18.1 and gcc 13.2 (bundles/dev.yml:7, people/alice.yml:3)"
    )


def test_the_priority_to_write_is_below_the_one_that_is_written() -> None:
    strong = package("gcc", "13.2", "people/alice.yml:3", priority=2)
    error = located(collision(strong, CLANG, 2), ALICE, (strong, CLANG))
    assert error is not None
    assert error.hint == "- gcc@13: {priority: 1}      lower wins; both stay installed"


def test_a_file_against_a_directory_has_no_priority_to_write() -> None:
    error = located(collision(GCC, CLANG, None), ALICE, (GCC, CLANG))
    assert error is not None
    assert error.message == (
        "two packages of user alice own bin/cc, one as a file and one as a directory: gcc 13.2 and clang 18.1"
        " (people/alice.yml:3, :4)"
    )
    assert error.hint == "leave one of them out: no priority joins a file and a directory"


@pytest.mark.parametrize("error", [collision(GCC, CLANG), BuildError("hello-2.10 could not be built"), BuildError("")])
def test_what_is_not_between_two_packages_of_the_profile_is_left_as_it_is(error: BuildError) -> None:
    assert located(error, ALICE, (TREE, GCC)) is None
