"""What a gc takes from hosts, as text and JSON."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from reconciler.cli.render.upkeep import host_json, problem
from reconciler.cli.render.words import ago, columns, count, size
from reconciler.core.agent.messages import CollectReply, Generation, PrunedProfile
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.logins import HostResult, Stage

_SHOWN_GENERATIONS = 12


def gc_text(hosts: Sequence[HostResult[CollectReply]], every_path: bool = False) -> str:
    """A block for each host: generations, paths and bytes that go, or that went."""
    now = time.time()
    lines = [line for host in hosts for line in _block(host, now, every_path)]
    return "\n".join([*lines, *_sum(hosts)])


def _block(host: HostResult[CollectReply], now: float, every_path: bool) -> list[str]:
    if host.error is not None:
        return problem(host)
    reply = host.reply
    if reply is None or not reply.managed:
        return [f"{host.host}   nothing: this host is not managed"]
    notes = [(ProfileId.parse(one.profile).label, one.note) for one in reply.profiles if one.note]
    if host.stage is Stage.NOTHING:
        return [f"{host.host}   nothing to delete", *columns(notes, indent="  ")]
    done = host.stage is Stage.DONE
    rows = [(ProfileId.parse(one.profile).label, _generations(one, done, now)) for one in reply.profiles if one.goes]
    freed = f"{count(reply.paths, 'path')}, {size(reply.freed)} {'freed' if done else 'to be freed'}"
    paths = [f"    /nix/store/{name}" for name in reply.deleted] if every_path else []
    return [
        host.host,
        *columns([*rows, *notes, ("store", f"{freed}; {count(reply.kept, 'path')} stay")], indent="  "),
        *paths,
    ]


def _generations(one: PrunedProfile, done: bool, now: float) -> str:
    shown = [_named(each, now) for each in one.goes[:_SHOWN_GENERATIONS]]
    more = len(one.goes) - len(shown)
    named = ", ".join([*shown, *([f"{more} more"] if more else [])])
    verb = ("is gone" if len(one.goes) == 1 else "are gone") if done else ("goes" if len(one.goes) == 1 else "go")
    return f"{count(len(one.goes), 'generation')} {verb}: {named}; {one.kept} kept"


def _named(one: Generation, now: float) -> str:
    return f"{one.number} ({ago(max(0.0, now - one.created))})"


def _sum(hosts: Sequence[HostResult[CollectReply]]) -> list[str]:
    replies = [host.reply for host in hosts if host.reply is not None and host.stage in (Stage.PLANNED, Stage.DONE)]
    if len(hosts) < 2 or not replies:
        return []
    done = any(host.stage is Stage.DONE for host in hosts)
    generations = sum(len(one.goes) for reply in replies for one in reply.profiles)
    paths, freed = sum(reply.paths for reply in replies), sum(reply.freed for reply in replies)
    what = f"{count(generations, 'generation')}, {count(paths, 'path')}, {size(freed)}"
    return ["", f"{what} {'freed' if done else 'to be freed'} on {count(len(replies), 'host')}."]


def gc_json(hosts: Sequence[HostResult[CollectReply]], status: int) -> dict[str, Any]:
    """The hosts as docs/json.md describes them."""
    return {"format": 1, "status": status, "hosts": [_host_json(host) for host in hosts]}


def _host_json(host: HostResult[CollectReply]) -> dict[str, Any]:
    reply = host.reply or CollectReply(False)
    return {
        **host_json(host),
        "profiles": [_profile_json(one) for one in reply.profiles],
        "paths": reply.paths,
        "deleted": [f"/nix/store/{name}" for name in reply.deleted],
        "freed": reply.freed,
        "kept": reply.kept,
    }


def _profile_json(one: PrunedProfile) -> dict[str, Any]:
    goes = [{"number": each.number, "path": each.path, "created": each.created} for each in one.goes]
    return {"profile": one.profile, "link": one.link, "goes": goes, "kept": one.kept, "note": one.note}
