"""One change of one profile, and its exact undoing, on an open directory: the same for the system's and for a user's.

A Step goes in and an Applied comes out; both cross a pipe to a child process, hence their plain form.
"""

from __future__ import annotations

from typing import Any

from reconciler.core.errors import RefusedError
from reconciler.core.profile.generations import Generations, Recorded
from reconciler.core.values import value


@value
class Step:
    """What one profile is to become.

    `expect`: what it must be now. `to`: a store path, or empty to take the profile's link away and keep its
    generations. `number`: the recorded generation to go back to, or 0 for Nix's own numbering.
    """

    expect: Recorded | None
    to: str
    number: int = 0

    def to_plain(self) -> dict[str, Any]:
        return {"expect": plain(self.expect), "to": self.to, "number": self.number}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Step:
        return cls(recorded(value["expect"]), value["to"], value["number"])


@value
class Before:
    """What a profile was, enough to put it back. `target`: the text of its link, None when there was none; `highest`:
    the highest generation."""

    current: Recorded | None
    target: str | None
    highest: int

    def to_plain(self) -> dict[str, Any]:
        return {"current": plain(self.current), "target": self.target, "highest": self.highest}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Before:
        return cls(recorded(value["current"]), value["target"], value["highest"])

    @classmethod
    def of(cls, generations: Generations) -> Before:
        return cls(generations.current(), generations.raw_target(), generations.highest())


@value
class Applied:
    """What was done. `created`: whether a generation was made for it."""

    after: Recorded | None
    created: bool

    def to_plain(self) -> dict[str, Any]:
        return {"after": plain(self.after), "created": self.created}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Applied:
        return cls(recorded(value["after"]), value["created"])


def plain(one: Recorded | None) -> list[Any] | None:
    return None if one is None else [one.number, one.path]


def recorded(value: list[Any] | None) -> Recorded | None:
    return None if value is None else Recorded(int(value[0]), str(value[1]))


def apply(generations: Generations, step: Step) -> Applied:
    """Make the change under the profile's lock. RefusedError, with nothing changed, when the profile is not what was
    expected or the recorded generation is gone. After any other error `restore` puts back what may have been done."""
    with generations.locked():
        if generations.current() != step.expect:
            raise RefusedError(f"{generations.shown} was changed by something else just now")
        if not step.to:
            generations.remove_link()
            return Applied(None, False)
        if step.number:
            found = generations.find(step.number, step.to)
            if found is None:
                raise RefusedError(f"{generations.shown} has no generation {step.number} that is {step.to}")
            generations.point_at(found.link)
            return Applied(found.recorded, False)
        number, created = generations.record(step.to)
        generations.switch(number)
        return Applied(Recorded(number, step.to), created)


@value
class Departure:
    """How a profile is left to itself. `current`: what it must be now. `back`: the generation that it goes back to,
    None to take its link away; with `stay` neither is done. `drops`: the generation links that go."""

    current: Recorded | None
    back: Recorded | None
    drops: tuple[str, ...]
    stay: bool = False

    def to_plain(self) -> dict[str, Any]:
        return {"current": plain(self.current), "back": plain(self.back), "drops": list(self.drops), "stay": self.stay}

    @classmethod
    def from_plain(cls, value: dict[str, Any]) -> Departure:
        return cls(recorded(value["current"]), recorded(value["back"]), tuple(value["drops"]), value["stay"])


def depart(generations: Generations, how: Departure) -> None:
    """Undo what deployments made of a profile; once more changes nothing. RefusedError when it is not what was
    expected."""
    with generations.locked():
        if generations.current() != how.current:
            raise RefusedError(f"{generations.shown} was changed by something else just now")
        if not how.stay and how.back != how.current:
            if how.back is None:
                generations.remove_link()
            elif how.back.number:
                generations.switch(how.back.number)
            else:
                generations.point_at(how.back.path)
        for link in how.drops:
            generations.forget(link)


def restore(generations: Generations, before: Before, step: Step) -> None:
    """Undo as much of the step as was done, all, some or nothing of it: the one who did it may have died.

    RefusedError when something else has changed the profile since.
    """
    with generations.locked():
        current = generations.current()
        if current != before.current:
            if (current.path if current is not None else "") != step.to:
                raise RefusedError(f"{generations.shown} was changed by something else just now")
            if before.target is None:
                generations.remove_link()
            else:
                generations.point_at(before.target)
        for one in generations.list():
            if one.number > before.highest and one.path == step.to:
                generations.forget(one.link)
