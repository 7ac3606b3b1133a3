"""Generations: the same numbers as Nix gives, in every odd case, by running both."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core import fs
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import generations as module
from reconciler.core.profile.generations import Generations, Profile, Recorded, generation_number
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.profile.packages import package
from tests.oracle import RealNix


@dataclass(frozen=True)
class Case:
    """`links`: generation links by what stands for their number (`7`, `99-linkfoo` is written whole), each with the
    letter of what it leads to; `profile`: which of them the profile points at; `steps`: what is done, in order."""

    links: dict[str, str]
    profile: str
    steps: tuple[tuple[str, str], ...]


def numbered(letters: dict[int, str]) -> dict[str, str]:
    return {f"{number}-link": letter for number, letter in letters.items()}


# The puzzle: generations 1 to 19, 15 deleted, the current one 10; `a` and `b` in turn, 10 is b, 19 is a.
PUZZLE = numbered({number: "ab"[number % 2 == 0] for number in range(1, 20) if number != 15})

CASES = {
    "the first generation is 1": Case({}, "", (("set", "a"),)),
    "installing something new, from 10 with 15 deleted, gives 20": Case(PUZZLE, "10-link", (("set", "c"),)),
    "installing what the highest holds gives no new generation": Case(PUZZLE, "10-link", (("set", "a"),)),
    "installing what the current one holds gives 20 all the same": Case(PUZZLE, "10-link", (("set", "b"),)),
    "with 19 deleted the next one is 19": Case(
        {name: to for name, to in PUZZLE.items() if name != "19-link"}, "10-link", (("set", "c"),)
    ),
    "a rollback goes over the gap": Case(PUZZLE, "16-link", (("rollback", ""),)),
    "rollback, then install, then rollback is not the way back": Case(
        PUZZLE, "18-link", (("switch", "10"), ("set", "c"), ("rollback", ""), ("rollback", ""))
    ),
    "a rollback of the oldest changes nothing": Case(numbered({3: "a", 4: "b"}), "3-link", (("rollback", ""),)),
    "a rollback without a profile changes nothing": Case(numbered({3: "a"}), "", (("rollback", ""),)),
    "a switch to a missing number changes nothing": Case(PUZZLE, "10-link", (("switch", "15"),)),
    "a switch forward is one too": Case(PUZZLE, "10-link", (("switch", "19"), ("switch", "1"))),
    "an odd name counts for its number": Case(
        {**numbered({1: "a"}), "99-linkfoo": "b", "100-link.bak": "c"}, "1-link", (("set", "a"),)
    ),
    "an odd name that is the highest is used again": Case(
        {**numbered({1: "a"}), "99-linkfoo": "b"}, "1-link", (("set", "b"), ("rollback", ""), ("set", "b"))
    ),
    "zeroes in front do not matter": Case({**numbered({1: "a"}), "007-link": "b"}, "1-link", (("set", "c"),)),
    "what is no unsigned number does not count": Case(
        {**numbered({1: "a"}), "7x-link": "b", "-5-link": "b", "x-link": "b", "8": "b", " 9-link": "b", "9 -link": "b"},
        "1-link",
        (("set", "c"),),
    ),
    "a plus sign is read as one": Case({**numbered({1: "a"}), "+5-link": "b"}, "1-link", (("set", "c"),)),
    "no digits are no number": Case({**numbered({1: "a"}), "-link": "b", "+-link": "b"}, "1-link", (("set", "c"),)),
    "numbers end at 2^32 - 1": Case(
        {**numbered({1: "a"}), "4294967296-link": "b", "99999999999999999999-link": "b"}, "1-link", (("set", "c"),)
    ),
    "a generation 0 can be rolled back to": Case(numbered({0: "a", 1: "b"}), "1-link", (("rollback", ""),)),
    "another profile's generations do not count": Case(
        {**numbered({1: "a"}), "other-50-link": "b"}, "1-link", (("set", "c"),)
    ),
    "a profile that points at a deleted generation goes on from the highest": Case(
        numbered({1: "a", 2: "b"}), "3-link", (("set", "c"), ("rollback", ""))
    ),
    "from below the lowest there is no way back": Case(numbered({2: "a", 3: "b"}), "1-link", (("rollback", ""),)),
    "setting the same twice gives one generation": Case(
        {}, "", (("set", "a"), ("set", "a"), ("set", "b"), ("set", "a"))
    ),
}


@dataclass(frozen=True)
class Stored:
    root: Path
    store: Store
    nix: RealNix
    letters: dict[str, StorePath]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    root = tmp_path_factory.mktemp("generations") / "root"
    root.mkdir()
    with Store.open(str(root), create=True) as store:
        yield Stored(root, store, RealNix(root), {letter: package(store, f"{letter}-1.0") for letter in "abc"})
    make_writable(root)


def lay_out(directory: Path, case: Case, letters: dict[str, StorePath]) -> Path:
    directory.mkdir()
    for name, letter in case.links.items():
        (directory / (name if name.startswith("other") else f"p-{name}")).symlink_to(str(letters[letter]))
    if case.profile:
        (directory / "p").symlink_to(f"p-{case.profile}")
    return directory / "p"


def links(directory: Path) -> dict[str, str]:
    """Every entry and where it leads; anything but links is there with its mode."""
    return {
        entry.name: os.readlink(entry) if entry.is_symlink() else oct(entry.stat().st_mode)
        for entry in directory.iterdir()
    }


def nix_step(stored: Stored, link: Path, step: tuple[str, str]) -> bool:
    what, argument = step
    arguments = {"set": ["--set", str(stored.letters.get(argument))], "switch": ["-G", argument]}.get(
        what, ["--rollback"]
    )
    return stored.nix.run("nix-env", "-p", link, *arguments, check=False).returncode == 0


def our_step(stored: Stored, link: Path, step: tuple[str, str]) -> bool:
    profile = Profile(str(link), stored.store)
    what, argument = step
    try:
        if what == "set":
            number, _ = profile.record(str(stored.letters[argument]))
            profile.switch(number)
        else:
            profile.switch(int(argument) if what == "switch" else profile.rollback_target().number)
    except StoreError:
        return False
    return True


@pytest.mark.nix
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_same_steps_leave_the_same_links_as_with_nix(case: Case, stored: Stored, tmp_path: Path) -> None:
    ours = lay_out(tmp_path / "ours", case, stored.letters)
    theirs = lay_out(tmp_path / "theirs", case, stored.letters)
    for step in case.steps:
        assert our_step(stored, ours, step) == nix_step(stored, theirs, step), step
        assert links(ours.parent) == links(theirs.parent), step
        listed = stored.nix.output("nix-env", "-p", theirs, "--list-generations").splitlines()
        mine = [f"{one.number}{' (current)' if one.current else ''}" for one in Profile(str(ours), None).list()]
        assert [" ".join([line.split()[0], *line.split()[3:]]) for line in listed] == mine, step


PUZZLE_ANSWERS = {"c": (20, True), "a": (19, False), "b": (20, True)}


@pytest.mark.parametrize("letter", PUZZLE_ANSWERS)
def test_the_puzzle_has_the_answers_that_are_written_down(letter: str, stored: Stored, tmp_path: Path) -> None:
    link = lay_out(tmp_path / "p", Case(PUZZLE, "10-link", ()), stored.letters)
    assert Profile(str(link), None).record(str(stored.letters[letter])) == PUZZLE_ANSWERS[letter]


@pytest.mark.nix
def test_the_store_of_these_tests_is_whole_by_nix(stored: Stored) -> None:
    stored.nix.verify()


NAMES = [
    ("p", "p-7-link", 7),
    ("p", "p-007-link", 7),
    ("p", "p-7-link.bak", 7),
    ("p", "p-7-linkfoo", 7),
    ("p", "p-7-link-link", 7),
    ("p", "p-+7-link", 7),
    ("p", "p-0-link", 0),
    ("p", "p-4294967295-link", 4294967295),
    ("p", "p-4294967296-link", None),
    ("p", "p--7-link", None),
    ("p", "p-7x-link", None),
    ("p", "p-7", None),
    ("p", "p-link", None),
    ("p", "p--link", None),
    ("p", "p-٣-link", None),
    ("p", "q-7-link", None),
    ("p", "pp-7-link", None),
    ("p-1", "p-1-7-link", 7),
]


@pytest.mark.parametrize(("profile", "name", "number"), NAMES)
def test_a_name_has_the_number_that_nix_reads(profile: str, name: str, number: int | None) -> None:
    assert generation_number(profile, name) == number


# --- reading ----------------------------------------------------------------------------------------------------------

A = "/nix/store/" + "a" * 32 + "-a"
B = "/nix/store/" + "b" * 32 + "-b"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "profiles").mkdir()
    fd = os.open(tmp_path / "profiles", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


@pytest.fixture
def profile(directory: int, tmp_path: Path) -> Generations:
    return Generations(directory, "p", str(tmp_path / "profiles" / "p"))


def test_a_missing_profile_has_no_current_generation(profile: Generations) -> None:
    assert (profile.current(), profile.list(), profile.highest(), profile.raw_target()) == (None, [], 0, None)


def test_a_profile_in_a_missing_directory_is_no_profile(tmp_path: Path) -> None:
    missing = Profile(str(tmp_path / "none" / "p"), None)
    assert (missing.current(), missing.list(), missing.highest()) == (None, [], 0)


def test_the_current_generation_has_its_number_and_its_path(profile: Generations) -> None:
    profile.record(A)
    profile.record(B)
    profile.switch(1)
    assert profile.current() == Recorded(1, A)
    assert [(one.number, one.path, one.current) for one in profile.list()] == [(1, A, True), (2, B, False)]


def test_the_current_generation_is_known_by_an_absolute_link_too(profile: Generations, tmp_path: Path) -> None:
    profile.record(A)
    profile.point_at(str(tmp_path / "profiles" / "p-1-link"))
    assert profile.current() == Recorded(1, A)


def test_a_profile_that_leads_straight_into_the_store_has_number_0(profile: Generations) -> None:
    profile.point_at(A)
    assert profile.current() == Recorded(0, A)


def test_a_profile_whose_generation_is_gone_has_an_empty_path(profile: Generations) -> None:
    profile.point_at("p-4-link")
    assert profile.current() == Recorded(4, "")


def test_a_profile_that_is_a_directory_is_an_error_and_stays(profile: Generations, tmp_path: Path) -> None:
    (tmp_path / "profiles" / "p").mkdir()
    with pytest.raises(StoreError, match="profiles/p is not a link"):
        profile.current()


def test_a_highest_generation_that_is_no_link_is_refused(profile: Generations, tmp_path: Path) -> None:
    (tmp_path / "profiles" / "p-3-link").write_text("")
    with pytest.raises(StoreError, match="p-3-link is not a link"):
        profile.record(A)


def test_a_generation_is_found_by_number_and_path_together(profile: Generations) -> None:
    profile.record(A)
    found = profile.find(1, A)
    assert found is not None
    assert found.recorded == Recorded(1, A)
    assert profile.find(1, B) is None
    assert profile.find(2, A) is None


def test_taking_the_profile_away_keeps_its_generations(profile: Generations, tmp_path: Path) -> None:
    profile.record(A)
    profile.switch(1)
    profile.remove_link()
    assert links(tmp_path / "profiles") == {"p-1-link": A}
    profile.remove_link()


# --- switching is atomic ----------------------------------------------------------------------------------------------


def test_a_switch_makes_a_link_beside_the_profile_and_renames_it(
    profile: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile.record(A)
    profile.switch(1)
    profile.record(B)
    renamed = []
    real = os.rename

    def rename(source: str, target: str, **where: int) -> None:
        renamed.append((source, target))
        real(source, target, **where)

    monkeypatch.setattr(os, "rename", rename)
    profile.switch(2)
    assert renamed == [(".0_p", "p")]


def test_the_temporary_link_of_a_switch_that_was_killed_goes_with_the_next_one(
    profile: Generations, tmp_path: Path
) -> None:
    (tmp_path / "profiles" / ".0_p").symlink_to("left over")
    (tmp_path / "profiles" / ".0_other").symlink_to("another profile's")
    profile.record(A)
    profile.switch(1)
    assert links(tmp_path / "profiles") == {".0_other": "another profile's", "p": "p-1-link", "p-1-link": A}


def test_a_switch_that_fails_leaves_the_old_generation_and_nothing_else(
    profile: Generations, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile.record(A)
    profile.switch(1)
    profile.record(B)

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(OSError, match="Input/output"):
        profile.switch(2)
    assert links(tmp_path / "profiles") == {"p": "p-1-link", "p-1-link": A, "p-2-link": B}


# --- the lock ---------------------------------------------------------------------------------------------------------


def test_the_lock_is_gone_after_use(profile: Generations, tmp_path: Path) -> None:
    with profile.locked():
        assert (tmp_path / "profiles" / "p.lock").stat().st_mode & 0o777 == 0o600
    assert links(tmp_path / "profiles") == {}


def test_a_lock_that_another_process_keeps_is_told(profile: Generations, tmp_path: Path) -> None:
    with fs.FileLock(str(tmp_path / "profiles" / "p.lock")):
        said = "profiles/p is locked by another process, such as nix-env"
        with pytest.raises(RefusedError, match=said), profile.locked(patience=0.05):
            pass
    with profile.locked(patience=0.05):
        pass


def test_a_lock_file_that_is_marked_stale_is_not_taken_for_the_lock(profile: Generations, tmp_path: Path) -> None:
    # What a process sees that opened the file just before its owner unlinked and marked it.
    lock = tmp_path / "profiles" / "p.lock"
    lock.write_bytes(b"d")
    with pytest.raises(RefusedError), profile.locked(patience=0.05):
        pass
    lock.unlink()
    with profile.locked(patience=0.05):
        pass


@pytest.mark.nix
def test_nix_waits_for_our_lock(stored: Stored, tmp_path: Path) -> None:
    link = lay_out(tmp_path / "p", Case(PUZZLE, "10-link", ()), stored.letters)
    command = ["nix-env", "--store", str(stored.root), "-p", str(link), "--rollback"]
    with Profile(str(link), None).lock():
        waiting = subprocess.Popen(command, env=stored.nix.environment, stderr=subprocess.PIPE)
        assert waiting.stderr is not None
        assert b"waiting for lock" in waiting.stderr.readline()
        assert os.readlink(link) == "p-10-link"
    assert waiting.wait(20) == 0
    waiting.stderr.close()
    assert os.readlink(link) == "p-9-link"


def test_two_processes_that_record_at_once_never_share_a_number(tmp_path: Path) -> None:
    code = """
