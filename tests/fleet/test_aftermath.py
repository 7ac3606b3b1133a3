from __future__ import annotations

import pytest

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import GenerationRef, Observation
from reconciler.core.profile.names import ProfileId
from reconciler.core.values import replace
from reconciler.fleet.aftermath import Aftermath, Came
from reconciler.fleet.plan import ProfileChangePlan
from tests.fleet.values import generation, observation, profile

OLD, NEW, ELSE = generation(40, "top-old"), generation(41, "top-new"), generation(42, "top-else")
SYSTEM = ProfileChangePlan(ProfileId.SYSTEM, OLD, NEW.path, 0, 41, ())
ALICE = ProfileChangePlan(ProfileId("alice"), OLD, NEW.path, 0, 41, ())


def host(system: GenerationRef | None, runs: str, alice: GenerationRef | None = OLD) -> Observation:
    return replace(observation(profile("system", system), profile("user/alice", alice)), running=runs)


BEFORE = host(OLD, OLD.path)


def came(action: Action, found: Observation, change: ProfileChangePlan = SYSTEM) -> Came:
    return Aftermath.of([change], action, BEFORE, found).came[change]


@pytest.mark.parametrize(
    ("action", "found", "expected"),
    [
        (Action.SWITCH, host(NEW, NEW.path), Came.DONE),
        (Action.SWITCH, host(OLD, OLD.path), Came.NOT_DONE),
        (Action.SWITCH, host(OLD, NEW.path), Came.RUNS),
        (Action.SWITCH, host(NEW, OLD.path), Came.SET),
        (Action.SWITCH, host(ELSE, ELSE.path), Came.OTHER),
        (Action.SWITCH, host(None, ""), Came.OTHER),
        (Action.BOOT, host(NEW, OLD.path), Came.DONE),
        (Action.BOOT, host(OLD, OLD.path), Came.NOT_DONE),
        (Action.TEST, host(OLD, NEW.path), Came.DONE),
        (Action.TEST, host(OLD, OLD.path), Came.NOT_DONE),
        (Action.TEST, host(ELSE, NEW.path), Came.OTHER),
    ],
)
def test_what_became_of_a_change_is_told_by_the_profile_and_by_what_runs(
    action: Action, found: Observation, expected: Came
) -> None:
    assert came(action, found) is expected


def test_what_runs_does_not_concern_a_users_profile() -> None:
    assert came(Action.SWITCH, host(OLD, OLD.path, alice=NEW), ALICE) is Came.DONE
    assert came(Action.SWITCH, host(OLD, NEW.path, alice=OLD), ALICE) is Came.NOT_DONE


def test_a_change_of_what_runs_alone_is_done_or_not() -> None:
    again = ProfileChangePlan(ProfileId.SYSTEM, NEW, NEW.path, 0, 41, ())
    assert came(Action.SWITCH, host(NEW, NEW.path), again) is Came.DONE
    assert came(Action.SWITCH, host(NEW, OLD.path), again) is Came.NOT_DONE


def test_a_profile_that_is_to_go_away_is_done_when_it_is_gone() -> None:
    away = ProfileChangePlan(ProfileId.SYSTEM, OLD, "", 0, 0, ())
    assert came(Action.SWITCH, host(None, ""), away) is Came.DONE
    assert came(Action.SWITCH, host(OLD, OLD.path), away) is Came.NOT_DONE


def test_an_agent_that_died_between_two_profiles_is_told_by_what_it_left() -> None:
    aftermath = Aftermath.of([SYSTEM, ALICE], Action.SWITCH, BEFORE, host(NEW, NEW.path))
    assert (aftermath.some_done, aftermath.all_done, aftermath.as_it_was, aftermath.can_be_told) == (
        True,
        False,
        False,
        True,
    )
    assert aftermath.left == {"alice": Came.NOT_DONE}
    assert not Aftermath.of([SYSTEM, ALICE], Action.SWITCH, BEFORE, host(ELSE, NEW.path)).can_be_told
