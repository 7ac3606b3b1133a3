"""Which profiles a deployment concerns."""

from __future__ import annotations

import pytest

from reconciler.core.agent.action import Action
from reconciler.core.errors import UsageError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.deploy import DeployRequest
from reconciler.fleet.select import Selection

SYSTEM, ALICE, BOB = ProfileId.SYSTEM, ProfileId("alice"), ProfileId("bob")
DEFAULT, TOOLS = ProfileId(place="default"), ProfileId(place="/opt/tools")
ALL = {SYSTEM, ALICE, BOB, DEFAULT, TOOLS}

# The selection and the action; which profiles take part; whether those of users that left the inventory are emptied.
CASES = {
    "everything": (Selection("all"), Action.SWITCH, ALL, True),
    "the system": (Selection("all", system=True), Action.SWITCH, {SYSTEM}, False),
    "some users": (Selection("all", users="al*,carol"), Action.SWITCH, {ALICE}, False),
    "the system and a user": (Selection("all", system=True, users="bob"), Action.SWITCH, {SYSTEM, BOB}, False),
    "a place": (Selection("all", profiles="/opt/*"), Action.SWITCH, {TOOLS}, False),
    "places and a user": (Selection("all", users="bob", profiles="*"), Action.SWITCH, {BOB, DEFAULT, TOOLS}, False),
    "staged": (Selection("all"), Action.STAGE, ALL, True),
    "tried": (Selection("all"), Action.TEST, {SYSTEM}, False),
    "a user's, tried": (Selection("all", users="alice"), Action.TEST, set(), False),
}


@pytest.mark.parametrize("case", CASES)
def test_profiles_take_part_as_they_are_selected_and_none_is_emptied_because_it_was_not(case: str) -> None:
    selection, action, profiles, empties = CASES[case]
    request = DeployRequest(selection, action)
    assert {profile for profile in ALL if request.means(profile)} == profiles
    assert request.empties is empties


@pytest.mark.parametrize(
    ("selection", "single"),
    [
        (Selection("all"), False),
        (Selection("all", system=True), True),
        (Selection("all", users="alice"), True),
        (Selection("all", profiles="/opt/tools"), True),
        (Selection("all", system=True, users="alice"), False),
        (Selection("all", users="alice,bob"), False),
        (Selection("all", profiles="/opt/*"), False),
    ],
)
def test_only_a_name_without_patterns_means_a_single_profile(selection: Selection, single: bool) -> None:
    assert selection.single is single


def test_a_build_for_no_host_is_not_made_on_its_targets() -> None:
    with pytest.raises(UsageError, match="--action build stays on the controller"):
        DeployRequest(Selection("all"), Action.BUILD, "target")
