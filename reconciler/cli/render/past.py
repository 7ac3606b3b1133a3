"""generations and history, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.cli.render.report import heading, report_text, result_words
from reconciler.cli.render.words import columns, packages_named, quoted, revision, when
from reconciler.core.agent.messages import Generation, HistoryEntry
from reconciler.core.errors import worst
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.journal import JournalEntry
from reconciler.fleet.look import HostGenerations, HostHistory
from reconciler.fleet.report import Report

_NAMED_PACKAGES = 6


# --- generations ------------------------------------------------------------------------------------------------------


def generations_text(hosts: Sequence[HostGenerations], now: float) -> str:
    """A line for each generation, the newest first; the current one is marked."""
    rows: list[tuple[str, ...]] = [("host", "profile", "generation", "made", "packages")]
    for host in hosts:
        rows += _host_rows(host, now)
    return "\n".join(columns(rows))


def _host_rows(host: HostGenerations, now: float) -> list[tuple[str, ...]]:
    if host.error is not None:
        return [(host.host, "-", "-", "-", f"{_failed(host)}: {' '.join(host.error.message.split())}")]
    rows: list[tuple[str, ...]] = []
    for profile, generations in host.profiles.items():
        for index, generation in enumerate(sorted(generations, key=lambda g: g.number, reverse=True)):
            label = profile.label if index == 0 else ""
            current = f"{generation.number} (current)" if generation.current else str(generation.number)
            name = host.host if not rows else ""
            rows.append((name, label, current, when(generation.created, now), _packages(generation)))
    return rows or [(host.host, "-", "-", "-", "no generations")]


def _failed(host: HostGenerations | HostHistory) -> str:
    return host.error.code.upper().replace("-", " ") if host.error else ""


def _packages(generation: Generation) -> str:
    names = [" ".join(each).strip() for each in packages_named(generation.packages)]
    more = f" and {len(names) - _NAMED_PACKAGES} more" if len(names) > _NAMED_PACKAGES else ""
    return ", ".join(names[:_NAMED_PACKAGES]) + more


def generations_json(hosts: Sequence[HostGenerations]) -> dict[str, Any]:
    """The generations as docs/json.md describes them."""
    return {
        "format": 1,
        "hosts": [
            {
                "host": host.host,
                "error": host.error.message if host.error else "",
                "profiles": {str(profile): [g.to_json() for g in each] for profile, each in host.profiles.items()},
            }
            for host in hosts
        ],
    }


# --- history ----------------------------------------------------------------------------------------------------------


def history_text(entries: Sequence[JournalEntry], now: float) -> str:
    """The deployments made from here, the newest first."""
    if not entries:
        return "no deployment has been made from here yet"
    rows: list[tuple[str, ...]] = [("id", "when", "who", "hosts", "result", "message")]
    for entry in sorted(entries, key=lambda entry: (entry.when, entry.id), reverse=True):
        who = entry.who.partition("@")[0]
        rows.append((entry.id, when(entry.when, now), who, str(len(entry.hosts)), _result(entry), _message(entry)))
    newest = max(entries, key=lambda entry: (entry.when, entry.id))
    made_from = f"revision of {newest.short}: {revision(newest.revision)}      " if newest.revision else ""
    host = newest.hosts[0].host if newest.hosts else "HOST"
    return "\n".join([*columns(rows), f"{made_from}more: history {newest.short}, history --host {host}"])


def _result(entry: JournalEntry) -> str:
    if not entry.finished:
        return "not finished: reconciler status tells"
    return result_words(entry.hosts)


def _message(entry: JournalEntry) -> str:
    if entry.kind != "rollback":
        return entry.message
    return "   ".join(
        part for part in (f"ROLLBACK of {entry.undoes}" if entry.undoes else "ROLLBACK", entry.message) if part
    )


def entry_text(entry: JournalEntry, now: float) -> str:
    """One deployment: what it did to every host."""
    head = f"{heading(entry.id, entry.who, entry.message)}   {when(entry.when, now)}"
    facts = [head, f"inventory  {'   '.join(part for part in (entry.inventory, revision(entry.revision)) if part)}"]
    if entry.undoes:
        facts.append(f"undoes     {entry.undoes}")
    if not entry.finished:
        facts.append("not finished: its controller ended before the run did; reconciler status tells what hosts run")
    report = Report(
        entry.id, entry.kind, entry.who, entry.message, entry.action, entry.hosts, entry.seconds, entry.undoes
    )
    return "\n".join(facts) + "\n\n" + report_text(report)


def host_history_text(hosts: Sequence[HostHistory], now: float) -> str:
    """What the hosts themselves remember, the newest first."""
    rows: list[tuple[str, ...]] = [("host", "when", "id", "who", "profile", "change", "message")]
    for host in hosts:
        if host.error is not None:
            rows.append(
                (host.host, "-", "-", "-", "-", "-", f"{_failed(host)}: {' '.join(host.error.message.split())}")
            )
        elif not host.entries:
            rows.append((host.host, "-", "-", "-", "-", "-", "no history"))
        for index, entry in enumerate(reversed(host.entries)):
            rows.append(_line(host.host if index == 0 else "", entry, now))
    return "\n".join(columns(rows))


def _line(host: str, entry: HistoryEntry, now: float) -> tuple[str, ...]:
    profile = ProfileId.parse(entry.profile).label
    change = " -> ".join(str(each.number) if each else "none" for each in (entry.before, entry.after))
    message = quoted(entry.message) if entry.message else ""
    if entry.kind == "rollback":
        message = f"ROLLBACK{f' of {entry.undoes}' if entry.undoes else ''} {message}".strip()
    return host, when(entry.when, now), entry.deployment, entry.who, profile, change, message


def history_json(entries: Sequence[JournalEntry]) -> dict[str, Any]:
    """The journal as docs/json.md describes it: newest first."""
    ordered = sorted(entries, key=lambda entry: (entry.when, entry.id), reverse=True)
    return {"format": 1, "deployments": [_entry_json(entry) for entry in ordered]}


def _entry_json(entry: JournalEntry) -> dict[str, Any]:
    """As a run's own document has it, and what the journal adds."""
    kept = entry.to_json()
    del kept["format"]  # the file's
    return {**kept, "seconds": round(entry.seconds, 3), "status": int(worst(host.status for host in entry.hosts))}


def host_history_json(hosts: Sequence[HostHistory]) -> dict[str, Any]:
    """Hosts' histories as docs/json.md describes them: oldest first, as they stand on the host."""
    return {
        "format": 1,
        "hosts": [
            {
                "host": host.host,
                "error": host.error.message if host.error else "",
                "entries": [entry.to_json() for entry in host.entries],
            }
            for host in hosts
        ],
    }