import sys
from reconciler.core.profile.generations import Profile
profile = Profile(sys.argv[1], None)
for n in range(20):
    with profile.open() as opened, opened.locked():
        number, created = opened.record("/nix/store/" + "0" * 32 + "-" + sys.argv[2] + str(n))
        assert created
        opened.switch(number)
"""
    link = tmp_path / "p"
    running = [subprocess.Popen([sys.executable, "-c", code, str(link), who]) for who in "xy"]
    assert [process.wait(60) for process in running] == [0, 0]
    assert [one.number for one in Profile(str(link), None).list()] == list(range(1, 41))


# --- roots ------------------------------------------------------------------------------------------------------------


@pytest.mark.nix
def test_a_generation_anywhere_is_a_root_for_nix(stored: Stored, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "p"
    kept = package(stored.store, "kept-1.0")
    Profile(str(link), stored.store).record(str(kept))
    roots = stored.nix.output("nix-store", "-q", "--roots", str(kept))
    assert f"{link}-1-link" in roots


def test_a_generation_among_the_profiles_needs_no_root_of_its_own(stored: Stored) -> None:
    link = f"{stored.store.state_dir}/profiles/test"
    auto = Path(stored.store.state_dir, "gcroots/auto")
    before = sorted(auto.iterdir())
    Profile(link, stored.store).record(str(stored.letters["a"]))
    assert sorted(auto.iterdir()) == before
    assert not module.needs_own_root("/nix/var/nix/profiles/per-user/alice/profile-1-link", "/nix/var/nix")
    assert module.needs_own_root("/home/alice/.local/state/nix/profiles/profile-1-link", "/nix/var/nix")
    assert module.needs_own_root("/nix/var/nix/profiles-not/p-1-link", "/nix/var/nix")
