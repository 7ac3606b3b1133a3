"""The lock: what is pinned stays, what is new is told, and the file reads back as it was written."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.errors import Faults, StoreError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.packages import lock as locks
from reconciler.packages.lock import Lock, LockEntry
from reconciler.packages.resolver import Resolver
from tests.packages.project import SYSTEM, Project

AT, BY = "2026-11-22T18:04Z", "dana@ops01"
HTOP = StorePath.parse(f"/nix/store/{'1' * 32}-htop-3.3.0")
MANUAL = StorePath.parse(f"/nix/store/{'2' * 32}-htop-3.3.0-man")


def entry(reference: str, version: str, **others: object) -> LockEntry:
    return LockEntry(reference, SYSTEM, "recipes", version, AT, BY, **others)  # type: ignore[arg-type]


def lock_of(*entries: LockEntry) -> Lock:
    return Lock().with_entries(entries)


@pytest.fixture
def web(project: Project) -> Project:
    project.recipe("web", "toolchain: host\nversions: {1.24: , 1.24.3: , 1.26: }\n")
    project.recipe("shop", "version: 2.8\ntoolchain: host\ninputs: [web@1]\n")
    return project


def resolver(project: Project, lock: Lock | None = None) -> Resolver:
    return Resolver(project.root, project.inventory, lock)


def test_a_pinned_reference_means_its_version_and_not_the_newest(web: Project) -> None:
    found = resolver(web, lock_of(entry("web", "1.24.3")))
    assert found.resolve("web", SYSTEM).version == "1.24.3"
    assert found.unlocked() == ()


def test_a_reference_that_the_lock_lacks_is_told_with_those_of_its_inputs(web: Project) -> None:
    found = resolver(web, lock_of(entry("web", "1.24")))
    found.resolve("shop", SYSTEM)
    assert [(new.reference, new.version) for new in found.unlocked()] == [("shop", "2.8"), ("web@1", "1.26")]


def test_another_system_has_a_pin_of_its_own(web: Project) -> None:
    found = resolver(web, lock_of(entry("web", "1.24")))
    assert found.resolve("web", "aarch64-linux").version == "1.26"
    assert [new.system for new in found.unlocked()] == ["aarch64-linux"]


def test_a_pin_that_the_recipe_has_no_more_is_an_error_with_the_lines_place(web: Project) -> None:
    path = locks.lock_file(web.inventory)
    locks.save(lock_of(entry("web", "1.22")), path)
    with pytest.raises(UsageError) as error:
        resolver(web, locks.load(path, "reconciler.lock")).resolve("web", SYSTEM)
    assert error.value.message == (
        "reconciler.lock:5:5: web is locked at 1.22, and inventories/test/packages/web.yml has 1.26, 1.24.3, 1.24"
    )
    assert error.value.hint == "reconciler lock --update web"


_WORDS = st.text(string.ascii_letters + string.digits + "._+-@:=?/ '\"#é", min_size=1, max_size=12)


@given(
    st.lists(
        st.builds(
            LockEntry,
            reference=_WORDS,
            system=st.sampled_from([SYSTEM, "aarch64-linux"]),
            set=_WORDS,
            version=_WORDS,
            at=st.just(AT),
            by=_WORDS,
            path=st.sampled_from([None, HTOP]),
            also=st.sampled_from([(), (MANUAL,)]),
            size=st.one_of(st.none(), st.integers(0, 2**40)),
            release=st.sampled_from(["", "25.05.1", "a b"]),
        ),
        max_size=6,
    )
)
def test_a_lock_reads_back_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, entries: list[LockEntry]
) -> None:
    path = tmp_path_factory.mktemp("lock") / locks.FILE
    lock = Lock().with_entries(entries)
    locks.save(lock, path)
    assert locks.load(path, "reconciler.lock") == lock
    assert locks.load(path, "reconciler.lock").serialise() == lock.serialise()


def test_there_is_one_line_for_each_reference_and_system() -> None:
    tail = f"size: 4096, release: 25.05.1, at: {AT}, by: {BY}}}"
    both = entry("nixpkgs:htop", "3.3.0", path=HTOP, also=(MANUAL,), size=4096, release="25.05.1")
    assert lock_of(both, entry("web", "1.26")).serialise().splitlines()[1:] == [
        "format: 1",
        "locked:",
        "  nixpkgs:htop:",
        f"    x86_64-linux: {{set: recipes, version: 3.3.0, path: {HTOP}, also: [{MANUAL}], {tail}",
        "  web:",
        f"    x86_64-linux: {{set: recipes, version: 1.26, at: {AT}, by: {BY}}}",
    ]


def test_no_file_is_an_empty_lock(tmp_path: Path) -> None:
    assert locks.load(tmp_path / locks.FILE, "reconciler.lock") == Lock()


LINE = f"set: recipes, version: 1, at: {AT}, by: x"
WRONG = {
    "format: 2\nlocked: {}\n": "reconciler.lock:1:9: the lock has format 2, which is newer than this program",
    "locked: {}\n": "reconciler.lock:1:1: the lock does not say its format",
    "[]\n": "reconciler.lock:1:1: a lock is a mapping",
    "format: 1\nlocked: []\n": "reconciler.lock:2:9: 'locked' is not a mapping",
    "format: 1\nlockd: {}\n": "reconciler.lock:2:1: unknown key 'lockd'",
    "format: 1\nlocked: {web: {x: {set: recipes}}}\n": "reconciler.lock:2:19: 'version' is missing",
    f"format: 1\nlocked: {{web: {{x: {{{LINE}, pth: y}}}}}}\n": "unknown key 'pth'",
    f"format: 1\nlocked: {{web: {{x: {{{LINE}, path: /usr}}}}}}\n": "'/usr' is no store path",
    f"format: 1\nlocked: {{web: {{x: {{{LINE}, size: -1}}}}}}\n": "'-1' is not a number of bytes",
    "format: 1\nlocked: {web: {x: {set: a, version: 1, at: yesterday, by: x}}}\n": "'yesterday' is not a time",
    "format: 1\nlocked: {web: {}, web: {}}\n": "'web'",
    f"format: 1\nlocked: {{web: {{x86-linux: {{{LINE}}}}}}}\n": "reconciler.lock:2:16: 'x86-linux' is not a system",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_lock_that_is_wrong_is_refused_with_the_place(tmp_path: Path, text: str) -> None:
    path = tmp_path / locks.FILE
    path.write_text(text)
    with pytest.raises((UsageError, Faults)) as error:
        locks.load(path, "reconciler.lock")
    assert WRONG[text] in str(error.value)
    assert str(error.value).startswith("reconciler.lock:")


def test_a_lock_that_cannot_be_written_is_told_and_the_old_one_stays(tmp_path: Path) -> None:
    path = tmp_path / "gone" / locks.FILE
    with pytest.raises(StoreError, match="the lock cannot be written"):
        locks.save(lock_of(entry("web", "1")), path)
