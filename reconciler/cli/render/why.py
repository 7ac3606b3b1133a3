"""why, as text."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.cli.render.lock import entry_age, entry_json
from reconciler.cli.render.words import abbreviated, columns
from reconciler.core.profile.names import DEFAULT, ProfileId
from reconciler.inventory.desired import Origin
from reconciler.packages.lock import LockEntry


@dataclass(frozen=True)
class Reason:
    """One entry of a host. `dropped_by` says what took the entry away; then there is no `version` and no `output`."""

    name: str
    profile: ProfileId
    origin: Origin
    version: str = ""
    output: str = ""
    dropped_by: Origin | None = None
    lock: LockEntry | None = None


def why_text(reasons: Sequence[Reason]) -> str:
    """A block for each reason."""
    return "\n\n".join("\n".join(_block(reason)) for reason in reasons)


def _block(reason: Reason) -> list[str]:
    rows = [("from", *_place(reason.origin))]
    rows += [("replaces", *_place(origin)) for origin in chain(reason.origin)]
    if reason.dropped_by is not None:
        rows.append(("dropped", *_place(reason.dropped_by)))
    if reason.lock is not None:
        rows.append(("locked", *_locked(reason.lock)))
    lines = columns((row[1:] for row in rows), gap=4)
    return [_head(reason), *(f"  {row[0].ljust(9)}{line}" for row, line in zip(rows, lines, strict=True))]


def chain(origin: Origin) -> tuple[Origin, ...]:
    """What an entry replaced, nearest first, each once."""
    found: dict[Origin, None] = {}
    for each in origin.replaces:
        found |= {each: None, **dict.fromkeys(chain(each))}
    return tuple(found)


def _head(reason: Reason) -> str:
    profile = reason.profile
    place = "in packages"
    if not profile.is_system:
        place = f"in {'users' if profile.user else 'profiles'}.{profile.label}.packages"
    if reason.dropped_by is not None:
        return f"{reason.name}   dropped   {place}"
    what = " ".join((reason.name, reason.version)).strip()
    return f"{what}   {abbreviated(reason.output)}    {place}{_on_path(profile)}"


def _on_path(profile: ProfileId) -> str:
    if profile.place not in ("", DEFAULT):
        return ""  # a place of one's own is on nobody's PATH by itself
    return f", on {profile.user}'s PATH" if profile.user else ", on PATH"


def _place(origin: Origin) -> tuple[str, str, str]:
    return f"{origin.position.file}:{origin.position.line}", origin.text, origin.scope


def _locked(entry: LockEntry) -> tuple[str, str, str]:
    place = f"{entry.position.file}:{entry.position.line}" if entry.position else ""
    return place, f"{entry.version}, {entry_age(entry, time.time())}, by {entry.by}", ""


def why_json(host: str, reasons: Sequence[Reason]) -> dict[str, Any]:
    """The reasons as docs/json.md describes them."""
    return {
        "format": 1,
        "host": host,
        "entries": [
            {
                "name": reason.name,
                "profile": str(reason.profile),
                "version": reason.version,
                "path": reason.output,
                "from": _origin_json(reason.origin),
                "replaces": [_origin_json(origin) for origin in chain(reason.origin)],
                "lock": entry_json(reason.lock),
                "dropped_by": _origin_json(reason.dropped_by) if reason.dropped_by else None,
            }
            for reason in reasons
        ],
    }


def _origin_json(origin: Origin) -> dict[str, Any]:
    position = origin.position
    return {"file": position.file, "line": position.line, "column": position.column, "scope": origin.scope,
            "text": origin.text}  # fmt: skip
