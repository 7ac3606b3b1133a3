"""status and doctor, as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from reconciler.cli.render.plan import inventory_line
from reconciler.cli.render.report import status_word
from reconciler.cli.render.words import abbreviated, columns, count, duration, number, quoted, when
from reconciler.core.agent.messages import HistoryEntry, ProfileState
from reconciler.core.errors import ExitStatus
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.doctor import Fitness
from reconciler.fleet.plan import ProfileChangePlan
from reconciler.fleet.status import HostStatus, StatusReport, Word


def status_text(report: StatusReport, inventory: str, revision: str, now: float, exit_code: bool) -> str:
    """The table, the findings, the sums."""
    probed = f"{count(len(report.hosts), 'host')} probed in {duration(report.seconds)}"
    blocks = [[inventory_line(inventory, revision, probed)], _table(report.hosts, now)]
    findings = _findings(report.hosts)
    if findings:
        blocks.append(findings)
    blocks.append(_sums(report, exit_code))
    return "\n\n".join("\n".join(block) for block in blocks)


def _table(hosts: Sequence[HostStatus], now: float) -> list[str]:
    rows: list[tuple[str, ...]] = [("host", "state", "system", "users", "since")]
    return columns([*rows, *(_row(host, now) for host in hosts)])


def _row(host: HostStatus, now: float) -> tuple[str, ...]:
    if host.observation is None or host.word is Word.UNFIT:
        error = host.plan.error
        return host.host, host.word.value, "-", "-", " ".join(error.message.split()) if error else ""
    changes = {change.profile: change for change in host.plan.changes}
    wanted = [ProfileId.parse(state.profile) for state in host.observation.profiles]
    profiles = sorted({*wanted, *changes})
    users = ", ".join(text for p in profiles if not p.is_system and (text := _cell(host, p, changes.get(p), p.label)))
    system = _cell(host, ProfileId.SYSTEM, changes.get(ProfileId.SYSTEM), "")
    return host.host, host.word.value, system or "-", users or "-", _since(host, now)


def _cell(host: HostStatus, profile: ProfileId, change: ProfileChangePlan | None, label: str) -> str:
    state = host.observation.profile(str(profile)) if host.observation else None
    current = state.current if state else None
    if change is None and current is None:
        return ""
    has = number(current) if current else "none"
    if change is None or (current and change.will_be == current.number):
        return f"{label} {has}".strip()
    return f"{label} {has} wants {change.will_be}" if label else f"{has}, wants {change.will_be}"


def _since(host: HostStatus, now: float) -> str:
    if host.findings:
        return f"{count(len(host.findings), 'finding')} below"
    if host.plan.problems:
        return "; ".join(f"{name}: {problem}" for name, problem in host.plan.problems.items())
    if host.word is Word.NEW:
        return "not managed yet"
    last = _last(host)
    if last is None:
        return ""
    short = last.deployment.rsplit("-", 1)[-1]
    if last.kind == "rollback":
        undone = f", undid {last.undoes.rsplit('-', 1)[-1]}" if last.undoes else ""
        return (
            f"rolled back {when(last.when, now)} {short}{undone}{f': {quoted(last.message)}' if last.message else ''}"
        )
    return f"{when(last.when, now)}  {short}"


def _last(host: HostStatus) -> HistoryEntry | None:
    states: Sequence[ProfileState] = host.observation.profiles if host.observation else ()
    return max((state.last for state in states if state.last), key=lambda entry: entry.when, default=None)


def _findings(hosts: Sequence[HostStatus]) -> list[str]:
    rows = []
    for host in hosts:
        for index, finding in enumerate(host.findings):
            rows.append((host.host if index == 0 else "", finding.subject, abbreviated(finding.text), finding.remedy))
    return columns(rows)


def _sums(report: StatusReport, exit_code: bool) -> list[str]:
    counter = Counter(host.word for host in report.hosts)
    words = ", ".join(f"{counter[word]} {word.value.lower()}" for word in Word if counter[word])
    lines = [f"{words}.      verified: profiles, and that each closure is registered on its host"]
    if report.status is not ExitStatus.OK:
        status = int(report.status)
        lines.append(
            f"exit status {status} ({status_word(report.status)})"
            if exit_code
            else f"exit status {status} with --exit-code"
        )
    return lines


def status_json(report: StatusReport, inventory: str, revision: str) -> dict[str, Any]:
    """The report as docs/json.md describes it."""
    return {
        "format": 1,
        "inventory": inventory,
        "revision": revision,
        "status": int(report.status),
        "hosts": [_host_json(host) for host in report.hosts],
    }


def _host_json(host: HostStatus) -> dict[str, Any]:
    observed = host.observation
    wants = {str(change.profile): change for change in host.plan.changes}
    return {
        "host": host.host,
        "state": host.word.name.lower(),
        "error": host.plan.error.message if host.plan.error else "",
        "running": observed.running if observed else "",
        "profiles": [
            {
                "profile": state.profile,
                "link": state.link,
                "current": state.current.to_json() if state.current else None,
                "wants": wants[state.profile].to if state.profile in wants else None,
                "complete": state.complete,
                "last": state.last.to_json() if state.last else None,
                "problem": state.problem,
            }
            for state in (observed.profiles if observed else ())
        ],
        "findings": [
            {"subject": finding.subject, "text": finding.text, "remedy": finding.remedy} for finding in host.findings
        ],
    }


def doctor_text(hosts: Sequence[Fitness]) -> str:
    """A line for each host, what to do beside what is wrong, and the sums."""
    unfit = [f for f in hosts if not f.ready]
    wrong = dict(zip((f.host for f in unfit), columns((_one_line(f.problem), f.remedy) for f in unfit), strict=True))
    rows = [(f.host, "ready", f.facts) if f.ready else (f.host, "NOT FIT", wrong[f.host]) for f in hosts]
    brought = Counter(f.brought.partition("-")[2] for f in hosts if f.brought)
    told = ", ".join(f"{name} was brought to {count(number, 'host')}" for name, number in brought.items())
    sums = f"{len(hosts) - len(unfit)} ready, {len(unfit)} not fit. {told or 'Nothing was changed'}."
    return "\n".join([*columns(rows), sums])


def _one_line(text: str) -> str:
    return " ".join(text.split())


def doctor_json(hosts: Sequence[Fitness]) -> dict[str, Any]:
    """The findings as docs/json.md describes them."""
    return {
        "format": 1,
        "hosts": [
            {
                "host": f.host,
                "ready": f.ready,
                "facts": f.facts,
                "problem": f.problem,
                "remedy": f.remedy,
                "brought": f.brought,
            }
            for f in hosts
        ],
    }
