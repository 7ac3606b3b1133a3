from __future__ import annotations

import itertools

import pytest

from reconciler.core.errors import ExitStatus, InternalError, worst
from reconciler.fleet.outcomes import Event, State, after


@pytest.mark.parametrize(
    ("events", "end"),
    [
        ((Event.NOTHING_TO_DO,), State.UNCHANGED),
        ((Event.REALISED, Event.STAGED, Event.CONFIRMED), State.CONFIRMED),
        ((Event.REALISED, Event.STAGED, Event.ACTIVATED, Event.CONFIRMED), State.CONFIRMED),
        ((Event.REALISED, Event.STAGED, Event.ACTIVATED, Event.REVERTED), State.REVERTED),
        ((Event.REALISED, Event.FAILED), State.FAILED),
        ((Event.REALISED, Event.STAGED, Event.REFUSED), State.REFUSED),
        ((Event.UNREACHABLE,), State.UNREACHABLE),
        ((Event.REALISED, Event.STAGED, Event.LOST), State.UNKNOWN),
        ((Event.REALISED, Event.STAGED, Event.LOST, Event.FOUND_NEW), State.CONFIRMED),
        ((Event.REALISED, Event.STAGED, Event.LOST, Event.FOUND_OLD), State.FAILED),
    ],
)
def test_a_host_goes_through_these_states(events: tuple[Event, ...], end: State) -> None:
    state = State.PLANNED
    for event in events:
        state = after(state, event)
    assert state is end


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (State.CONFIRMED, Event.FAILED),
        (State.PLANNED, Event.CONFIRMED),
        (State.REALISED, Event.CONFIRMED),
        (State.UNCHANGED, Event.STAGED),
        (State.FAILED, Event.STAGED),
        (State.ACTIVATED, Event.FAILED),
    ],
)
def test_what_cannot_happen_raises(state: State, event: Event) -> None:
    with pytest.raises(InternalError, match="cannot happen to a host that is"):
        after(state, event)


@pytest.mark.parametrize(
    ("states", "status"),
    [
        ((), ExitStatus.OK),
        ((State.CONFIRMED, State.UNCHANGED), ExitStatus.OK),
        ((State.CONFIRMED, State.UNREACHABLE), ExitStatus.UNREACHABLE),
        ((State.UNREACHABLE, State.FAILED), ExitStatus.FAILED),
        ((State.FAILED, State.REVERTED), ExitStatus.REVERTED),
        ((State.REVERTED, State.UNKNOWN), ExitStatus.UNKNOWN),
        ((State.REFUSED, State.UNREACHABLE), ExitStatus.UNREACHABLE),
    ],
)
def test_several_outcomes_end_with_the_worst(states: tuple[State, ...], status: ExitStatus) -> None:
    assert worst(state.status for state in states) is status


def test_the_order_of_severity_is_the_documented_one() -> None:
    order = [6, 4, 8, 3, 5, 7, 9]
    for worse, better in itertools.pairwise(order):
        assert worst([ExitStatus(better), ExitStatus(worse)]) == worse
