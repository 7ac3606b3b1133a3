"""What verify, repair and optimise found and did, as text and JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reconciler.cli.render.words import abbreviated, columns, count, size
from reconciler.core.agent.messages import FindingMessage, OptimiseReply, VerifyReply
from reconciler.fleet.logins import HostResult, Stage
from reconciler.fleet.repairing import GARBAGE, Repairs
from reconciler.fleet.upkeep import HERE

_SHOWN = 50  # findings of a host; --json has more


def problem(host: HostResult[Any]) -> list[str]:
    """Why a host did not answer."""
    assert host.error is not None
    message = " ".join(host.error.message.removeprefix(f"{host.host}: ").split())
    hint = [f"  next     {host.error.hint}"] if host.error.hint else []
    return [f"{host.host}   {host.error.code.upper().replace('-', ' ')}: {message}", *hint]


def host_json(host: HostResult[Any]) -> dict[str, Any]:
    """What is said of every host."""
    return {
        "host": host.host,
        "state": host.stage.value,
        "error": host.error.message if host.error else "",
        "hint": (host.error.hint or "") if host.error else "",
    }


def _which(host: str) -> str:
    return "--here" if host == HERE else f"--hosts {host}"


# --- verify -----------------------------------------------------------------------------------------------------------


def verify_text(hosts: Sequence[HostResult[VerifyReply]], contents: bool) -> str:
    """A line for each host, below it one for each finding, and what to do."""
    return "\n".join(line for host in hosts for line in _verified(host, contents))


def _verified(host: HostResult[VerifyReply], contents: bool) -> list[str]:
    if host.error is not None:
        return problem(host)
    reply = host.reply
    if reply is None or not reply.store:
        return [f"{host.host}   nothing: there is no store"]
    looked = f"{count(reply.checked, 'path')}, {size(reply.bytes)}{'' if contents else ', no file read'}"
    if not reply.found:
        return [f"{host.host}   ok   {looked}"]
    rows = [(one.kind, abbreviated(one.path), one.detail) for one in reply.findings[:_SHOWN]]
    more = reply.found - len(rows)
    return [
        f"{host.host}   {count(reply.found, 'finding').upper()}   {looked}",
        *columns(rows, indent="  "),
        *([f"  … and {more} more; --json names them"] if more else []),
        *(f"  next     {step}" for step in next_steps(host.host, reply.findings)),
    ]


def next_steps(host: str, findings: Sequence[FindingMessage]) -> list[str]:
    """The commands that mend what was found."""
    steps = []
    if any(one.repairable for one in findings):
        steps.append(f"reconciler repair {_which(host)}")
    if any(one.kind == GARBAGE for one in findings):
        steps.append(f"reconciler gc {_which(host)}")
    if any(not one.repairable and one.kind != GARBAGE for one in findings):
        steps.append("no command mends the rest; docs/commands/repair.md says what can be done")
    return steps


def verify_json(hosts: Sequence[HostResult[VerifyReply]], status: int) -> dict[str, Any]:
    """The hosts as docs/json.md describes them."""
    return {"format": 1, "status": status, "hosts": [_verify_host_json(host) for host in hosts]}


def _verify_host_json(host: HostResult[VerifyReply]) -> dict[str, Any]:
    reply = host.reply or VerifyReply(False)
    return {
        **host_json(host),
        "checked": reply.checked,
        "bytes": reply.bytes,
        "found": reply.found,
        "findings": [one.to_json() for one in reply.findings],
    }


# --- repair -----------------------------------------------------------------------------------------------------------


def repair_text(hosts: Sequence[HostResult[Repairs]]) -> str:
    """A line for each path that was repaired, with where its contents came from, and for each that was not."""
    return "\n".join(line for host in hosts for line in _repaired(host))


def _repaired(host: HostResult[Repairs]) -> list[str]:
    reply = host.reply
    head = problem(host) if host.error is not None else []
    if reply is None:
        return head
    rows = [("repaired", abbreviated(one.path), f"from {one.source}" if one.source != "in place" else "in place")
            for one in reply.repaired]  # fmt: skip
    rows += [("BROKEN", abbreviated(one.path), f"{one.kind}: {one.reason}") for one in reply.broken]
    garbage = [f"  next     reconciler gc {_which(host.host)}   ({count(reply.garbage, 'path')} that nothing knows)"]
    if not head:
        head = [f"{host.host}   {_summary(reply)}"]
    return [*head, *columns(rows, indent="  "), *(garbage if reply.garbage else [])]


def _summary(reply: Repairs) -> str:
    if not reply.found:
        return "ok: nothing to repair"
    return f"{len(reply.repaired)} repaired, {len(reply.broken)} broken"


def repair_json(hosts: Sequence[HostResult[Repairs]], status: int) -> dict[str, Any]:
    """The hosts as docs/json.md describes them."""
    return {"format": 1, "status": status, "hosts": [_repair_host_json(host) for host in hosts]}


def _repair_host_json(host: HostResult[Repairs]) -> dict[str, Any]:
    reply = host.reply or Repairs()
    return {
        **host_json(host),
        "found": reply.found,
        "repaired": [{"path": one.path, "source": one.source} for one in reply.repaired],
        "broken": [{"path": one.path, "kind": one.kind, "reason": one.reason} for one in reply.broken],
        "garbage": reply.garbage,
    }


# --- optimise ---------------------------------------------------------------------------------------------------------


def optimise_text(hosts: Sequence[HostResult[OptimiseReply]]) -> str:
    """A line for each host."""
    return "\n".join(line for host in hosts for line in _optimised(host))


def _optimised(host: HostResult[OptimiseReply]) -> list[str]:
    if host.error is not None:
        return problem(host)
    reply = host.reply
    if reply is None or host.stage is Stage.NOTHING:
        return [f"{host.host}   nothing: this host is not managed"]
    skipped = [f"  skipped  /nix/store/{path}   writable; reconciler verify {_which(host.host)} tells more"
               for path in reply.skipped[:_SHOWN]]  # fmt: skip
    return [f"{host.host}   {count(reply.files, 'file')} linked, {size(reply.freed)} freed", *skipped]


def optimise_json(hosts: Sequence[HostResult[OptimiseReply]], status: int) -> dict[str, Any]:
    """The hosts as docs/json.md describes them."""
    return {"format": 1, "status": status, "hosts": [_optimise_host_json(host) for host in hosts]}


def _optimise_host_json(host: HostResult[OptimiseReply]) -> dict[str, Any]:
    reply = host.reply or OptimiseReply(False)
    return {**host_json(host), "files": reply.files, "freed": reply.freed, "skipped": list(reply.skipped)}


# --- meanwhile --------------------------------------------------------------------------------------------------------


def waiting_text(host: str) -> str:
    """A collection of somebody else runs there."""
    return f"{host}   waits for another garbage collection"


def progress_text(host: str, event: Mapping[str, Any]) -> str:
    """How far a host has come."""
    amount = f"   {size(event['bytes'])}" if event["bytes"] else ""
    return f"{host}   {event['kind']} {event['count']}{amount}"
