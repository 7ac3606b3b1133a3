"""A plan as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from reconciler.cli.render.words import (
    ago,
    columns,
    count,
    duration,
    hosts_named,
    number,
    quoted,
    shell_word,
    size,
    versions,
)
from reconciler.core.agent.messages import HistoryEntry
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import ChangeKind, HostPlan, Plan, ProfileChangePlan
from reconciler.fleet.prepared import NO_FETCHES, Fetches, Site

_LABEL = 11
_PLACES = {"controller": "here", "target": "on each host"}


@dataclass(frozen=True)
class PlanView:
    """Everything that a plan's text says. `revision` is git's word for the inventory, or empty; `group` the group that
    the pattern amounts to, or empty; `creates` what a first deployment makes on a host, `creates_also` what more
    on some; `next` the command to type; `reaches_hosts` is false for a build, which talks to no host;
    `build_on` the places that are said for packages of the hosts that change, `sites` who would make each build;
    `lock` the lock's age, `unlocked` the references that it lacks."""

    inventory: str
    revision: str
    pattern: str
    plan: Plan
    seconds: float
    group: str = ""
    build_on: tuple[str, ...] = ("controller",)
    builds: tuple[str, ...] = ()
    sites: tuple[Site, ...] = ()
    copy_bytes: Mapping[str, int] = field(default_factory=dict)
    creates: tuple[str, ...] = ()
    creates_also: tuple[str, ...] = ()
    next: str = ""
    now: float = 0.0
    reaches_hosts: bool = True
    lock: str = ""
    unlocked: str = ""
    fetches: Fetches = NO_FETCHES


def plan_text(view: PlanView, nothing_changed: bool = True) -> str:
    """The whole plan. `nothing_changed`: say so at its end, because nothing follows it."""
    if not view.reaches_hosts:
        return "\n".join([*_header(view), "", _label("realise", f"{_builds(view)}; no host is changed")])
    blocks = [_header(view, nothing_changed)]
    blocks += [_group(group, view) for group in view.plan.groups()]
    blocks += _standing_still(view.plan)
    if view.plan.changing:
        blocks.append(_costs(view))
    blocks.append([*_notes(view), *_footer(view, nothing_changed)])
    return "\n\n".join("\n".join(block) for block in blocks)


def _label(name: str, text: str) -> str:
    return f"{name.ljust(_LABEL)}{text}".rstrip()


def inventory_line(inventory: str, revision: str, rest: str = "") -> str:
    """`inventory  inventories/shop   git 9bc1f04, clean`."""
    return _label("inventory", "   ".join(part for part in (inventory, revision, rest) if part))


def _header(view: PlanView, to_be_said: bool = True) -> list[str]:
    """`to_be_said`: name the references that are not pinned; a deploy says so itself when it pins them."""
    matched = len(view.plan.hosts)
    group = f" (group {view.group})" if view.group else ""
    probed = f"probed in {duration(view.seconds)}" if view.reaches_hosts else "not asked"
    return [
        inventory_line(view.inventory, view.revision, view.lock),
        _label("hosts", f"'{view.pattern}' matches {matched}{group}   {probed}"),
        *([_label("lock", view.unlocked)] if view.unlocked and to_be_said else []),
    ]


def _group(group: Sequence[HostPlan], view: PlanView) -> list[str]:
    names = hosts_named([host.host for host in group])
    head = _label(count(len(group), "host"), names)
    lines = [head]
    if group[0].first:
        lines = [f"{head}   first deployment: {_not_managed(len(group))}", *_first(group, view)]
    return [*lines, *_changes(group[0].changes), *_adopted(group[0]), *_left_out(group[0])]


def _not_managed(hosts: int) -> str:
    return "this host is not managed yet" if hosts == 1 else "these hosts are not managed yet"


def _first(group: Sequence[HostPlan], view: PlanView) -> list[str]:
    free = min((host.observation.store_free for host in group if host.observation), default=0)
    least = " at least" if len(group) > 1 else ""
    nixos = bool(group[0].observation and group[0].observation.nixos)
    login = group[0].login
    room = f"({size(free)} free on its file system{least})"
    creates = f"/nix/var/reconciler {room}" if nixos else ", ".join([f"/nix {room}", *view.creates])
    creates = f"~/.local/state/reconciler of {login}; /nix {room} is its Nix daemon's" if login else creates
    users = [change.profile.user for change in group[0].changes if change.profile.user]
    links = [f"~/.nix-profile of {' '.join(users)}, unless it is there"] if users else []
    more = [" " * _LABEL + one for one in (*links, *(() if nixos or login else view.creates_also))]
    hosts = shell_word(group[0].host if len(group) == 1 else view.pattern)
    return [
        f"  creates  {creates}",
        *more,
        f"  keeps    everything else; `reconciler leave --hosts {hosts}` removes all of it",
    ]


