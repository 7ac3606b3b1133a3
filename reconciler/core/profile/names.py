"""Which profile is meant: the system's, or a user's."""

from __future__ import annotations

from typing import ClassVar

from reconciler.core.errors import FormatError
from reconciler.core.values import value


@value(order=True)
class ProfileId:
    """The system profile (`user` empty) or the profile of one user.

    As text, in messages between the ends and in kept files: `system`, or `user/NAME`.
    """

    user: str = ""

    SYSTEM: ClassVar[ProfileId]

    @classmethod
    def parse(cls, text: str) -> ProfileId:
        """The profile that `text` names; FormatError for any other spelling."""
        if text == "system":
            return cls.SYSTEM
        kind, slash, name = text.partition("/")
        if kind != "user" or not slash or not name or "/" in name or name in (".", ".."):
            raise FormatError(f"'{text}' names no profile")
        return cls(name)

    @property
    def is_system(self) -> bool:
        return not self.user

    @property
    def label(self) -> str:
        """What a table shows: `system`, or the user's name."""
        return self.user or "system"

    def __str__(self) -> str:
        return f"user/{self.user}" if self.user else "system"


ProfileId.SYSTEM = ProfileId()
