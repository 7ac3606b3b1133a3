from __future__ import annotations

import pytest

from reconciler.core.agent.messages import Generation, HistoryEntry, ProfileState
from reconciler.core.errors import RefusedError, StoreError, UsageError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.undo import Past, change_to, goals_to, goals_undoing, latest
from tests.fleet.values import entry, generation, observation, path, profile

OLD, NEW = generation(40, "top-old"), generation(41, "top-new")
K7, K9 = "260312-1412-k7", "260312-1500-k9"


def everything(profile: ProfileId) -> bool:
    return True


def past(state: ProfileState, *entries: HistoryEntry, valid: tuple[str, ...] = ("top-old", "top-new")) -> Past:
    listed = tuple(
        Generation(each.number, each.path, 0.0, each == state.current, (str(path("nginx-1.24.0")),))
        for each in (OLD, NEW)
    )
    return Past("web01", observation(state), entries, {"system": listed}, frozenset(str(path(name)) for name in valid))


def test_undoing_leads_to_what_was_there_before() -> None:
    before = past(profile("system", NEW, packages=(str(path("nginx-1.26.1")),)), entry(K7, OLD, NEW))
    ((state, goal),) = goals_undoing(before, K7, everything)
    change = change_to(before, state, goal)
    assert (change.before, change.to, change.number, change.will_be) == (NEW, OLD.path, 40, 40)
    assert [(c.name, c.before, c.after) for c in change.packages] == [("nginx", "1.26.1", "1.24.0")]


def test_undoing_a_first_deployment_leads_to_no_profile() -> None:
    before = past(profile("system", NEW), entry(K7, None, NEW))
    ((state, goal),) = goals_undoing(before, K7, everything)
    assert goal is None
    assert change_to(before, state, goal).to == ""


def test_a_deployment_that_did_not_touch_the_host_gives_no_goal() -> None:
    assert goals_undoing(past(profile("system", NEW), entry(K9, OLD, NEW)), K7, everything) == []


def test_what_is_back_already_is_a_goal_that_is_reached() -> None:
    ((state, goal),) = goals_undoing(past(profile("system", OLD), entry(K7, OLD, NEW)), K7, everything)
    assert state.current == goal


def test_a_later_change_is_not_undone_with_it() -> None:
    newer = generation(42, "top-newer")
    later = entry(K9, NEW, newer, message="hotfix")
    moved = past(profile("system", newer, last=later), entry(K7, OLD, NEW), later)
    with pytest.raises(RefusedError) as refusal:
        goals_undoing(moved, K7, everything)
    assert refusal.value.message == (
        f"web01 has changed since {K7}: system was left at 41, is 42 (oncall@ops01, {K9} 'hotfix')"
    )


def test_a_change_from_outside_is_called_so() -> None:
    moved = past(profile("system", generation(42, "other"), last=entry(K7, OLD, NEW)), entry(K7, OLD, NEW))
    with pytest.raises(RefusedError, match=r"is 42 \(changed from outside\)"):
        goals_undoing(moved, K7, everything)


def test_a_reused_number_is_not_taken_for_the_recorded_generation() -> None:
    gone = generation(40, "top-reused")
    before = Past(
        "web01",
        observation(profile("system", NEW)),
        (entry(K7, OLD, NEW),),
        {"system": (Generation(40, gone.path, 0.0, False), Generation(41, NEW.path, 0.0, True))},
        frozenset({OLD.path, gone.path, NEW.path}),
    )
    ((state, goal),) = goals_undoing(before, K7, everything)
    change = change_to(before, state, goal)
    assert (change.to, change.number, change.will_be) == (OLD.path, 0, 42)


def test_a_collected_generation_cannot_be_gone_back_to() -> None:
    before = past(profile("system", NEW), entry(K7, OLD, NEW), valid=("top-new",))
    with pytest.raises(StoreError, match="web01: generation 40 of system is no longer complete on the host"):
        change_to(before, profile("system", NEW), OLD)


def test_a_generation_is_named_by_number_and_an_absent_one_lists_those_there() -> None:
    before = past(profile("system", NEW))
    assert goals_to(before, 40, everything)[0][1] == OLD
    with pytest.raises(StoreError) as error:
        goals_to(before, 7, everything)
    assert error.value.message == "web01: system has no generation 7; it has 40, 41"
    assert error.value.hint == "reconciler generations --hosts web01"


def test_the_latest_deployment_is_the_newest_that_was_not_undone() -> None:
    first, second = entry(K7, None, OLD, when=1.0), entry(K9, OLD, NEW, when=2.0)
    undo = entry("260312-1600-m2", NEW, OLD, kind="rollback", when=3.0, undoes=K9)
    assert latest([past(profile("system", NEW), first, second)]) == K9
    assert latest([past(profile("system", OLD), first, second, undo)]) == K7


def test_with_nothing_left_to_undo_it_says_so() -> None:
    with pytest.raises(UsageError, match="no deployment of these hosts is left to undo"):
        latest([past(profile("system", None))])
