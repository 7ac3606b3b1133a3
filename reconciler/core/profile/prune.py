"""Deleting generations: by the forms that nix-env has, and by what shall be kept.

    old           all but the current one, those newer than it too
    7 12          these; numbers that there are not are passed over, the current one is an error
    +N            the current one and the N-1 before it are kept, older ones go; newer ones always stay
    Nd            those go that have not been active for N days: going down from the highest, the first one that is
                  older than that was still active then, and stays; what is below it goes

Rules: nix src/libstore/profiles.cc. Unlike there, a profile without a current generation is an error in every form
(Nix would delete all of them), and a link with an odd name (`p-7-link.bak`) counts, but is never deleted.
"""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from reconciler.core.errors import RefusedError, UsageError
from reconciler.core.profile.generations import Generation, Generations, Recorded
from reconciler.core.values import field, value

DAY = 24 * 3600
_COUNT = re.compile(r"\+?[0-9]+", re.ASCII)
_MOST_DAYS = 2**31 - 1
_FORMS = "old, numbers, +N or Nd"


@value
class Form:
    """One way to say what goes. `kind`: `old`, `these` (with `numbers`), `beyond` (more than `amount` from the current
    one down), `days` (not active for `amount` days)."""

    kind: str
    amount: int = 0
    numbers: tuple[int, ...] = ()

    @classmethod
    def parse(cls, words: Sequence[str]) -> Form:
        """What nix-env would read; UsageError for what it would refuse, and for no words at all."""
        if len(words) == 1:
            (word,) = words
            if word == "old":
                return cls("old")
            if "d" in word:
                return cls("days", _amount(word[:-1] if word.endswith("d") else "", word, "days", _MOST_DAYS))
            if "+" in word:
                return cls("beyond", _amount(word[1:], word, "generations"))
        if not words:
            raise UsageError("no generations are named", _FORMS)
        for word in words:
            if not _COUNT.fullmatch(word):
                raise UsageError(f"'{word}' is not the number of a generation", _FORMS)
        return cls("these", numbers=tuple(sorted({int(word) for word in words})))

    @property
    def by_number(self) -> bool:
        """Whether single generations are named."""
        return self.kind == "these"

    @property
    def words(self) -> tuple[str, ...]:
        """What `parse` reads as this form."""
        if self.kind == "these":
            return tuple(map(str, self.numbers))
        return ({"old": "old", "beyond": f"+{self.amount}", "days": f"{self.amount}d"}[self.kind],)


def _amount(digits: str, word: str, what: str, most: int = 2**32 - 1) -> int:
    if not _COUNT.fullmatch(digits) or not 1 <= int(digits) <= most:
        raise UsageError(f"'{word}' is not a number of {what}", _FORMS)
    return int(digits)


@value
class Retention:
    """What is kept of a profile: the newest `generations`, and whatever was active within the last `days`; None where
    nothing is said of it. With neither, everything is kept."""

    generations: int | None = None
    days: int | None = None

    def __post_init__(self) -> None:
        for number in (self.generations, self.days):
            if number is not None and number < 1:
                raise ValueError("a retention of less than 1 keeps nothing")

    @property
    def keeps_everything(self) -> bool:
        return self.generations is None and self.days is None


@value
class Needed:
    """What stays whatever a retention says. `paths`: what runs, was booted, or is staged. `generations`: recorded ones
    that are still to be gone back to. Each says why, so that "it ..." is a sentence. `used`: the moments at which a
    generation is known to have been current."""

    paths: Mapping[str, str] = field(default_factory=dict)
    generations: Mapping[Recorded, str] = field(default_factory=dict)
    used: tuple[tuple[Recorded, float], ...] = field(default=())

    def why(self, one: Generation) -> str:
        """Why a generation stays; empty for one that need not."""
        return self.paths.get(one.path) or self.generations.get(one.recorded, "")


def chosen(generations: Sequence[Generation], form: Form, now: float) -> list[Generation]:
    """What a form means, of the generations of one profile, lowest number first. RefusedError when none of them is
    the current one, or when that is asked to go."""
    current = next((one.number for one in generations if one.current), None)
    if current is None:
        raise RefusedError("no generation is the current one, so none is deleted", "switch to one first")
    if form.by_number:
        if current in form.numbers:
            raise RefusedError(f"generation {current} is the current one", "switch to another one, or leave it out")
        return [one for one in generations if one.number in form.numbers]
    if form.kind == "old":
        return [one for one in generations if one.number != current]
    descending = list(reversed(generations))
    if form.kind == "beyond":
        # As many links as stand at the current number count once, as they do in Nix: each is passed and counted.
        below = [one for one in descending if one.number < current]
        here = sum(one.number == current for one in generations)
        return list(reversed(below[max(0, form.amount - here) :]))
    since = now - form.amount * DAY
    inactive = _inactive(descending, since)
    return [one for one in generations if one in inactive and one.number != current]


