"""Deleting generations: what nix-env would delete, by running both; and what a retention lets go."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from reconciler.core.errors import ReconcilerError, RefusedError, UsageError
from reconciler.core.profile import prune
from reconciler.core.profile.generations import Generation, Profile, Recorded
from reconciler.core.profile.prune import DAY, Form, Needed, Retention
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.profile.packages import package
from tests.oracle import RealNix


@dataclass(frozen=True)
class Case:
    """`ages`: each generation link, by what stands behind `p-`, with its age in days; `current`: what the profile
    leads to; `words`: what is asked to go."""

    ages: dict[str, float]
    current: str
    words: tuple[str, ...]


def daily(*numbers: int) -> dict[str, float]:
    """One generation a day, the highest made half a day ago."""
    return {f"{number}-link": max(numbers) - number + 0.5 for number in numbers}


SIX = daily(1, 2, 3, 4, 5, 6)

CASES = {
    "old: all but the current one, newer ones too": Case(SIX, "4-link", ("old",)),
    "old: nothing when there is one": Case(daily(1), "1-link", ("old",)),
    "numbers: those that are there": Case(SIX, "4-link", ("1", "3", "6", "99")),
    "numbers: with the current one among them, nothing": Case(SIX, "4-link", ("1", "4")),
    "numbers: a plus sign among several is read as one": Case(SIX, "4-link", ("+1", "2")),
    "numbers: what is none": Case(SIX, "4-link", ("1", "x")),
    "numbers: a negative one": Case(SIX, "4-link", ("1", "-2")),
    "numbers: `old` beside others is none": Case(SIX, "4-link", ("old", "1")),
    "+1: older than the current one, never newer": Case(SIX, "4-link", ("+1",)),
    "+2: the current and the one before it stay": Case(SIX, "4-link", ("+2",)),
    "+2: gaps do not count": Case(daily(1, 2, 5, 9), "9-link", ("+2",)),
    "+9: more than there are": Case(SIX, "4-link", ("+9",)),
    "+0 is refused": Case(SIX, "4-link", ("+0",)),
    "+ is refused": Case(SIX, "4-link", ("+",)),
    "+x is refused": Case(SIX, "4-link", ("+x",)),
    "2+ is refused": Case(SIX, "4-link", ("2+",)),
    "1d: the first that is older stays, it was active then": Case(SIX, "6-link", ("1d",)),
    "2d: the current one stays, however old": Case(SIX, "1-link", ("2d",)),
    "1d: newer than the current one go too": Case(SIX, "2-link", ("1d",)),
    "9d: nothing is that old": Case(SIX, "6-link", ("9d",)),
    "0d is refused": Case(SIX, "6-link", ("0d",)),
    "d is refused": Case(SIX, "6-link", ("d",)),
    "1d2 is refused": Case(SIX, "6-link", ("1d2",)),
    "-1d is refused": Case(SIX, "6-link", ("-1d",)),
    "99999999999d is refused": Case(SIX, "6-link", ("99999999999d",)),
}


@dataclass(frozen=True)
class Stored:
    store: Store
    nix: RealNix
    path: str


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stored]:
    root = tmp_path_factory.mktemp("prune") / "root"
    root.mkdir()
    with Store.open(str(root), create=True) as store:
        yield Stored(store, RealNix(root), str(package(store, "a-1.0")))
    make_writable(root)


def lay_out(directory: Path, ages: dict[str, float], current: str, path: str, now: float) -> Path:
    directory.mkdir()
    for name, age in ages.items():
        link = directory / f"p-{name}"
        link.symlink_to(path)
        os.utime(link, (now, now - age * DAY), follow_symlinks=False)
    if current:
        (directory / "p").symlink_to(f"p-{current}")
    return directory / "p"


def ours(link: Path, words: tuple[str, ...], dry_run: bool = False) -> list[int] | None:
    """The numbers that went, or None when it was refused."""
    try:
        with Profile(str(link), None).open() as opened:
            return [one.number for one in prune.delete(opened, Form.parse(words), dry_run=dry_run)]
    except ReconcilerError:
        return None


@pytest.mark.nix
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_same_words_delete_what_they_delete_with_nix(case: Case, stored: Stored, tmp_path: Path) -> None:
    now = time.time()
    mine, theirs = (lay_out(tmp_path / n, case.ages, case.current, stored.path, now) for n in ("ours", "theirs"))
    before = sorted(os.listdir(mine.parent))
    words = ["--", *case.words] if case.words[0].startswith("-") else list(case.words)
    said = stored.nix.run("nix-env", "-p", theirs, "--dry-run", "--delete-generations", *words, check=False)
    dry = ours(mine, case.words, dry_run=True)
    assert sorted(os.listdir(mine.parent)) == before
    told = [int(line.split()[-1]) for line in said.stderr.decode().splitlines() if "would remove" in line]
    assert (dry is None, sorted(dry or [])) == (said.returncode != 0, sorted(told)), said.stderr

    done = stored.nix.run("nix-env", "-p", theirs, "--delete-generations", *words, check=False)
    assert ours(mine, case.words) == dry
    assert (dry is None) == (done.returncode != 0)
    assert sorted(os.listdir(mine.parent)) == sorted(os.listdir(theirs.parent))


@pytest.mark.parametrize("words", [("old",), ("1",), ("+1",), ("1d",)])
def test_without_a_current_generation_nothing_is_deleted_unlike_with_nix(
    words: tuple[str, ...], stored: Stored, tmp_path: Path
) -> None:
    for current in ("", "9-link"):
        link = lay_out(tmp_path / f"p{current}", SIX, current, stored.path, time.time())
        with Profile(str(link), None).open() as opened, pytest.raises(RefusedError, match="no generation is the curr"):
            prune.delete(opened, Form.parse(words))
        assert len(Profile(str(link), None).list()) == 6


def test_a_link_with_an_odd_name_counts_and_stays(stored: Stored, tmp_path: Path) -> None:
    link = lay_out(tmp_path / "p", {**SIX, "3-link.bak": 9.0}, "6-link", stored.path, time.time())
    assert ours(link, ("old",)) == [1, 2, 3, 4, 5]
    assert sorted(os.listdir(link.parent)) == ["p", "p-3-link.bak", "p-6-link"]


@pytest.mark.parametrize("words", [(), ("1", "x"), ("+0",), ("0d",), ("d",)])
def test_what_is_no_form_is_named(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError) as raised:
        Form.parse(words)
    assert raised.value.hint == "old, numbers, +N or Nd"
    assert not words or f"'{words[-1]}'" in raised.value.message


# --- retention --------------------------------------------------------------------------------------------------------

NOW = 1_000_000_000.0


def made(ages: dict[int, float], current: int) -> list[Generation]:
    """Generations by number with their ages in days; each leads to a path of its own."""
    return [
        Generation(number, f"/nix/store/{number}", NOW - age * DAY, number == current, f"p-{number}-link")
        for number, age in sorted(ages.items())
    ]


DAYS = {number: 6.5 - number for number in range(1, 7)}  # the highest is half a day old

RETENTIONS = {
    "nothing said keeps everything": (Retention(), 6, Needed(), []),
    "the newest two stay": (Retention(generations=2), 6, Needed(), [1, 2, 3, 4]),
    "the current one stays, wherever it is": (Retention(generations=2), 3, Needed(), [1, 2, 4]),
    "what was active within a day stays": (Retention(days=1), 6, Needed(), [1, 2, 3, 4]),
    "neither newest nor active": (Retention(1, 3), 6, Needed(), [1, 2]),
    "newest, though not active": (Retention(5, 1), 6, Needed(), [1]),
    "what runs, was booted or is staged stays": (
        Retention(generations=1),
        6,
        Needed({"/nix/store/2": "runs", "/nix/store/4": "was booted"}),
        [1, 3, 5],
    ),
    "what a rollback goes back to stays": (
        Retention(generations=1),
        6,
        Needed(generations={Recorded(5, "/nix/store/5"): "is gone back to"}),
        [1, 2, 3, 4],
    ),
    "a number that now leads elsewhere is another generation": (
        Retention(generations=1),
        6,
        Needed(generations={Recorded(5, "/nix/store/old"): "is gone back to"}),
        [1, 2, 3, 4, 5],
    ),
    "an old one that was gone back to lately was active": (
        Retention(days=1),
        6,
        Needed(used=((Recorded(2, "/nix/store/2"), NOW - 0.7 * DAY), (Recorded(1, "/nix/store/1"), NOW - 3 * DAY))),
        [1, 3, 4],
    ),
    "without a current one nothing goes": (Retention(generations=1), 0, Needed(), []),
}


@pytest.mark.parametrize(("retention", "current", "needed", "numbers"), RETENTIONS.values(), ids=RETENTIONS.keys())
def test_only_what_need_not_be_kept_goes(
    retention: Retention, current: int, needed: Needed, numbers: list[int]
) -> None:
    going = prune.superfluous(made(DAYS, current), retention, needed, NOW)
    assert [one.number for one in going] == numbers


def test_a_generation_that_is_younger_than_its_number_says_is_not_old() -> None:
    ages = {1: 9.0, 2: 0.1, 3: 8.0, 4: 7.0, 5: 0.5}
    assert [one.number for one in prune.superfluous(made(ages, 5), Retention(days=2), Needed(), NOW)] == [1, 3]


@pytest.mark.parametrize("numbers", [(0, None), (None, 0), (-1, 5)])
def test_a_retention_keeps_at_least_one(numbers: tuple[int | None, int | None]) -> None:
    with pytest.raises(ValueError, match="keeps nothing"):
        Retention(*numbers)


NEEDED = Needed({"/nix/store/2": "was booted"}, {Recorded(3, "/nix/store/3"): "is gone back to"})

FORMS = {
    "old: what is needed stays, and is named": (
        "old",
        [1, 5, 6],
        ("2 stays: it was booted", "3 stays: it is gone back to"),
    ),
    "+1: the same": ("+1", [1], ("2 stays: it was booted", "3 stays: it is gone back to")),
    "2d: the same": ("2d", [1], ("2 stays: it was booted", "3 stays: it is gone back to")),
    "numbers: what could be gone back to goes, and what is not there is named": (
        "1 3 9",
        [1, 3],
        ("3: it is gone back to", "there is no generation 9"),
    ),
}


@pytest.mark.parametrize(("words", "numbers", "notes"), FORMS.values(), ids=FORMS.keys())
def test_what_is_asked_to_go_stays_where_it_is_needed(words: str, numbers: list[int], notes: tuple[str, ...]) -> None:
    form = Form.parse(words.split())
    assert Form.parse(form.words) == form
    going, said = prune.asked(made(DAYS, 4), form, NEEDED, NOW)
    assert ([one.number for one in going], said) == (numbers, notes)


@pytest.mark.parametrize(("words", "said"), [("1 2", "generation 2: it was booted"), ("4", "4 is the current one")])
def test_the_number_of_what_runs_is_refused(words: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        prune.asked(made(DAYS, 4), Form.parse(words.split()), NEEDED, NOW)


def test_what_has_become_needed_meanwhile_is_not_removed(stored: Stored, tmp_path: Path) -> None:
    link = lay_out(tmp_path / "p", SIX, "6-link", stored.path, time.time())
    other = "/nix/store/" + "b" * 32 + "-b"
    for number in (2, 3):
        (link.parent / f"p-{number}-link").unlink()
        (link.parent / f"p-{number}-link").symlink_to(other)
    wanted = [Recorded(n, stored.path) for n in (1, 2, 5, 6, 9)] + [Recorded(3, other)]
    with Profile(str(link), None).open() as opened:
        gone = prune.remove(opened, wanted, keep=[other])
    assert [one.number for one in gone] == [1, 5]
    assert [one.number for one in Profile(str(link), None).list()] == [2, 3, 4, 6]
