"""Which profile is meant: the system's, a user's, Nix's `default`, or one at a path of its own."""

from __future__ import annotations

import re
from typing import ClassVar

from reconciler.core.errors import FormatError
from reconciler.core.values import value

DEFAULT = "default"
_PROFILES = "/nix/var/nix/profiles"
# Nothing that a shell, a table or a store path would read twice; ':' stands for '/' in the names of roots.
_PATH = re.compile(r"(?:/[A-Za-z0-9_.+@-]+)+")
_GENERATION = re.compile(r".*-[0-9]+-link.*")
_LONGEST = 200
# What is Nix's, the kernel's, or gone at the next boot.
_CLOSED = ("/nix", "/proc", "/sys", "/dev", "/run")


@value(order=True)
class ProfileId:
    """One profile of a host. At most one of these is set; none is the system's.

    `user`: the profile of that user. `place`: `default`, or the absolute path of a profile's link.
    As text, in messages between the ends and in kept files: `system`, `user/NAME`, `default` or the path.
    """

    user: str = ""
    place: str = ""

    SYSTEM: ClassVar[ProfileId]

    @classmethod
    def parse(cls, text: str) -> ProfileId:
        """The profile that `text` names; FormatError for any other spelling."""
        if text == "system":
            return cls.SYSTEM
        if text == DEFAULT or text.startswith("/"):
            problem = place_problem(text)
            if problem:
                raise FormatError(f"'{text}' names no profile: {problem}")
            return cls(place=text)
        kind, slash, name = text.partition("/")
        if kind != "user" or not slash or not name or "/" in name or name in (".", ".."):
            raise FormatError(f"'{text}' names no profile")
        return cls(name)

    @property
    def is_system(self) -> bool:
        return not self.user and not self.place

    @property
    def label(self) -> str:
        """What a table shows: `system`, the user's name, `default` or the path."""
        return self.user or self.place or "system"

    @property
    def owner(self) -> str:
        """What a sentence calls it: `the system`, `user alice`, `profile /opt/tools`."""
        if self.is_system:
            return "the system"
        return f"user {self.user}" if self.user else f"profile {self.place}"

    def __str__(self) -> str:
        return f"user/{self.user}" if self.user else self.place or "system"


ProfileId.SYSTEM = ProfileId()


def selects(profile: ProfileId, system: bool, users: str | None, places: str | None) -> bool:
    """Whether a profile is among those meant. `users` and `places` are patterns, with commas between them; where none
    of the three is given, every profile is meant."""
    if not system and users is None and places is None:
        return True
    if profile.is_system:
        return system
    import fnmatch  # a probe has no need of it

    name, patterns = (profile.user, users) if profile.user else (profile.place, places)
    return patterns is not None and any(fnmatch.fnmatchcase(name, part.strip()) for part in patterns.split(","))


def place_problem(place: str) -> str:
    """Why a text cannot say where a profile stands; empty for `default` and for a path that can."""
    if place == DEFAULT:
        return ""
    if _PATH.fullmatch(place) is None or len(place) > _LONGEST:
        return f"'{DEFAULT}' or an absolute path, without '//', of letters, digits and _ . + @ - is wanted"
    names = place.split("/")[1:]
    return "the path is not normalised" if {".", ".."} & set(names) else _taken(place, names)


def _taken(place: str, names: list[str]) -> str:
    if place == f"{_PROFILES}/{DEFAULT}":
        return f"this is the profile '{DEFAULT}'"
    if any(place == closed or place.startswith(f"{closed}/") for closed in _CLOSED) and not _free_in_profiles(names):
        return "no profile of one's own can stand there"
    if _GENERATION.fullmatch(names[-1]) or names[-1].endswith(".lock"):
        return f"'{names[-1]}' is what Nix calls a generation or a lock of another profile"
    return ""


def _free_in_profiles(names: list[str]) -> bool:
    """Whether the path is in Nix's own folder of profiles, and neither the system's, nor ours, nor a user's."""
    taken = ("system", "reconciler", "per-user")
    return names[:4] == ["nix", "var", "nix", "profiles"] and len(names) > 4 and names[4] not in taken
