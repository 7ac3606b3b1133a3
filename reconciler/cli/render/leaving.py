"""What leaving takes from hosts, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.cli.render.words import columns, number
from reconciler.core.agent.messages import LeaveReply, LeavingProfile
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.logins import HostResult, Stage


def leaving_text(hosts: Sequence[HostResult[LeaveReply]]) -> str:
    """A block for each host: what goes, what goes back, what stays."""
    return "\n\n".join("\n".join(_block(host)) for host in hosts)


def _block(host: HostResult[LeaveReply]) -> list[str]:
    if host.error is not None:
        message = " ".join(host.error.message.removeprefix(f"{host.host}: ").split())
        hint = [f"  next     {host.error.hint}"] if host.error.hint else []
        return [f"{host.host}   {host.error.code.upper().replace('-', ' ')}: {message}", *hint]
    if host.stage is Stage.NOTHING or host.reply is None:
        return [f"{host.host}   nothing: this host is not managed"]
    return [host.host, *columns(_rows(host.reply, done=host.stage is Stage.DONE), indent="  ")]


def _rows(reply: LeaveReply, done: bool) -> list[tuple[str, str]]:
    rows = [("profile", f"{ProfileId.parse(one.profile).label}: {_fate(one, done)}") for one in reply.profiles]
    rows += [("removed" if done else "removes", path) for path in reply.files]
    return rows + [("keeps", sentence) for sentence in reply.kept]


def _fate(one: LeavingProfile, done: bool) -> str:
    drops = f"; {len(one.drops)} of its generations {'are gone' if done else 'go'}" if one.drops else ""
    if one.kept:
        return f"stays as it is, {one.kept}{drops}"
    if one.back is not None:
        again = "is" if done else "goes back to"
        return f"{number(one.current)} -> {one.back.number}, it {again} what it was before{drops}"
    return f"{'is gone' if done else 'goes away'}: there was none before{drops}"


def leaving_json(hosts: Sequence[HostResult[LeaveReply]], status: int) -> dict[str, Any]:
    """The hosts as docs/json.md describes them."""
    return {"format": 1, "status": status, "hosts": [_host_json(host) for host in hosts]}


def _host_json(host: HostResult[LeaveReply]) -> dict[str, Any]:
    reply = host.reply or LeaveReply(False)
    return {
        "host": host.host,
        "state": "left" if host.stage is Stage.DONE else host.stage.value,
        "error": host.error.message if host.error else "",
        "hint": (host.error.hint or "") if host.error else "",
        "profiles": [one.to_json() for one in reply.profiles],
        "removes": list(reply.files),
        "nix": reply.nix,
        "keeps": list(reply.kept),
    }
