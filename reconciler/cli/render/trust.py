"""Host keys, as text."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.cli.render.words import columns, count
from reconciler.core.errors import ReconcilerError
from reconciler.fleet.ask import Question, QuestionKind
from reconciler.transport.knownhosts import HostKey, Names


class Standing(enum.Enum):
    """What known_hosts says of the key that a host shows."""

    NEW = "not known yet"
    KNOWN = "known already"
    CHANGED = "CHANGED"
    UNREACHABLE = "UNREACHABLE"


@dataclass(frozen=True)
class Shown:
    """One host's key. `file` is the known_hosts file that it belongs into; `error` says more where there is more."""

    host: str
    standing: Standing
    names: Names | None = None
    key: HostKey | None = None
    file: str = ""
    error: ReconcilerError | None = None


def trust_text(shown: Sequence[Shown]) -> str:
    """A line for each host: type and fingerprint as `ssh-keygen -lf` prints them, and what is known."""
    return "\n".join(columns(_row(each) for each in shown))


def _row(each: Shown) -> tuple[str, ...]:
    more = f": {' '.join(each.error.message.split())}" if each.error else ""
    if each.key is None:
        return each.host, f"{each.standing.value}{more}"
    return each.host, each.key.type, each.key.fingerprint, f"{each.standing.value}{more}"


def question(wanted: Sequence[Shown]) -> Question:
    """What is asked before keys are enrolled."""
    changed = [each.host for each in wanted if each.standing is Standing.CHANGED]
    files = ", ".join(dict.fromkeys(each.file for each in wanted))
    text = f"Enrol {count(len(wanted), 'host key')} in {files}?"
    if changed:
        text = f"{text} This replaces the key of {' '.join(changed)}."
    return Question(QuestionKind.YES, len(wanted), text, ("a host key decides who is deployed to",))


def trust_json(shown: Sequence[Shown]) -> dict[str, Any]:
    """The keys as docs/json.md describes them."""
    return {
        "format": 1,
        "hosts": [
            {
                "host": each.host,
                "standing": each.standing.name.lower(),
                "name": each.names.name if each.names else "",
                "type": each.key.type if each.key else "",
                "fingerprint": each.key.fingerprint if each.key else "",
                "file": each.file,
                "error": each.error.message if each.error else "",
            }
            for each in shown
        ],
    }
