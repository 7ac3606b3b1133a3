"""Asking: the one function that asks whether to go on, and the one that asks for a secret."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from reconciler.cli.output import Output
from reconciler.cli.render.words import count
from reconciler.core.errors import UsageError
from reconciler.fleet.ask import Question, QuestionKind

_NO = ("no", "n", "")


@dataclass(frozen=True)
class Consent:
    """What the command line agreed to beforehand: nothing, `--yes`, or `--yes=N`."""

    given: bool = False
    number: int | None = None

    @classmethod
    def parse(cls, text: str | None) -> Consent:
        """The value of --yes: None when it was not given, empty when it stood alone; UsageError for another word."""
        if text is None:
            return cls()
        if text == "":
            return cls(given=True)
        if not text.isascii() or not text.isdigit():
            raise UsageError(f"--yes={text}: a number of hosts was expected", "--yes, or --yes=3")
        return cls(given=True, number=int(text))


@dataclass(frozen=True)
class Details:
    """What is shown on request before the answer: `d` the differences, `l` the hosts."""

    diff: Callable[[], str]
    hosts: Callable[[], str]


def ask(question: Question, consent: Consent, output: Output, details: Details) -> bool:
    """Whether to go on. UsageError where somebody would have to be asked and nobody can be, or --yes does not fit."""
    if question.kind is QuestionKind.NONE:
        return True
    if consent.number is not None and consent.number != question.number:
        raise UsageError(
            f"--yes={consent.number} was given, and {count(question.number, 'host')} would change",
            "look at the plan again; the fleet is not what it was",
        )
    if consent.given and (question.kind is QuestionKind.YES or consent.number is not None):
        return True
    if not output.interactive:
        raise _would_have_asked(question, consent)
    return _answer(question, output, details)


def _would_have_asked(question: Question, consent: Consent) -> UsageError:
    why = f"  ({'; '.join(question.reasons)})" if question.reasons else ""
    if question.kind is QuestionKind.NUMBER:
        asked = f"would have asked: {question.text} Type the number of hosts.{why}"
        alone = "--yes alone is not enough here: " if consent.given else ""
        return UsageError(asked, f"{alone}--yes={question.number}, after a look at the plan")
    return UsageError(f"would have asked: {question.text}{why}", "--yes answers it")


def _answer(question: Question, output: Output, details: Details) -> bool:
    wanted = "yes" if question.kind is QuestionKind.YES else str(question.number)
    shown = "yes" if question.kind is QuestionKind.YES else "the number of hosts"
    why = f" ({'; '.join(question.reasons)})" if question.kind is QuestionKind.NUMBER else ""
    while True:
        try:
            answer = output.prompt(f"{question.text}{why}  [{shown} / d diff / l hosts / no] ")
        except EOFError:
            output.note()
            return False
        if answer.lower() == wanted:
            return True
        if answer.lower() in _NO:
            return False
        if answer == "d":
            output.note(details.diff())
        elif answer == "l":
            output.note(details.hosts())
        else:
            output.note(f"'{answer}' is no answer: {shown}, or no")


def secret(prompt: str, output: Output) -> str:
    """A secret, typed without being shown. UsageError where nobody can be asked."""
    import getpass

    if not output.interactive:
        raise UsageError(f"would have asked: {prompt.rstrip(': ')}", "run it on a terminal, or leave out -K")
    return getpass.getpass(prompt, stream=output.err)


class Passphrases:
    """Asks for the passphrase of a private key, once for each key, one question at a time.

    Called from the threads of a probe, before anything is changed. None where nobody can be asked.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._known: dict[str, str | None] = {}

    def __call__(self, prompt: str) -> str | None:
        with self._lock:
            if prompt not in self._known:
                self._known[prompt] = secret(prompt, self._output) if self._output.interactive else None
            return self._known[prompt]
