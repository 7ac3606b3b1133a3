from __future__ import annotations

import io
import sys

import pytest

from reconciler.cli.ask import Consent, Details, Passphrases, ask, secret
from reconciler.cli.output import Output
from reconciler.core.errors import UsageError
from reconciler.fleet.ask import NOTHING_TO_ASK, Question, QuestionKind

YES = Question(QuestionKind.YES, 3, "Switch 3 hosts?", ("3 hosts change",))
NUMBER = Question(QuestionKind.NUMBER, 23, "Switch 23 hosts?", ("23 hosts change", "db01 is protected"))
DETAILS = Details(lambda: "THE DIFF", lambda: "THE HOSTS")


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    return Output(io.StringIO(), io.StringIO())


def somebody(monkeypatch: pytest.MonkeyPatch, typed: str) -> tuple[Output, Screen]:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdin", Screen(typed))
    screen = Screen()
    return Output(io.StringIO(), screen), screen


def test_where_there_is_nothing_to_ask_nobody_is_asked(nobody: Output) -> None:
    assert ask(NOTHING_TO_ASK, Consent(), nobody, DETAILS)


@pytest.mark.parametrize(
    ("typed", "goes_on"),
    [("yes\n", True), ("YES\n", True), ("no\n", False), ("\n", False), ("", False), ("y\nno\n", False)],
)
def test_only_yes_is_yes(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool) -> None:
    output, screen = somebody(monkeypatch, typed)
    assert ask(YES, Consent(), output, DETAILS) is goes_on
    assert screen.getvalue().startswith("Switch 3 hosts?  [yes / d diff / l hosts / no] ")


def test_the_difference_and_the_hosts_are_shown_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    output, screen = somebody(monkeypatch, "d\nl\nyes\n")
    assert ask(YES, Consent(), output, DETAILS)
    shown = screen.getvalue()
    assert shown.index("THE DIFF") < shown.index("THE HOSTS")
    assert shown.count("Switch 3 hosts?") == 3


@pytest.mark.parametrize(("typed", "goes_on"), [("23\n", True), ("yes\nno\n", False), ("22\n\n", False)])
def test_many_hosts_are_agreed_to_by_their_number(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: bool) -> None:
    output, screen = somebody(monkeypatch, typed)
    assert ask(NUMBER, Consent(), output, DETAILS) is goes_on
    question = "Switch 23 hosts? (23 hosts change; db01 is protected)  [the number of hosts / d diff / l hosts / no] "
    assert screen.getvalue().startswith(question)


def test_without_a_terminal_it_says_what_it_would_have_asked(nobody: Output) -> None:
    with pytest.raises(UsageError) as caught:
        ask(YES, Consent(), nobody, DETAILS)
    assert caught.value.message == "would have asked: Switch 3 hosts?  (3 hosts change)"
    assert caught.value.hint == "--yes answers it"


def test_yes_on_the_command_line_answers_beforehand(nobody: Output) -> None:
    assert ask(YES, Consent.parse(""), nobody, DETAILS)
    assert ask(YES, Consent.parse("3"), nobody, DETAILS)
    assert ask(NUMBER, Consent.parse("23"), nobody, DETAILS)


def test_a_bare_yes_is_not_enough_where_the_number_is_asked_for(nobody: Output) -> None:
    with pytest.raises(UsageError) as caught:
        ask(NUMBER, Consent.parse(""), nobody, DETAILS)
    assert caught.value.message == (
        "would have asked: Switch 23 hosts? Type the number of hosts.  (23 hosts change; db01 is protected)"
    )
    assert caught.value.hint == "--yes alone is not enough here: --yes=23, after a look at the plan"


@pytest.mark.parametrize("question", [YES, NUMBER])
def test_a_fleet_that_changed_since_the_number_was_counted_is_refused(nobody: Output, question: Question) -> None:
    with pytest.raises(UsageError) as caught:
        ask(question, Consent.parse("4"), nobody, DETAILS)
    assert caught.value.message == f"--yes=4 was given, and {question.number} hosts would change"


@pytest.mark.parametrize("text", ["x", "-1", "3.0", "٣"])
def test_yes_takes_a_number_and_nothing_else(text: str) -> None:
    with pytest.raises(UsageError, match="a number of hosts was expected"):
        Consent.parse(text)


def test_a_secret_is_not_asked_for_where_nobody_sits(nobody: Output) -> None:
    with pytest.raises(UsageError) as caught:
        secret("sudo's password on the hosts: ", nobody)
    assert caught.value.message == "would have asked: sudo's password on the hosts"
    assert Passphrases(nobody)("passphrase of id_ed25519: ") is None
