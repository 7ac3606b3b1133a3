from __future__ import annotations

from reconciler.core.errors import ExitStatus, UnreachableError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, HostPlan, Plan, package_changes, plan_host
from tests.fleet.values import entry, generation, observation, path, profile, target

SYSTEM = ProfileId.SYSTEM
ALICE = ProfileId("alice")
EMPTY = target("empty-environment")


def test_a_host_that_points_there_and_runs_it_needs_nothing() -> None:
    seen = observation(profile("system", generation(4, "top-a")))
    plan = plan_host("web01", {SYSTEM: target("top-a")}, EMPTY, seen)
    assert plan.state is State.UNCHANGED
    assert plan.changes == ()


def test_a_new_environment_gets_the_next_number() -> None:
    seen = observation(profile("system", generation(4, "top-a"), packages=(str(path("nginx-1.24.0")),)))
    plan = plan_host("web01", {SYSTEM: target("top-b", "nginx-1.26.1", "fd-10.2")}, EMPTY, seen)
    (change,) = plan.changes
    assert (change.before, change.to, change.will_be) == (generation(4, "top-a"), str(path("top-b")), 5)
    assert [(c.kind, c.name, c.before, c.after) for c in change.packages] == [
        (ChangeKind.ADDED, "fd", "", "10.2"),
        (ChangeKind.CHANGED, "nginx", "1.24.0", "1.26.1"),
    ]


def test_a_highest_generation_that_points_there_already_is_used_again() -> None:
    seen = observation(profile("system", generation(4, "top-a"), highest=9, highest_path=str(path("top-b"))))
    (change,) = plan_host("web01", {SYSTEM: target("top-b")}, EMPTY, seen).changes
    assert change.will_be == 9


def test_a_profile_that_points_there_but_is_not_what_runs_changes() -> None:
    seen = observation(profile("system", generation(4, "top-a")), running="")
    assert plan_host("web01", {SYSTEM: target("top-a")}, EMPTY, seen).state is State.PLANNED


def test_a_profile_whose_closure_is_damaged_changes() -> None:
    seen = observation(profile("user/alice", generation(4, "env-a"), complete=False))
    assert plan_host("web01", {ALICE: target("env-a")}, EMPTY, seen).state is State.PLANNED


def test_a_user_without_an_account_fails_that_user_and_not_the_host() -> None:
    seen = observation(profile("system", None), profile("user/alice", None, problem="no account 'alice'"))
    plan = plan_host("web01", {SYSTEM: target("top-a"), ALICE: target("env-a")}, EMPTY, seen)
    assert plan.state is State.PLANNED
    assert [change.profile for change in plan.changes] == [SYSTEM]
    assert plan.problems == {"alice": "no account 'alice'"}
    assert Plan((plan,)).status is ExitStatus.FAILED


def test_a_user_that_left_the_inventory_gets_an_empty_environment() -> None:
    mine = entry("260101-0000-a2", None, generation(3, "env-a"), profile="user/alice")
    seen = observation(profile("user/alice", generation(3, "env-a"), last=mine))
    (change,) = plan_host("web01", {}, EMPTY, seen).changes
    assert (change.profile, change.to, change.orphaned) == (ALICE, EMPTY.path, True)


def test_a_user_that_others_manage_is_left_alone() -> None:
    seen = observation(profile("user/alice", generation(3, "env-a")))
    assert plan_host("web01", {}, EMPTY, seen).state is State.UNCHANGED


def test_users_are_left_alone_when_only_a_part_is_selected() -> None:
    mine = entry("260101-0000-a2", None, generation(3, "env-a"), profile="user/alice")
    seen = observation(profile("user/alice", generation(3, "env-a"), last=mine))
    assert plan_host("web01", {}, None, seen).state is State.UNCHANGED


def test_what_was_rolled_back_is_remembered_when_it_would_come_back() -> None:
    undo = entry("260101-0001-b2", generation(5, "top-b"), generation(4, "top-a"), kind="rollback")
    seen = observation(profile("system", generation(4, "top-a"), undone=(undo,)))
    assert plan_host("web01", {SYSTEM: target("top-b")}, EMPTY, seen).undone == (undo,)
    assert plan_host("web01", {SYSTEM: target("top-c")}, EMPTY, seen).undone == ()


def test_a_host_with_problems_takes_no_part() -> None:
    plan = plan_host("web01", {SYSTEM: target("top-a")}, EMPTY, observation(problems=("Python has no sqlite3",)))
    assert plan.state is State.FAILED
    assert plan.error is not None
    assert plan.error.message == "Python has no sqlite3"


def test_hosts_that_change_alike_are_one_group_whatever_their_numbers() -> None:
    plans = [
        plan_host(host, {SYSTEM: target(wanted)}, EMPTY, observation(profile("system", generation(number, "top-a"))))
        for host, number, wanted in (("web01", 4, "top-b"), ("web02", 7, "top-b"), ("db01", 4, "top-c"))
    ]
    lost = HostPlan("web03", State.UNREACHABLE, error=UnreachableError("web03: timed out"))
    plan = Plan((*plans, lost))
    assert [[host.host for host in group] for group in plan.groups()] == [["web01", "web02"], ["db01"]]
    assert plan.status is ExitStatus.UNREACHABLE


def test_two_versions_of_one_package_are_named_together() -> None:
    (change,) = package_changes([path("a-1.0")], [path("a-1.0"), path("a-2.0")])
    assert (change.before, change.after) == ("1.0", "1.0, 2.0")


def test_a_manual_that_goes_along_is_no_version_of_its_own_and_other_outputs_are_named() -> None:
    (change,) = package_changes([], [path("jq-1.6-bin"), path("jq-1.6-man")])
    assert change.after == "1.6"
    (change,) = package_changes([path("jq-1.6")], [path("jq-1.6"), path("jq-1.6-dev"), path("jq-1.7-man")])
    assert (change.before, change.after) == ("1.6", "1.6, 1.6-dev, 1.7-man")


def test_a_package_of_the_same_version_and_another_path_was_rebuilt() -> None:
    one, other = path("a-1.0"), type(path("a-1.0"))("0" * 32, "a-1.0")
    (change,) = package_changes([one], [other])
    assert change.rebuilt


def test_who_may_change_one_profile_alone_is_refused_all_others_at_once() -> None:
    seen = observation(profile("system", None), profile("user/alice", None), login="alice")
    mine, system, place = target("env-a"), target("top-a"), target("env-b")
    assert plan_host("web01", {ALICE: mine}, EMPTY, seen).state is State.PLANNED
    plan = plan_host("web01", {SYSTEM: system, ProfileId(place="default"): place, ALICE: mine}, EMPTY, seen)
    assert plan.state is State.FAILED
    assert plan.changes == ()
    assert plan.error is not None
    assert plan.error.message == (
        "web01: the login is alice, a user of its Nix daemon, who may change no profile but alice's own; "
        "the inventory has more: the system, profile default"
    )
    assert plan.error.hint == (
        "--users alice leaves the rest to others; as root all of it can be done: ansible_become: true"
    )


def test_hosts_with_different_logins_are_told_apart() -> None:
    def planned(host: str, login: str) -> HostPlan:
        return plan_host(host, {ALICE: target("env-a")}, EMPTY, observation(profile("user/alice", None), login=login))

    plan = Plan((planned("web01", "alice"), planned("web02", ""), planned("web03", "alice")))
    assert [[host.host for host in group] for group in plan.groups()] == [["web01", "web03"], ["web02"]]