def _changes(changes: Sequence[ProfileChangePlan]) -> list[str]:
    rows = [row for change in changes for row in _rows(change)]
    width = max((len(row[0]) for row in rows), default=0)
    body = columns((row[1:] for row in rows), gap=3)
    return [f"  {row[0].ljust(max(width, 6))}   {line}".rstrip() for row, line in zip(rows, body, strict=True)]


def _rows(change: ProfileChangePlan) -> list[tuple[str, ...]]:
    """The lines of one profile: its label on the first, then a package with its versions, or a sentence."""
    label = change.profile.label
    if not change.to:
        return [(label, "- the profile", f"generation {number(change.before)}")]
    rows: list[tuple[str, ...]] = [("", f"{c.kind.value} {c.name}", versions(c)) for c in change.packages]
    if change.orphaned:
        stays = "this user left the inventory: an empty generation; the account stays"
        rows.append(("", f"({stays})" if change.profile.user else "(it left the inventory: an empty generation)"))
    if not rows:
        rows = [("", _without_packages(change))]
    return [(label, *rows[0][1:]), *rows[1:]]


def _without_packages(change: ProfileChangePlan) -> str:
    if change.before is None:
        return f"generation {change.will_be}, empty"
    if change.before.path == change.to:
        return f"generation {change.before.number} is set already; it is activated again"
    return f"generation {change.before.number} -> {change.will_be}, the same packages"


def _adopted(host: HostPlan) -> list[str]:
    names = ", ".join(profile.label for profile in host.adopts)
    return [f"  adopts   {names}: something else made what is there; rollback brings it back"] if names else []


def _left_out(host: HostPlan) -> list[str]:
    return [f"  {name.ljust(6)}   left out: {problem}" for name, problem in host.problems.items()]


def _standing_still(plan: Plan) -> list[list[str]]:
    blocks = []
    unchanged = [host.host for host in plan.having(State.UNCHANGED)]
    if unchanged:
        blocks.append([_label(count(len(unchanged), "host"), f"{hosts_named(unchanged)}   nothing to do")])
    alike: dict[tuple[str, str, str], list[HostPlan]] = {}
    for host in plan.hosts:
        if host.state not in (State.PLANNED, State.UNCHANGED):
            key = (host.state.value, _reason(host), (host.error.hint or "") if host.error else "")
            alike.setdefault(key, []).append(host)
    return blocks + [_absent(hosts, *key) for key, hosts in alike.items()]


def _reason(host: HostPlan) -> str:
    if host.error is not None:
        return host.error.message.removeprefix(f"{host.host}: ")
    return "; ".join(f"profile {name}: {problem}" for name, problem in host.problems.items())


def _absent(hosts: Sequence[HostPlan], state: str, reason: str, hint: str) -> list[str]:
    """Hosts that take no part, for the same reason."""
    first, *rest = reason.splitlines() or [""]
    names = hosts_named([host.host for host in hosts])
    lines = [_label(count(len(hosts), "host"), f"{names}   {state.upper()}: {first}".rstrip(": "))]
    lines += [" " * _LABEL + line.strip() for line in rest]
    return [*lines, _label("", f"next  {hint}")] if hint else lines


def _costs(view: PlanView) -> list[str]:
    lines = [_label("realise", _builds(view))]
    free = [host.observation.store_free for host in view.plan.changing if host.observation]
    room = f"; free on /nix: {size(min(free))}{' at least' if len(free) > 1 else ''}" if free else ""
    lines.append(_label("copy", f"{_copied(view)}{room}"))
    return lines


def _builds(view: PlanView) -> str:
    parts = [
        f"{count(len(site.builds), 'build')} {_where(site.places)} ({', '.join(site.builds)})" for site in view.sites
    ]
    if view.fetches.paths:
        parts.append(f"{count(view.fetches.paths, 'path')} from caches, {size(view.fetches.bytes)}")
    return ", ".join(parts) or "nothing to build"


def _where(places: Sequence[str]) -> str:
    """`here`, `on each host`, or the hosts of which one will make it."""
    hosts = [place for place in places if place not in _PLACES]
    return " or ".join([*(_PLACES[place] for place in places if place in _PLACES), *_on(hosts)])


def _on(hosts: Sequence[str]) -> list[str]:
    return [f"on {' or '.join(hosts)}"] if hosts else []


def _copied(view: PlanView) -> str:
    known = [view.copy_bytes[host.host] for host in view.plan.changing if host.host in view.copy_bytes]
    if not known:
        return f"how much is known once it is {'built' if view.sites or not view.fetches.paths else 'fetched'}"
    if not any(known):
        return "nothing: every path is there"
    hosts = count(len(known), "host")
    if len(set(known)) == 1:
        return f"{size(known[0])} to each of {hosts}" if len(known) > 1 else f"{size(known[0])} to {hosts}"
    return f"{size(sum(known))} to {hosts}, at most {size(max(known))} to one"


