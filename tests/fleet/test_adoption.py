"""What something else made is not replaced unless somebody says so, and some of it never."""

from __future__ import annotations

from reconciler.core.agent.messages import ProfileState
from reconciler.core.errors import RefusedError
from reconciler.core.profile.names import ProfileId
from reconciler.fleet import ask
from reconciler.fleet.adoption import judged
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan, Plan, plan_host
from reconciler.fleet.plan import Target as PlanTarget
from tests.fleet.values import entry, generation, observation, path, profile, target

DEFAULT = ProfileId(place="default")
ROOT = ProfileId("root")
LINK = "/nix/var/nix/profiles/default"


def default(name: str, **others: object) -> ProfileState:
    return profile("default", generation(3, name), link=LINK, packages=(str(path("htop-3.2")),), **others)


def planned(state: ProfileState, adopt: bool = False, wanted: str = "env-a") -> HostPlan:
    wanted_target: PlanTarget = target(wanted, "fd-10.2")
    return judged(plan_host("web01", {DEFAULT: wanted_target}, None, observation(state)), adopt)


def test_a_foreign_profile_keeps_its_host_out_and_says_what_is_there() -> None:
    plan = planned(default("foreign"))
    assert (plan.state, plan.changes) == (State.REFUSED, ())
    assert isinstance(plan.error, RefusedError)
    assert plan.error.message == (
        "web01: this would replace what something else made: profile default (generation 3: htop 3.2)"
    )
    assert "--adopt" in (plan.error.hint or "")


def test_one_that_is_adopted_is_planned_and_asked_about() -> None:
    from reconciler.core.agent.action import Action

    plan = planned(default("foreign"), adopt=True)
    assert (plan.state, plan.adopts) == (State.PLANNED, (DEFAULT,))
    question = ask.about_deploy(Plan((plan,)), Action.SWITCH, "web01", ())
    assert question.reasons == ("--adopt replaces what something else made: profile default",)


def test_one_that_is_already_what_is_wanted_is_left_as_it_is() -> None:
    assert planned(default("env-a")).state is State.UNCHANGED


def test_one_that_we_made_is_replaced_also_when_something_else_changed_it_since() -> None:
    mine = entry("260101-0000-a2", None, generation(2, "env-b"), profile="default")
    plan = planned(default("foreign", last=mine))
    assert (plan.state, plan.adopts) == (State.PLANNED, ())


def test_a_guarded_one_is_never_replaced() -> None:
    mine = entry("260101-0000-a2", None, generation(2, "env-b"), profile="default")
    for last in (None, mine):
        plan = planned(default("foreign", last=last, guard="Nix itself lives in it"), adopt=True)
        assert plan.state is State.REFUSED
        assert plan.error is not None
        assert plan.error.message == "web01: profile default is not replaced: Nix itself lives in it"


def test_one_profile_under_two_names_is_left_out_under_both() -> None:
    seen = observation(profile("default", None, link=LINK), profile("user/root", None, link=LINK))
    plan = plan_host("web01", {DEFAULT: target("env-a"), ROOT: target("env-b")}, None, seen)
    assert (plan.state, plan.changes) == (State.FAILED, ())
    assert plan.problems["default"] == f"profile default and user root are one profile on this host: {LINK}"
