"""What a push to a cache did, as text and as JSON."""

from __future__ import annotations

import time
from typing import Any

from reconciler.cli.render.words import columns, count, duration, size
from reconciler.core.nix.signature import PublicKey
from reconciler.packages.cache import PushEvent, PushResult

_BAR = 20


def event_text(event: PushEvent) -> str:
    """`14:12:31 pushed hello-2.10`."""
    clock = time.strftime("%H:%M:%S", time.localtime())
    return f"{clock} pushed {event.path.base_name[33:] if event.path else ''}"


def progress_text(event: PushEvent) -> str:
    """`push     ████░░░░  3.1 MiB of 20.0 MiB`."""
    filled = _BAR * event.done // event.total if event.total else _BAR
    return f"push     {'█' * filled}{'░' * (_BAR - filled)}  {size(event.done)} of {size(event.total)}"


def push_text(result: PushResult, directory: str, key: PublicKey | None, seconds: float) -> str:
    """What was pushed, each with its size in the cache and unpacked; what was there, in numbers."""
    lines = columns((f"+ {each.path}", size(each.file_size), f"of {size(each.nar_size)}") for each in result.pushed)
    added = sum(each.file_size for each in result.pushed)
    signed = sum(each.signed for each in result.skipped)
    counts = [f"{count(len(result.pushed), 'path')} pushed, {size(added)}"]
    counts += [f"{len(result.skipped)} already there"] if result.skipped else []
    counts += [f"{signed} of them signed now"] if signed else []
    lines += [""] if lines else []
    lines.append(f"{'; '.join(counts)}; {duration(seconds)}.  {directory}")
    lines.append(f"signed   {key}" if key else "signed   not at all: --unsigned")
    return "\n".join(lines)


def push_json(result: PushResult, directory: str, key: PublicKey | None) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {
        "format": 1,
        "cache": directory,
        "key": str(key) if key else None,
        "paths": [
            {
                "path": str(each.path),
                "state": "pushed" if each.pushed else "signed" if each.signed else "there",
                "nar_size": each.nar_size,
                "file_size": each.file_size,
            }
            for each in result.entries
        ],
    }
