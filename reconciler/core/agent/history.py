"""What was changed on a host: /nix/var/reconciler/history.

    first line     reconciler-history 1
    every other    one HistoryEntry as JSON, oldest first, ending in a newline

Appended to under the host's lock, each append on the disk before anything is told. A last line without its newline was
cut off by a crash: it is not read, and the next append takes it away. A newer format is refused by name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence

from reconciler.core import fs
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import HistoryEntry, HistoryReply, HistoryRequest
from reconciler.core.errors import FormatError

FORMAT = 1
_HEADER = f"reconciler-history {FORMAT}\n".encode()


def read(path: str) -> tuple[HistoryEntry, ...]:
    """Every entry, oldest first; none when there is no file. FormatError for anything that is not our format."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except FileNotFoundError:
        return ()
    if not data:
        return ()
    first, *lines = data.split(b"\n")
    _check_header(first, path)
    return tuple(_entry(line, f"{path}:{number}") for number, line in enumerate(lines[:-1], start=2))


def _check_header(line: bytes, path: str) -> None:
    word, _, version = line.partition(b" ")
    if word != b"reconciler-history" or not version.isdigit() or len(version) > 9:
        raise FormatError(f"{path} is not a history of ours")
    if int(version) > FORMAT:
        raise FormatError(
            f"{path} has format {int(version)}; this reconciler reads formats up to {FORMAT}", "use the newer one"
        )


def _entry(line: bytes, where: str) -> HistoryEntry:
    try:
        return HistoryEntry.from_json(json.loads(line))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: not JSON: {error}") from error
    except FormatError as error:
        raise FormatError(f"{where}: {error.message}") from error


def append(path: str, entries: Iterable[HistoryEntry]) -> None:
    """Add entries, all of them or none: what was written of a failed append is taken away again. Durable."""
    lines = b"".join(json.dumps(entry.to_json()).encode() + b"\n" for entry in entries)
    if not os.path.exists(path):
        fs.replace_file(path, _HEADER)
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        end = _end_of_last_line(fd)
        os.ftruncate(fd, end)
        os.lseek(fd, end, os.SEEK_SET)
        if end == 0:
            lines = _HEADER + lines
        try:
            fs.write_all(fd, lines)
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, end)
            raise
    finally:
        os.close(fd)


def _end_of_last_line(fd: int) -> int:
    """How long the file is without a last line that has no end."""
    size = os.fstat(fd).st_size
    while size > 0:
        start = max(0, size - 4096)
        found = os.pread(fd, size - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        size = start
    return 0


def latest(entries: Sequence[HistoryEntry], profile: str) -> HistoryEntry | None:
    """The newest entry of one profile."""
    return next((entry for entry in reversed(entries) if entry.profile == profile), None)


def undone(entries: Iterable[HistoryEntry], profile: str) -> tuple[HistoryEntry, ...]:
    """The rollbacks, oldest first, that are the newest mention of the store path they led away from.

    A path that was deployed or rolled back *to* since then is not undone any more.
    """
    newest: dict[str, HistoryEntry] = {}
    for entry in entries:
        if entry.profile == profile:
            newest.update({mentioned.path: entry for mentioned in (entry.before, entry.after) if mentioned is not None})
    leaving = {id(entry): entry for path, entry in newest.items() if _leaves(entry, path)}
    return tuple(sorted(leaving.values(), key=_when))


def _leaves(entry: HistoryEntry, path: str) -> bool:
    return entry.kind == "rollback" and (entry.after is None or entry.after.path != path)


def _when(entry: HistoryEntry) -> float:
    return entry.when


def history(host: Host, request: HistoryRequest) -> HistoryReply:
    """The newest entries, of one deployment where it is named."""
    entries = read(host.history)
    if request.deployment:
        entries = tuple(entry for entry in entries if entry.deployment == request.deployment)
    return HistoryReply(entries[-request.limit :] if request.limit > 0 else ())
