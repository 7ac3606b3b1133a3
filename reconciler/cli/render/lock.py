"""What is new in a lock, and what moves, as text."""

from __future__ import annotations

import calendar
import time
from collections.abc import Sequence
from typing import Any

from reconciler.cli.render.words import ago, columns, count, size
from reconciler.fleet.locking import Move
from reconciler.packages.lock import LockEntry

_NAMED = 3


def changes_text(moves: Sequence[Move], lock: str, *, written: bool) -> str:
    """What `lock` did, or with `written` off would do."""
    if not moves:
        return f"{lock} is complete; nothing moves."
    tail = "" if written else "  Nothing was written."
    return "\n".join([*_table(moves), "", f"{_counts(moves)} in {lock}.{tail}"])


def outdated_text(moves: Sequence[Move], lock: str) -> str:
    """The pins behind which there is something newer, and how to move them."""
    if not moves:
        return f"Nothing that {lock} pins has anything newer."
    names = " ".join(dict.fromkeys(f"--update {move.entry.reference}" for move in moves))
    return "\n".join([*_table(moves), "", f"next     reconciler lock {names}"])


def _table(moves: Sequence[Move]) -> list[str]:
    return columns(
        (_sign(move), move.entry.reference, _versions(move), _sizes(move), move.entry.system) for move in moves
    )


def _sign(move: Move) -> str:
    if move.before is None:
        return "+"
    return "-" if move.after is None else "~"


def _versions(move: Move) -> str:
    words = [entry.version for entry in (move.before, move.after) if entry is not None]
    return " -> ".join(dict.fromkeys(words))


def _sizes(move: Move) -> str:
    known = [entry.size for entry in (move.before, move.after) if entry is not None and entry.size is not None]
    return " -> ".join(dict.fromkeys(size(number) for number in known))


def _counts(moves: Sequence[Move]) -> str:
    kinds = {"+": "new", "~": "moved", "-": "no longer named"}
    signs = [_sign(move) for move in moves]
    return ", ".join(f"{signs.count(sign)} {word}" for sign, word in kinds.items() if sign in signs)


def new_entries_text(entries: Sequence[LockEntry], lock: str) -> str:
    """`locked   2 new references in inventories/shop/reconciler.lock: hello@2 (2.10), units (2.22)`."""
    shown = dict.fromkeys(f"{entry.reference} ({entry.version})" for entry in entries)
    names = list(shown)
    few = ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    return f"{count(len(names), 'new reference')} in {lock}: {few}"


def age(entries: Sequence[LockEntry], now: float) -> str:
    """`lock 2 days old`, by its newest entry; empty for an empty lock."""
    if not entries:
        return ""
    said = entry_age(max(entries, key=lambda entry: entry.at), now)
    return "lock new" if said == "just now" else f"lock {said.removesuffix(' ago')} old"


def entry_age(entry: LockEntry, now: float) -> str:
    """`4 days ago`."""
    return ago(max(0.0, now - calendar.timegm(time.strptime(entry.at, "%Y-%m-%dT%H:%MZ"))))


def moves_json(moves: Sequence[Move]) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {
        "format": 1,
        "changes": [
            {
                "reference": move.entry.reference,
                "system": move.entry.system,
                "before": entry_json(move.before),
                "after": entry_json(move.after),
            }
            for move in moves
        ],
    }


def entry_json(entry: LockEntry | None) -> dict[str, Any] | None:
    """One entry; None for none."""
    if entry is None:
        return None
    path = None if entry.path is None else str(entry.path)
    return {"set": entry.set, "version": entry.version, "path": path, "size": entry.size, "at": entry.at or None,
            "by": entry.by or None}  # fmt: skip
