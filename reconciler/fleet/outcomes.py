"""The states of one host in one deployment: the only table of them.

    planned -> realised -> staged -> activated -> confirmed      (profiles without activation: staged -> confirmed)

An event that the table lacks for a state raises, and changes nothing.
"""

from __future__ import annotations

import enum

from reconciler.core.errors import ExitStatus, InternalError


class State(enum.Enum):
    """Where a host stands; the value is the word that is printed."""

    PLANNED = "planned"
    REALISED = "realised"
    STAGED = "staged"
    ACTIVATED = "activated"
    CONFIRMED = "confirmed"
    UNCHANGED = "unchanged"
    HELD = "held"
    FAILED = "failed"
    REFUSED = "refused"
    REVERTED = "reverted"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"

    @property
    def status(self) -> ExitStatus:
        """What a run exits with for a host that ends in this state."""
        return _STATUS.get(self, ExitStatus.OK)

    @property
    def is_final(self) -> bool:
        return self not in (State.PLANNED, State.REALISED, State.ACTIVATED, State.STAGED)


class Event(enum.Enum):
    """What can happen to a host."""

    NOTHING_TO_DO = "nothing to do"
    REALISED = "realised"
    STAGED = "staged"
    ACTIVATED = "activated"
    CONFIRMED = "confirmed"
    REVERTED = "reverted"
    FAILED = "failed"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    LOST = "lost"
    FOUND_OLD = "found as it was"
    FOUND_NEW = "found switched"


_STATUS = {
    State.FAILED: ExitStatus.FAILED,
    State.REFUSED: ExitStatus.REFUSED,
    State.HELD: ExitStatus.REFUSED,
    State.REVERTED: ExitStatus.REVERTED,
    State.UNREACHABLE: ExitStatus.UNREACHABLE,
    State.UNKNOWN: ExitStatus.UNKNOWN,
}

_BEFORE_THE_SWITCH = {
    Event.FAILED: State.FAILED,
    Event.REFUSED: State.REFUSED,
    Event.UNREACHABLE: State.UNREACHABLE,
}

_TABLE: dict[State, dict[Event, State]] = {
    State.PLANNED: {
        **_BEFORE_THE_SWITCH,
        Event.NOTHING_TO_DO: State.UNCHANGED,
        Event.REALISED: State.REALISED,
    },
    State.REALISED: {
        **_BEFORE_THE_SWITCH,
        Event.STAGED: State.STAGED,
    },
    State.STAGED: {
        **_BEFORE_THE_SWITCH,
        Event.ACTIVATED: State.ACTIVATED,
        Event.CONFIRMED: State.CONFIRMED,
        Event.LOST: State.UNKNOWN,
    },
    State.ACTIVATED: {
        Event.CONFIRMED: State.CONFIRMED,
        Event.REVERTED: State.REVERTED,
        Event.LOST: State.UNKNOWN,
    },
    State.UNKNOWN: {
        Event.FOUND_OLD: State.FAILED,
        Event.FOUND_NEW: State.CONFIRMED,
        Event.LOST: State.UNKNOWN,
    },
}


def after(state: State, event: Event) -> State:
    """The state that follows `event`; InternalError when it cannot happen there."""
    try:
        return _TABLE[state][event]
    except KeyError:
        raise InternalError(f"'{event.value}' cannot happen to a host that is {state.value}") from None
