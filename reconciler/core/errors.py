"""The one exception base, the exit statuses, and how an error crosses the wire.

An error says where, what, and what to do next: `message` holds the first two, `hint` the third, on its own.
Only `reconciler.cli.main` prints; everything else raises.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import ClassVar


class ExitStatus(enum.IntEnum):
    """The exit statuses of every command (docs/exit-status.md)."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    FAILED = 3
    REVERTED = 4
    UNREACHABLE = 5
    UNKNOWN = 6
    REFUSED = 7
    UNITS_FAILED = 8
    PENDING = 9


# The worst first; OK is what remains when none of these happened.
_SEVERITY = (
    ExitStatus.INTERNAL,
    ExitStatus.USAGE,
    ExitStatus.UNKNOWN,
    ExitStatus.REVERTED,
    ExitStatus.UNITS_FAILED,
    ExitStatus.FAILED,
    ExitStatus.UNREACHABLE,
    ExitStatus.REFUSED,
    ExitStatus.PENDING,
)


def worst(statuses: Iterable[ExitStatus]) -> ExitStatus:
    """The status that a run with all of these ends with."""
    seen = set(statuses)
    return next((status for status in _SEVERITY if status in seen), ExitStatus.OK)


class ReconcilerError(Exception):
    """Base of every error that a user may see.

    `code` names the class on the wire; `status` is what the command exits with when this error ends it.
    """

    code: ClassVar[str] = "failed"
    status: ClassVar[ExitStatus] = ExitStatus.FAILED

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


class UsageError(ReconcilerError):
    """Typed wrong: a command line, an inventory, a recipe, a setting."""

    code = "usage"
    status = ExitStatus.USAGE


class Faults(UsageError):  # noqa: N818  # several errors, not one
    """Several faults of one input, told at once, in the order given. Faults of faults are their faults."""

    code = "faults"
    errors: tuple[ReconcilerError, ...]

    def __init__(self, errors: Iterable[ReconcilerError]) -> None:
        found: list[ReconcilerError] = []
        for error in errors:
            found += error.errors if isinstance(error, Faults) else (error,)
        self.errors = tuple(found)
        super().__init__("\n".join(error.message for error in self.errors))


class FormatError(ReconcilerError):
    """Bytes that are not what their format says (a NAR, a derivation, a store path, a frame, a kept file)."""

    code = "format"


class StoreError(ReconcilerError):
    """A store that cannot do what was asked: a path not valid, a hash that differs, a disk that is full."""

    code = "store"


class BuildError(ReconcilerError):
    """A build that failed; `message` ends with the last lines of its log."""

    code = "build"


class RefusedError(ReconcilerError):
    """Locked, moved on since the plan, rolled back before, held."""

    code = "refused"
    status = ExitStatus.REFUSED


class RevertedError(ReconcilerError):
    """What was activated did not come up, and what ran before was activated again."""

    code = "reverted"
    status = ExitStatus.REVERTED


class UnsettledError(ReconcilerError):
    """What was activated did not come up, and what ran before could not be activated again."""

    code = "unsettled"
    status = ExitStatus.UNKNOWN


class UnreachableError(ReconcilerError):
    """No login: no route, no answer, a wrong key, an unknown host key."""

    code = "unreachable"
    status = ExitStatus.UNREACHABLE


class LinkLostError(UnreachableError):
    """The connection broke, or the peer fell silent, after the login. What was being done is unknown until probed."""

    code = "link-lost"
    status = ExitStatus.UNKNOWN


class InternalError(ReconcilerError):
    """Our own fault."""

    code = "internal"
    status = ExitStatus.INTERNAL


_BY_CODE: dict[str, type[ReconcilerError]] = {
    cls.code: cls
    for cls in (
        ReconcilerError,
        UsageError,
        FormatError,
        StoreError,
        BuildError,
        RefusedError,
        RevertedError,
        UnsettledError,
        UnreachableError,
        LinkLostError,
        InternalError,
    )
}


def to_wire(error: ReconcilerError) -> dict[str, str | None]:
    """What an agent sends of an error."""
    return {"code": error.code, "message": error.message, "hint": error.hint}


def from_wire(code: str, message: str, hint: str | None) -> ReconcilerError:
    """The error that an agent sent; an unknown code is the base."""
    return _BY_CODE.get(code, ReconcilerError)(message, hint)