def _notes(view: PlanView) -> list[str]:
    warning = brings_back(view.plan, view.now)
    return [_label("note", f"brings back {warning}")] if warning else []


def brings_back(plan: Plan, now: float) -> str:
    """`nginx 1.26.1 on web01 web02, which deployer rolled back 25 min ago (k8: 'shop 502s')`; empty for nothing.

    Several rollbacks are told one after the other.
    """
    found: dict[str, dict[str, None]] = {}
    named: dict[str, dict[str, None]] = {}
    for host in plan.changing:
        for entry in host.undone:
            message = f": {quoted(entry.message)}" if entry.message else ""
            short = entry.deployment.rsplit("-", 1)[-1]
            who = entry.who.partition("@")[0]
            text = f"which {who} rolled back {ago(now - entry.when)} ({short}{message})"
            found.setdefault(text, {})[host.host] = None
            named.setdefault(text, {}).update(dict.fromkeys(_coming_back(host, entry)))
    return "; ".join(
        f"{', '.join(named[text]) or 'what was there'} on {hosts_named(list(hosts))}, {text}"
        for text, hosts in found.items()
    )


def _coming_back(host: HostPlan, entry: HistoryEntry) -> list[str]:
    """The packages that come with the profile that `entry` undid, as a person knows them."""
    return [
        f"{package.name} {package.after}".strip()
        for change in host.changes
        if entry.before is not None and change.to == entry.before.path
        for package in change.packages
        if package.kind is not ChangeKind.REMOVED
    ]


def _footer(view: PlanView, nothing_changed: bool) -> list[str]:
    lines = [f"Plan: {counted(view.plan)}.{'  Nothing was changed.' if nothing_changed else ''}"]
    if nothing_changed and view.next and view.plan.changing:
        lines.append(_label("next", view.next))
    return lines


def counted(plan: Plan) -> str:
    """`3 to change, 1 unchanged, 0 unreachable`; failed and refused only where there are any."""
    numbers = {state: len(plan.having(state)) for state in (State.FAILED, State.REFUSED)}
    parts = [
        f"{len(plan.changing)} to change",
        f"{len(plan.having(State.UNCHANGED))} unchanged",
        f"{len(plan.having(State.UNREACHABLE))} unreachable",
        *(f"{found} {state.value}" for state, found in numbers.items() if found),
    ]
    return ", ".join(parts)


def diff_text(plan: Plan) -> str:
    """Every changing profile with its store paths, host by host."""
    rows: list[tuple[str, ...]] = []
    for host in plan.changing:
        for change in host.changes:
            before = f"{change.before.number} {change.before.path}" if change.before else "no generation"
            after = f"{change.will_be} {change.to}" if change.to else "no profile"
            rows += [(host.host, change.profile.label, f"- {before}"), ("", "", f"+ {after}")]
    return "\n".join(columns(rows))


def hosts_text(plan: Plan) -> str:
    """Every changing host in a line of its own."""
    return "\n".join(host.host for host in plan.changing)


def plan_json(view: PlanView) -> dict[str, Any]:
    """The plan as docs/json.md describes it."""
    return {
        "format": 1,
        "inventory": view.inventory,
        "revision": view.revision,
        "pattern": view.pattern,
        "status": int(view.plan.status),
        "builds": list(view.builds),
        "build_on": list(view.build_on),
        "sites": [{"places": list(site.places), "builds": list(site.builds)} for site in view.sites],
        "fetches": {"paths": view.fetches.paths, "bytes": view.fetches.bytes},
        "hosts": [_host_json(host, view) for host in view.plan.hosts],
    }


def _host_json(host: HostPlan, view: PlanView) -> dict[str, Any]:
    return {
        "host": host.host,
        "state": host.state.value,
        "first": host.first,
        "adopts": [str(profile) for profile in host.adopts],
        "changes": [_change_json(change) for change in host.changes],
        "problems": dict(host.problems),
        "error": host.error.message if host.error else "",
        "hint": (host.error.hint or "") if host.error else "",
        "brings_back": [entry.deployment for entry in host.undone],
        "copy_bytes": view.copy_bytes.get(host.host),
    }


def _change_json(change: ProfileChangePlan) -> dict[str, Any]:
    return {
        "profile": str(change.profile),
        "before": change.before.to_json() if change.before else None,
        "after": {"number": change.will_be, "path": change.to} if change.to else None,
        "left_inventory": change.orphaned,
        "packages": [
            {"name": c.name, "change": c.kind.value, "before": c.before, "after": c.after} for c in change.packages
        ],
    }
