"""why, as text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reconciler.cli.render.words import abbreviated, columns
from reconciler.inventory.desired import Origin


@dataclass(frozen=True)
class Reason:
    """One entry of a host: `user` is empty for the system's profile. `dropped_by` says what took the entry away; then
    there is no `version` and no `output`."""

    name: str
    user: str
    origin: Origin
    version: str = ""
    output: str = ""
    dropped_by: Origin | None = None


def why_text(reasons: Sequence[Reason]) -> str:
    """A block for each reason."""
    return "\n\n".join("\n".join(_block(reason)) for reason in reasons)


def _block(reason: Reason) -> list[str]:
    rows = [("from", *_place(reason.origin))]
    rows += [("replaces", *_place(origin)) for origin in chain(reason.origin)]
    if reason.dropped_by is not None:
        rows.append(("dropped", *_place(reason.dropped_by)))
    lines = columns((row[1:] for row in rows), gap=4)
    return [_head(reason), *(f"  {row[0].ljust(9)}{line}" for row, line in zip(rows, lines, strict=True))]


def chain(origin: Origin) -> tuple[Origin, ...]:
    """What an entry replaced, nearest first, each once."""
    found: dict[Origin, None] = {}
    for each in origin.replaces:
        found |= {each: None, **dict.fromkeys(chain(each))}
    return tuple(found)


def _head(reason: Reason) -> str:
    place = f"in users.{reason.user}.packages" if reason.user else "in packages"
    if reason.dropped_by is not None:
        return f"{reason.name}   dropped   {place}"
    path = f"on {reason.user}'s PATH" if reason.user else "on PATH"
    return f"{' '.join((reason.name, reason.version)).strip()}   {abbreviated(reason.output)}    {place}, {path}"


def _place(origin: Origin) -> tuple[str, str, str]:
    return f"{origin.position.file}:{origin.position.line}", origin.text, origin.scope


def why_json(host: str, reasons: Sequence[Reason]) -> dict[str, Any]:
    """The reasons as docs/json.md describes them."""
    return {
        "format": 1,
        "host": host,
        "entries": [
            {
                "name": reason.name,
                "profile": f"user/{reason.user}" if reason.user else "system",
                "version": reason.version,
                "path": reason.output,
                "from": _origin_json(reason.origin),
                "replaces": [_origin_json(origin) for origin in chain(reason.origin)],
                "dropped_by": _origin_json(reason.dropped_by) if reason.dropped_by else None,
            }
            for reason in reasons
        ],
    }


def _origin_json(origin: Origin) -> dict[str, Any]:
    position = origin.position
    return {"file": position.file, "line": position.line, "column": position.column, "scope": origin.scope,
            "text": origin.text}  # fmt: skip
