"""What the journal says of runs that do not come to their end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from reconciler.core.agent.action import Action
from reconciler.core.errors import StoreError, UsageError
from reconciler.fleet.events import Silent
from reconciler.fleet.executor import Threads
from reconciler.fleet.journal import Journal, JournalEntry
from reconciler.fleet.outcomes import Event, State
from reconciler.fleet.plan import HostPlan
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.record import Recorder
from reconciler.fleet.report import HostReport
from reconciler.fleet.rollout import HostRun, Rollout, RunFacts

FACTS = RunFacts("260312-1412-k7", "deploy", "me@here", "", Action.SWITCH)
PREPARED = cast(
    "Prepared",
    SimpleNamespace(
        facts=FACTS, notes=["build01 was lost"], project=SimpleNamespace(inventory=SimpleNamespace(revision=""))
    ),
)


def a_rollout() -> Rollout:
    states = {"web01": State.PLANNED, "web02": State.UNCHANGED, "web03": State.UNREACHABLE}
    runs = [HostRun(HostPlan(host, state), None, Silent()) for host, state in states.items()]
    return Rollout(FACTS, runs, Threads(1), Silent(), deliver=lambda _: None)


def ended_by(error: BaseException, tmp_path: Path, advance: Any = lambda _: None) -> list[HostReport]:
    journal = Journal(tmp_path, "/inventory")
    rollout = a_rollout()

    def run() -> None:
        with Recorder(PREPARED, journal) as recorder:
            recorder.begin(rollout)
            advance(rollout)
            raise error

    with pytest.raises(type(error)):
        run()
    (entry,) = journal.entries()
    assert entry.finished
    return list(entry.hosts)


def test_a_run_that_an_error_ends_has_failed_on_the_hosts_that_it_did_not_come_to(tmp_path: Path) -> None:
    first, second, third = ended_by(UsageError("two packages own bin/cc"), tmp_path)
    assert (first.state, first.detail, first.probed) == (State.FAILED, "two packages own bin/cc", True)
    assert (second.state, third.state) == (State.UNCHANGED, State.UNREACHABLE)


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    first, *_ = ended_by(KeyboardInterrupt(), tmp_path)
    assert (first.state, first.detail) == (State.FAILED, "interrupted")


def test_what_ends_a_run_that_switches_leaves_it_unknown_what_the_hosts_run(tmp_path: Path) -> None:
    def advance(rollout: Rollout) -> None:
        rollout.switch()  # nothing is staged yet
        rollout.runs[0].happen(Event.REALISED)
        rollout.runs[0].happen(Event.STAGED)

    first, *_ = ended_by(RuntimeError("a fault of ours"), tmp_path, advance)
    assert (first.state, first.detail, first.probed) == (State.UNKNOWN, "a fault of ours", False)


class Full(Journal):
    """A journal whose disk is full once the run has begun."""

    def write(self, entry: JournalEntry) -> None:
        if entry.finished:
            raise StoreError("the journal cannot be written: /state/journal: No space left on device")
        super().write(entry)


def test_a_journal_that_cannot_be_written_does_not_hide_what_the_hosts_did(tmp_path: Path) -> None:
    rollout = a_rollout()
    with Recorder(PREPARED, Full(tmp_path, "/inventory")) as recorder:
        recorder.begin(rollout)
        report = recorder.report(rollout.runs)
    assert [host.host for host in report.hosts] == ["web01", "web02", "web03"]
    assert report.notes == (
        "build01 was lost",
        "the journal cannot be written: /state/journal: No space left on device; the hosts have their own history",
    )
