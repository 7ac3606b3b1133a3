from __future__ import annotations

import pytest

from reconciler.core.agent.action import Action
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.ask import QuestionKind, about_deploy, about_leave, about_python, about_rollback
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan, Plan, ProfileChangePlan


def plan(count: int, *, orphaned: bool = False) -> Plan:
    change = ProfileChangePlan(ProfileId("alice"), None, "/nix/store/x", 0, 1, (), orphaned)
    return Plan(tuple(HostPlan(f"web{n:02}", State.PLANNED, changes=(change,)) for n in range(1, count + 1)))


@pytest.mark.parametrize(
    ("hosts", "pattern", "protected", "kind"),
    [
        (0, "web*", (), QuestionKind.NONE),
        (1, "web*", (), QuestionKind.NONE),
        (2, "web*", (), QuestionKind.YES),
        (20, "web*", (), QuestionKind.YES),
        (21, "web*", (), QuestionKind.NUMBER),
        (2, "all", (), QuestionKind.NUMBER),
        (1, "web*", ("web01",), QuestionKind.NUMBER),
        (1, "web*", ("db01",), QuestionKind.NONE),
    ],
)
def test_what_is_asked_before_a_deploy(
    hosts: int, pattern: str, protected: tuple[str, ...], kind: QuestionKind
) -> None:
    question = about_deploy(plan(hosts), Action.SWITCH, pattern, protected)
    assert question.kind is kind
    assert question.number == (hosts if kind is not QuestionKind.NONE else 0)


def test_one_host_is_asked_about_when_a_user_is_emptied() -> None:
    question = about_deploy(plan(1, orphaned=True), Action.SWITCH, "web01", ())
    assert question.kind is QuestionKind.YES
    assert question.reasons == ("user alice left the inventory",)


@pytest.mark.parametrize("action", [Action.STAGE, Action.BUILD])
def test_nothing_is_asked_where_nothing_switches(action: Action) -> None:
    assert about_deploy(plan(30), action, "all", ()).kind is QuestionKind.NONE


@pytest.mark.parametrize(
    ("hosts", "pattern", "protected", "kind"),
    [
        ([], "all", (), QuestionKind.NONE),
        (["web01"], "web01", (), QuestionKind.YES),
        (["web01"], "all", (), QuestionKind.NUMBER),
        (["web01", "db01"], "web01,db01", ("db01",), QuestionKind.NUMBER),
    ],
)
def test_leaving_is_always_asked_about(
    hosts: list[str], pattern: str, protected: tuple[str, ...], kind: QuestionKind
) -> None:
    question = about_leave(hosts, pattern, protected)
    assert (question.kind, question.number) == (kind, len(hosts))


@pytest.mark.parametrize(
    ("hosts", "pattern", "protected", "kind"),
    [
        ([], "web*", (), QuestionKind.NONE),
        (["web01"], "web*", (), QuestionKind.YES),
        (["web01", "web02"], "all", (), QuestionKind.NUMBER),
        (["web01"], "web*", ("web01",), QuestionKind.NUMBER),
    ],
)
def test_bringing_a_python_is_always_asked_about(
    hosts: list[str], pattern: str, protected: tuple[str, ...], kind: QuestionKind
) -> None:
    question = about_python(hosts, "python3-3.12.8", pattern, protected)
    assert question.kind is kind
    if hosts:
        assert question.text == f"Bring python3-3.12.8 to {'1 host' if len(hosts) == 1 else '2 hosts'}?"


def test_a_rollback_is_always_asked_about_and_never_by_number() -> None:
    assert about_rollback(plan(1), "260101-0000-a2").kind is QuestionKind.YES
    assert about_rollback(plan(30), "260101-0000-a2").kind is QuestionKind.YES
    assert about_rollback(plan(0), "260101-0000-a2").kind is QuestionKind.NONE
