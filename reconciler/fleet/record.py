"""Keep the journal while a run goes on, and turn Ctrl-C into a clean stop."""

from __future__ import annotations

import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from types import FrameType, TracebackType
from typing import Any, Self

from reconciler.core.errors import StoreError
from reconciler.fleet.journal import Journal, JournalEntry
from reconciler.fleet.outcomes import State
from reconciler.fleet.prepared import Prepared
from reconciler.fleet.report import HostReport, Report
from reconciler.fleet.rollout import HostRun, Rollout

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _cut_off(host: HostReport, cause: BaseException, switching: bool) -> HostReport:
    """A host of a run that ended before it came to this host."""
    if host.state.is_final:
        return host
    why = str(cause) or ("interrupted" if isinstance(cause, KeyboardInterrupt) else type(cause).__name__)
    if switching and host.state is not State.PLANNED:
        return replace(host, state=State.UNKNOWN, detail=why, hint="reconciler status", probed=False)
    return replace(host, state=State.FAILED, detail=why)


class Recorder:
    """The journal's entry of one run: written before the first byte is copied, before the switch, and at the end."""

    def __init__(self, prepared: Prepared, journal: Journal) -> None:
        self._prepared = prepared
        self._journal = journal
        self._started = time.monotonic()
        self._when = time.time()
        self._rollout: Rollout | None = None
        self._old_handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            self._old_handlers[number] = signal.signal(number, self._interrupted)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._old_handlers.items():
            signal.signal(number, handler)
        if value is not None and self._rollout is not None:
            # The journal must not look like a crash.
            switching = self._rollout.switching
            self._try_to_write([_cut_off(run.report(), value, switching) for run in self._rollout.runs], finished=True)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        """Before hosts are staged, stop at once; while they are, let go of all; once they switch, see it through."""
        if self._rollout is None or self._rollout.cancelled or not self._rollout.under_way:
            raise KeyboardInterrupt
        self._rollout.cancel()

    def begin(self, rollout: Rollout) -> None:
        self._rollout = rollout
        self._write([run.report() for run in rollout.runs], finished=False)

    def staged(self) -> None:
        """Before the switch. That the journal cannot be written any more is no reason to stop here."""
        if self._rollout is not None:
            self._try_to_write([run.report() for run in self._rollout.runs], finished=False)

    def report(self, runs: Sequence[HostRun]) -> Report:
        facts = self._prepared.facts
        seconds = time.monotonic() - self._started
        hosts = tuple(run.report() for run in runs)
        told = [note for run in runs for note in run.notes]
        notes = (*self._prepared.notes, *told, *self._try_to_write(hosts, finished=True))
        return Report(
            facts.id, facts.kind, facts.who, facts.message, facts.action.value, hosts, seconds, facts.undoes, notes
        )

    def _try_to_write(self, hosts: Sequence[HostReport], finished: bool) -> tuple[str, ...]:
        """Write; else what is to be said about it: what hosts did must be told in any case."""
        try:
            self._write(hosts, finished)
        except StoreError as error:
            return (f"{error.message}; the hosts have their own history",)
        return ()

    def _write(self, hosts: Sequence[HostReport], finished: bool) -> None:
        facts, inventory = self._prepared.facts, self._prepared.project.inventory
        entry = JournalEntry(
            id=facts.id,
            kind=facts.kind,
            when=self._when,
            who=facts.who,
            message=facts.message,
            action=facts.action.value,
            inventory=self._journal.inventory,
            revision=inventory.revision,
            undoes=facts.undoes,
            finished=finished,
            seconds=time.monotonic() - self._started,
            hosts=tuple(hosts),
        )
        self._journal.write(entry)
