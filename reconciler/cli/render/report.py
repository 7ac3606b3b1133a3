"""What a run did, as text: the table, why hosts are not where they should be, and what to type next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from reconciler.cli.render.words import (
    change_words,
    columns,
    count,
    duration,
    hosts_named,
    number,
    quoted,
    shell_word,
    shortened,
    size,
)
from reconciler.core.agent.action import Action
from reconciler.core.errors import ExitStatus
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind
from reconciler.fleet.report import HostReport, ProfileReport, Report

# What a table's last column holds; the whole of it stands above the table.
_REMARK = 72

# By host, by package: the version.
Held = Mapping[str, Mapping[str, str]]

# A package has a column of its own while there are at most so many.
_PACKAGE_COLUMNS = 3
_BAD = (State.FAILED, State.REFUSED, State.REVERTED, State.UNREACHABLE, State.UNKNOWN)


def heading(id_: str, who: str, message: str) -> str:
    """`260312-1412-k7   deployer@ops01   'nginx 1.26'`."""
    return "   ".join(part for part in (id_, who, quoted(message) if message else "") if part)


def report_text(report: Report, pattern: str = "", held: Held | None = None) -> str:
    """The report. `pattern` is what --hosts was, for the command to type next; `held` the packages that were found by
    the probe, for the hosts that did not change."""
    held = held or {}
    blocks = [_trouble(hosts, report) for hosts in _alike(host for host in report.hosts if host.state in _BAD)]
    if any(host.state is not State.UNCHANGED for host in report.hosts):
        blocks.append(_table(report, held))
    blocks.append([*_summary(report, held), *_next(report, pattern)])
    return "\n\n".join("\n".join(block) for block in blocks)


# --- hosts that are not where they should be --------------------------------------------------------------------------


def _alike(hosts: Iterable[HostReport]) -> list[list[HostReport]]:
    """Hosts of which the same is to be told together: a package that cannot be built fails many in one way."""
    groups: dict[tuple[object, ...], list[HostReport]] = {}
    for host in hosts:
        groups.setdefault((host.state, host.probed, _detail(host), host.hint), []).append(host)
    return list(groups.values())


def _detail(host: HostReport) -> str:
    return host.detail.removeprefix(f"{host.host}: ")


def _trouble(hosts: Sequence[HostReport], report: Report) -> list[str]:
    host = hosts[0]
    names = hosts_named([each.host for each in hosts])
    indent = " " * (len(names) + 2 if len(hosts) == 1 else 7)
    first, *rest = _detail(host).splitlines() or [""]
    head = f"{names}  {_verdict(host)}"
    lines = [f"{head}: {first}" if first else head, *(f"{indent}{line}" for line in rest)]
    if truth := _truth(host, report) if len(hosts) == 1 else _truth_of_all(hosts, report):
        lines.append(f"{indent}{truth}")
    if host.hint:
        said, *more = host.hint.splitlines()
        lines += [f"{indent}next  {said}", *(f"{indent}      {line}" for line in more)]
    return lines


def _verdict(host: HostReport) -> str:
    if host.state in (State.FAILED, State.REFUSED):
        return f"{host.state.value.upper()} before the switch"
    return str(host.state.value).upper()


def _truth(host: HostReport, report: Report) -> str:
    """What the host runs now, as far as that is known."""
    if not host.probed:
        return "what it runs now is not known until it is probed"
    if host.state is State.UNKNOWN:
        return f"probed: {', '.join(_now(profile) for profile in host.profiles)}"
    if host.state is State.UNREACHABLE:
        return "it was not switched"
    if not report_switches(report):
        return ""
    now = ", ".join(_now(profile) for profile in host.profiles)
    return f"runs what it ran before: {now}" if now else "runs what it ran before"


def _truth_of_all(hosts: Sequence[HostReport], report: Report) -> str:
    truths = {_truth(each, report) for each in hosts}
    if hosts[0].state in (State.FAILED, State.REFUSED) and report_switches(report):
        return f"each {truths.pop()}" if len(truths) == 1 else "each runs what it ran before"
    return "they were not switched" if hosts[0].state is State.UNREACHABLE else "; ".join(sorted(truths))


def _now(profile: ProfileReport) -> str:
    return f"{profile.profile.label} {number(profile.now)}" if profile.now else f"no {profile.profile.label} profile"


def report_switches(report: Report) -> bool:
    """Whether the run was to make hosts run something else."""
    return Action(report.action).switches


# --- the table --------------------------------------------------------------------------------------------------------


def _table(report: Report, held: Held) -> list[str]:
    profiles = _profiles(report.hosts)
    packages = [] if Action(report.action) is Action.TEST else _package_columns(report.hosts)
    rows = [("host", "state", *(profile.label for profile in profiles), *packages, "")]
    for host in report.hosts:
        by_id = {profile.profile: profile for profile in host.profiles}
        cells = [_generations(by_id.get(profile)) for profile in profiles]
        versions = [_version(host, name, held) for name in packages]
        rows.append((host.host, host.state.value, *cells, *versions, _remark(host, packages)))
    return columns(rows)


def _profiles(hosts: Sequence[HostReport]) -> list[ProfileId]:
    """The profiles that have a column, the system's first: those that were to change, and the system's in any case."""
    return sorted({p.profile for host in hosts for p in host.profiles if p.profile.is_system or p.before != p.after})


def _generations(profile: ProfileReport | None) -> str:
    if profile is None:
        return "-"
    if profile.now == profile.before:
        return number(profile.now)
    return " -> ".join(str(each.number) if each else "none" for each in (profile.before, profile.now))


def _package_columns(hosts: Sequence[HostReport]) -> list[str]:
    """The packages that changed, when few did and each in one profile of a host only."""
    changes = [(host.host, c.name) for host in hosts for p in host.profiles for c in p.packages]
    names = sorted({name for _, name in changes})
    return names if len(names) <= _PACKAGE_COLUMNS and len(set(changes)) == len(changes) else []


def _version(host: HostReport, name: str, held: Held) -> str:
    """The version of a changed package that the host has now; `?` where the report cannot tell."""
    for profile in host.profiles:
        for change in profile.packages:
            if change.name == name:
                if not host.probed:
                    return "?"
                done = profile.now == profile.after and profile.now != profile.before
                return (change.after if done else change.before) or "-"
    return held.get(host.host, {}).get(name, "") if host.probed else ""


def _remark(host: HostReport, packages: Sequence[str]) -> str:
    first = shortened(_detail(host).splitlines()[0], _REMARK) if host.detail else ""
    if host.state in _BAD or host.partial:
        return f"left out: {first}" if host.state not in _BAD and first else first
    if packages or host.state is State.UNCHANGED:
        return first
    changed = [change_words(c) for p in host.profiles for c in p.packages]
    more = f"; {len(changed) - 3} more" if len(changed) > 3 else ""
    return "; ".join(changed[:3]) + more


# --- the end ----------------------------------------------------------------------------------------------------------


def _summary(report: Report, held: Held) -> list[str]:
    shown = report.counts()
    shown.setdefault(State.UNREACHABLE, 0)
    order = [
        State.CONFIRMED,
        State.STAGED,
        State.REALISED,
        State.FAILED,
        State.REFUSED,
        State.REVERTED,
        State.UNKNOWN,
        State.HELD,
        State.UNCHANGED,
        State.UNREACHABLE,
    ]
    words = ", ".join(f"{shown[state]} {state.value}" for state in order if state in shown)
    line = f"{words}.  {duration(report.seconds)}."
    return [f"{line}  {_mixed(report.hosts, held)}".rstrip(), *_fetched(report.hosts)]


def _fetched(hosts: Sequence[HostReport]) -> list[str]:
    """How the bytes came, where hosts fetched by themselves."""
    fetching = [host for host in hosts if host.fetched]
    if not fetching:
        return []
    fetched, sent = sum(host.fetched for host in fetching), sum(host.sent for host in hosts)
    return [f"{size(fetched)} came from caches straight to {count(len(fetching), 'host')}, {size(sent)} from here."]


def _mixed(hosts: Sequence[HostReport], held: Held) -> str:
    """Whether the run left hosts with different versions of what it was to change everywhere."""
    names = sorted({c.name for h in hosts for p in h.profiles for c in p.packages if c.kind is ChangeKind.CHANGED})
    mixed = [
        name for name in names if len({v for h in hosts if (v := _version(h, name, held)) not in ("", "-", "?")}) > 1
    ]
    return f"These hosts run two versions of {', '.join(mixed)}." if mixed else ""


_KEPT = {
    Action.TEST: "activated only: the profile is as it was, and a reboot returns to it",
    Action.BOOT: "set only: it is activated at the next boot",
}


def _next(report: Report, pattern: str) -> list[str]:
    lines = []
    rows = [(command, what) for command, what in _commands(report, pattern) if command]
    for index, line in enumerate(columns(rows)):
        lines.append(f"{'next' if index == 0 else ''}".ljust(9) + line)
    note = _KEPT.get(Action(report.action))
    if note and any(host.state is State.CONFIRMED for host in report.hosts):
        lines.insert(0, note)
    lines = [*(f"note     {note}" for note in report.notes), *lines]
    status = report.status
    if status is not ExitStatus.OK:
        lines.append(f"exit status {int(status)} ({status_word(status)})")
    return lines


def _commands(report: Report, pattern: str) -> list[tuple[str, str]]:
    if not report_switches(report):
        return []
    short = report.id.rsplit("-", 1)[-1]
    bad = [host.host for host in report.hosts if host.state in _BAD or host.partial]
    done = [host.host for host in report.hosts if host.state is State.CONFIRMED]
    unknown = [host.host for host in report.hosts if host.state is State.UNKNOWN]
    found = []
    if unknown:
        found.append((f"reconciler status --hosts {shell_word(','.join(unknown))}", "find out what they run"))
    if bad and report.kind == "deploy":
        hosts = shell_word(pattern or ",".join(bad))
        found.append((f"deploy --hosts {hosts}", f"try {hosts_named(bad)} again; the others need nothing"))
    if done and Action(report.action) is Action.TEST:
        found.append((f"deploy --hosts {shell_word(pattern or ','.join(done))}", "keep it"))
    elif done and report.kind == "deploy":
        found.append((f"reconciler rollback --deployment {short}", f"put {hosts_named(done)} back"))
    return found


_STATUS_WORDS = {
    ExitStatus.FAILED: "failed before the switch",
    ExitStatus.REVERTED: "reverted",
    ExitStatus.UNREACHABLE: "unreachable",
    ExitStatus.UNKNOWN: "unknown",
    ExitStatus.REFUSED: "refused",
    ExitStatus.UNITS_FAILED: "units failed",
    ExitStatus.PENDING: "changes pending or drift",
    ExitStatus.INTERNAL: "our own fault",
    ExitStatus.USAGE: "typed wrong",
}


def status_word(status: ExitStatus) -> str:
    """What an exit status means, in a few words."""
    return _STATUS_WORDS.get(status, "done")


def result_words(hosts: Sequence[HostReport]) -> str:
    """`2 confirmed 1 unreachable: ops01`: the outcome in a column of the history."""
    order = dict.fromkeys(host.state for host in sorted(hosts, key=lambda host: list(State).index(host.state)))
    parts = []
    for state in order:
        names = [host.host for host in hosts if host.state is state]
        few = f": {' '.join(names)}" if state in _BAD and len(names) <= 2 else ""
        parts.append(f"{len(names)} {state.value}{few}")
    return " ".join(parts) or count(0, "host")
