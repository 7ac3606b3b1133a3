"""The controller's record of its runs: one file a deployment, replaced whole at each step.

    <state directory>/journal/<deployment id>.json      {"format": 1, "deployment": …, "finished": true|false, …}

The truth about a host is the history on that host; the journal says what this controller asked for and what it saw. A
file with `finished` false is a run whose controller died: its hosts are to be probed.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.core.errors import RefusedError, StoreError, UsageError
from reconciler.core.fs import ensure_directory, replace_file
from reconciler.fleet.project import Project
from reconciler.fleet.report import HostReport

FORMAT = 1
_LETTERS = "abcdefghjkmnpqrstuvwxyz"  # without those that look like digits


@dataclass(frozen=True)
class JournalEntry:
    """One run. `when` is seconds since the epoch; `inventory` an absolute path; `revision` is the inventory's, as git
    says it, or empty."""

    id: str
    kind: str
    when: float
    who: str
    message: str
    action: str
    inventory: str
    revision: str
    undoes: str
    finished: bool
    seconds: float
    hosts: tuple[HostReport, ...]

    @property
    def short(self) -> str:
        """The end of the id, by which people call it: `k7`."""
        return self.id.rsplit("-", 1)[-1]

    def to_json(self) -> dict[str, Any]:
        fields = ("id", "kind", "when", "who", "message", "action", "inventory", "revision", "undoes", "finished")
        plain = {name: getattr(self, name) for name in fields}
        return {"format": FORMAT, **plain, "seconds": self.seconds, "hosts": [host.to_json() for host in self.hosts]}


class Journal:
    """The runs of one inventory, among those that are kept in one directory."""

    def __init__(self, directory: Path, inventory: str) -> None:
        self.directory = directory / "journal"
        self.inventory = inventory

    @classmethod
    def of(cls, project: Project) -> Journal:
        """Where the runs of this project's inventory are kept."""
        return cls(project.state_directory, os.path.abspath(project.inventory.directory))

    def write(self, entry: JournalEntry) -> None:
        """Put the run's file there, in the place of the one before; StoreError when that cannot be."""
        text = json.dumps(entry.to_json(), indent=1) + "\n"
        try:
            ensure_directory(str(self.directory), 0o700)
            replace_file(str(self.directory / f"{entry.id}.json"), text.encode(), mode=0o600)
        except OSError as error:
            raise StoreError(
                f"the journal cannot be written: {self.directory}: {error.strerror or error}",
                hint="make that possible, or name another place: XDG_STATE_HOME=DIRECTORY",
            ) from error

    def entries(self) -> tuple[JournalEntry, ...]:
        """Every run of this inventory, oldest first."""
        if not self.directory.is_dir():
            return ()
        found = (self._read(path) for path in self.directory.glob("*.json"))
        mine = (entry for entry in found if entry.inventory == self.inventory)
        return tuple(sorted(mine, key=lambda entry: (entry.when, entry.id)))

    def find(self, name: str) -> JournalEntry:
        """The run called `name`: its id, the end of its id when only one has it, or `last`."""
        entries = self.entries()
        if not entries:
            raise UsageError("no deployment has been made from here yet", hint="reconciler history --host HOST")
        if name == "last":
            return entries[-1]
        matching = [entry for entry in entries if name in (entry.id, entry.short)]
        if not matching:
            raise UsageError(
                f"no deployment '{name}' is in this controller's journal",
                hint="reconciler history lists them; one that was made elsewhere: reconciler history --hosts HOST",
            )
        if len(matching) > 1:
            several = ", ".join(entry.id for entry in matching)
            raise UsageError(f"'{name}' is the end of several deployments: {several}", hint="give the whole id")
        return matching[0]

    def new_id(self) -> str:
        """A deployment id: date, time, and a letter and a digit that no run of this journal has lately."""
        taken = {entry.name for entry in os.scandir(self.directory)} if self.directory.is_dir() else set()
        recent = {name.rsplit("-", 1)[-1] for name in sorted(taken)[-100:]}
        stamp = time.strftime("%y%m%d-%H%M")
        for attempt in range(1000):
            suffix = secrets.choice(_LETTERS) + secrets.choice("23456789")
            fresh = f"{suffix}.json" not in recent if attempt < 500 else f"{stamp}-{suffix}.json" not in taken
            if fresh:
                return f"{stamp}-{suffix}"
        raise RefusedError("too many deployments in one minute", hint="wait a minute and try again")

    def _read(self, path: Path) -> JournalEntry:
        try:
            value = json.loads(path.read_bytes())
            if value["format"] > FORMAT:
                raise StoreError(
                    f"{path}: written by a newer reconciler (format {value['format']}, this one reads up to {FORMAT})",
                    hint="upgrade this reconciler",
                )
            value.pop("format")
            hosts = tuple(HostReport.from_json(host) for host in value.pop("hosts"))
            return JournalEntry(**value, hosts=hosts)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"{path}: not a journal entry: {error}", hint="move the file away") from None


def touched(entries: Iterable[JournalEntry], host: str) -> tuple[JournalEntry, ...]:
    """The runs that named `host`."""
    return tuple(entry for entry in entries if any(report.host == host for report in entry.hosts))
