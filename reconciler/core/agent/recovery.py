"""A switch that was cut off (power, SIGKILL) is told truthfully afterwards.

    /nix/var/reconciler/switching     `reconciler-switching 1`, then one HistoryEntry as JSON a line: what a switch is
                                      about to do. On the disk before the first profile changes; gone when the history
                                      tells what was done.

Where it is found, each profile that did come to point at what its line says gets that line in the history.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable

from reconciler.core import fs
from reconciler.core.activate import host_files
from reconciler.core.activate.current_system import CURRENT, GC_ROOTS
from reconciler.core.agent import history, profiles
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import GenerationRef, HistoryEntry
from reconciler.core.errors import FormatError
from reconciler.core.profile.names import ProfileId
from reconciler.core.values import replace

_HEADER = "reconciler-switching 1"


def intend(host: Host, entries: Iterable[HistoryEntry]) -> None:
    """Write down, durably, what is about to be done."""
    lines = [_HEADER, *(json.dumps(entry.to_json()) for entry in entries)]
    fs.replace_file(host.switching, ("\n".join(lines) + "\n").encode())


def done(host: Host) -> None:
    """The history tells it now, or nothing was changed."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(host.switching)
        fs.fsync_directory(host.own_state)


def recover(host: Host) -> None:
    """Complete the history after a switch that was cut off, and remove what it left. Under the host's lock."""
    _remove_temporaries(host)
    intended = _intended(host)
    if not intended:
        done(host)
        return
    told = history.read(host.history)
    came = [entry for entry in _came_about(host, intended) if entry not in told]
    with host.open_store() as store:
        for entry in came:
            found = profiles.find(host, ProfileId.parse(entry.profile))
            profiles.keep_generations(store, found, profiles.recorded(entry.after))
    history.append(host.history, came)
    done(host)


def _remove_temporaries(host: Host) -> None:
    for top in (host.own_state, host.path(host.stage_roots)):
        for directory, _, _ in os.walk(top):
            fs.remove_temporaries(directory)
    if not host.whole:
        return
    fs.remove_temporaries(host.path(GC_ROOTS), ("profiles", "current-system", "booted-system"))
    fs.remove_temporaries(host.path(os.path.dirname(CURRENT)), (os.path.basename(CURRENT),))
    for path in host_files.host_files():
        fs.remove_temporaries(host.path(os.path.dirname(path)), (os.path.basename(path),))


def entries(host: Host) -> tuple[HistoryEntry, ...]:
    """The history, and what a switch that was cut off did besides. Changes nothing."""
    told = history.read(host.history)
    intended = _intended(host)
    if not intended:
        return told
    return told + tuple(entry for entry in _came_about(host, intended) if entry not in told)


def _intended(host: Host) -> list[HistoryEntry]:
    try:
        with open(host.switching, encoding="utf-8") as file:
            header, *lines = file.read().splitlines()
    except (FileNotFoundError, ValueError):
        return []
    if header != _HEADER:
        raise FormatError(f"{host.switching} is of another version: {header}", "use the newer reconciler")
    try:
        return [HistoryEntry.from_json(json.loads(line)) for line in lines]
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{host.switching}: not JSON: {error}") from error


def _came_about(host: Host, intended: Iterable[HistoryEntry]) -> Iterable[HistoryEntry]:
    """What was intended and is so now, with the number that the generation really got."""
    for entry in intended:
        now = profiles.find(host, ProfileId.parse(entry.profile))
        if not now.problem and now.current != entry.before and _path(now.current) == _path(entry.after):
            yield replace(entry, after=now.current)


def _path(one: GenerationRef | None) -> str:
    return one.path if one is not None else ""
