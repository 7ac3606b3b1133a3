"""What is asked before a gc, what came of a repair, and what the commands end with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from reconciler.core.agent.messages import FindingMessage, VerifyReply
from reconciler.core.errors import LinkLostError, RefusedError, UnreachableError
from reconciler.fleet import logins, repairing, upkeep
from reconciler.fleet.ask import QuestionKind, about_gc
from reconciler.fleet.logins import HostResult, Stage
from reconciler.fleet.repairing import Broken, Patient, Repaired, Repairs

A, B, C = (f"/nix/store/{letter * 32}-{letter}" for letter in "abc")
CHANGED, LOST, ROW = (
    FindingMessage(A, "changed", "its hash is another", True),
    FindingMessage(B, "missing", "nothing lies there", True),
    FindingMessage(C, "database", "a row that cannot be right", False),
)
STRANGER = FindingMessage("/nix/store/x", "unregistered", "garbage", False)
LINK = FindingMessage("/nix/store/.links/1", "links", "other contents", True)


@pytest.mark.parametrize(
    ("hosts", "generations", "chosen", "kind", "text"),
    [
        ([], 0, ("all", ()), QuestionKind.NONE, ""),
        (["web01"], 0, ("web01", ()), QuestionKind.YES, "Delete what nothing keeps on 1 host?"),
        (["web01"], 1, ("web01", ()), QuestionKind.YES, "Delete 1 generation and what nothing keeps on 1 host?"),
        (["a", "b"], 7, ("all", ()), QuestionKind.NUMBER, "Delete 7 generations and what nothing keeps on 2 hosts?"),
        (["a"], 0, ("a", ("a",)), QuestionKind.NUMBER, "Delete what nothing keeps on 1 host?"),
    ],
)
def test_a_gc_is_always_asked_about_where_anything_goes(
    hosts: list[str], generations: int, chosen: tuple[str, tuple[str, ...]], kind: QuestionKind, text: str
) -> None:
    question = about_gc(hosts, generations, *chosen)
    assert (question.kind, question.number, question.text) == (kind, len(hosts), text)


def test_a_repair_tells_of_each_path_where_it_came_from_or_why_it_is_broken() -> None:
    patient = Patient("web01", (CHANGED, LOST, ROW, STRANGER, LINK))
    assert patient.paths == (A, B)
    patient.mended([LINK.path])
    patient.sources[A] = "host web02"
    patient.reasons[B] = ["the caches: not there"]
    assert patient.repairs(()) == Repairs(
        5,
        (Repaired("/nix/store/.links/1", "in place"), Repaired(A, "host web02")),
        (Broken(B, "missing", "nothing lies there; the caches: not there"), Broken(C, "database", ROW.detail)),
        1,
    )


def test_what_is_still_wrong_after_a_repair_is_not_called_repaired() -> None:
    patient = Patient("web01", (CHANGED,), sources={A: "in place"})
    found = patient.repairs((CHANGED,))
    assert (found.repaired, found.broken) == ((), (Broken(A, "changed", CHANGED.detail),))


def test_a_host_is_no_source_of_what_is_broken_on_it() -> None:
    patient = Patient("web01", (CHANGED,))
    assert patient.broken(A)
    assert patient.broken(B)  # there is no login any more


FOUND = HostResult("a", Stage.DONE, VerifyReply(True, 9, 9, 1, (ROW,)))
CLEAN = HostResult("b", Stage.DONE, VerifyReply(True, 9, 9))
AWAY: HostResult[Any] = HostResult("c", Stage.FAILED, error=UnreachableError("timed out"))
CUT: HostResult[Any] = HostResult("d", Stage.FAILED, error=LinkLostError("lost"))
BUSY: HostResult[Any] = HostResult("e", Stage.FAILED, error=RefusedError("locked"))
LEFT = HostResult("f", Stage.DONE, Repairs(1, (), (Broken(A, "changed", ""),)))
MENDED = HostResult("g", Stage.DONE, Repairs(1, (Repaired(A, "in place"),)))


def test_the_exit_status_is_the_worst() -> None:
    assert [upkeep.verify_status(hosts) for hosts in ((CLEAN,), (CLEAN, FOUND), (FOUND, AWAY))] == [0, 9, 5]
    assert [logins.status(hosts) for hosts in ((CLEAN,), (BUSY, AWAY), (CUT, AWAY))] == [0, 5, 6]
    assert [repairing.status(hosts) for hosts in ((MENDED,), (MENDED, LEFT), (LEFT, AWAY))] == [0, 3, 3]


def test_what_a_host_tells_of_its_progress_is_data() -> None:
    told: list[Mapping[str, Any]] = []
    tell = upkeep.telling(lambda host, event: told.append({"host": host, **event}), "web01")
    tell({"kind": "deleted", "path": "x", "count": 3, "bytes": 7, "more": "?"})
    tell({"kind": 5, "count": "3", "bytes": None})
    tell({})
    assert told == [{"host": "web01", "kind": "deleted", "path": "x", "count": 3, "bytes": 7}]