def asked(
    generations: Sequence[Generation], form: Form, needed: Needed, now: float
) -> tuple[list[Generation], tuple[str, ...]]:
    """What may go of what a form means, and what is to be said of it. What is needed stays, and is named; but numbers
    are meant as they are said: what is only there to be gone back to goes then.

    RefusedError as by `chosen`, and for the number of what runs, was booted or is staged.
    """
    meant = chosen(generations, form, now)
    if not form.by_number:
        reasons = {one.number: needed.why(one) for one in meant}
        notes = tuple(f"{number} stays: it {why}" for number, why in reasons.items() if why)
        return [one for one in meant if not reasons[one.number]], notes
    for one in meant:
        if one.path in needed.paths:
            raise RefusedError(f"generation {one.number}: it {needed.paths[one.path]}", "leave it out")
    there = {one.number for one in meant}
    none = [f"there is no generation {number}" for number in form.numbers if number not in there]
    lost = [f"{one.number}: it {needed.why(one)}" for one in meant if needed.why(one)]
    return meant, (*lost, *none)


def superfluous(
    generations: Sequence[Generation], retention: Retention, needed: Needed, now: float
) -> list[Generation]:
    """What may go of a profile's generations: neither among the newest, nor active lately, nor needed. Nothing, where
    no generation is the current one: which of them matters cannot be told then."""
    current = next((one.number for one in generations if one.current), None)
    if current is None or retention.keeps_everything:
        return []
    going = {one.link for one in generations if one.number != current}
    if retention.generations is not None:
        numbers = sorted({one.number for one in generations}, reverse=True)
        newest = set(numbers[: retention.generations])
        going &= {one.link for one in generations if one.number not in newest}
    if retention.days is not None:
        since = now - retention.days * DAY
        going &= {one.link for one in _inactive(list(reversed(generations)), since)}
        lately = _used_since(needed.used, since)
        going -= {one.link for one in generations if one.recorded in lately}
    return [one for one in generations if one.link in going and not needed.why(one)]


def _inactive(descending: Iterable[Generation], since: float) -> list[Generation]:
    """Those that the next one had taken over from by then, as far as their ages tell. One that is younger than that in
    spite of its number (a clock was wrong) is none of them."""
    found = []
    taken_over = False
    for one in descending:
        if taken_over and one.created < since:
            found.append(one)
        taken_over = taken_over or one.created < since
    return found


def _used_since(used: Iterable[tuple[Recorded, float]], since: float) -> set[Recorded]:
    return {generation for generation, moment in used if moment >= since}


def delete(generations: Generations, form: Form, now: float | None = None, dry_run: bool = False) -> list[Generation]:
    """Delete what a form means, under the profile's lock; what went, or in a dry run would go. Durable."""
    with generations.locked():
        going = _plain(generations, chosen(generations.list(), form, time.time() if now is None else now))
        for one in [] if dry_run else going:
            generations.forget(one.link)
    return going


def remove(generations: Generations, doomed: Iterable[Recorded], keep: Collection[str] = ()) -> list[Recorded]:
    """Delete exactly these recorded generations under the profile's lock; those that went. One that has become the
    current one, leads elsewhere now, or leads to one of the paths in `keep`, stays."""
    wanted = set(doomed)
    with generations.locked():
        everything = generations.list()
        current = generations.current()
        if current is None or not any(one.current for one in everything):
            return []
        going = [
            one
            for one in _plain(generations, everything)
            if one.recorded in wanted and one.number != current.number and one.path not in keep
        ]
        for one in going:
            generations.forget(one.link)
    return [one.recorded for one in going]


def _plain(generations: Generations, found: Iterable[Generation]) -> list[Generation]:
    return [one for one in found if one.link == f"{generations.name}-{one.number}-link"]


def to_plain(found: Iterable[Recorded]) -> list[Any]:
    """Recorded generations as JSON can carry them."""
    return [[one.number, one.path] for one in found]


def from_plain(found: Iterable[Any]) -> list[Recorded]:
    return [Recorded(int(number), str(path)) for number, path in found]
