"""Cleaning a host: generations that need not be kept, then whatever no root keeps any more.

Only profiles that the host's history knows lose generations; what others made there is theirs. What is shown by a
`check` is what goes afterwards: the second request names it, generation by generation, and one that has become needed
between the two stays.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from reconciler.core.activate import current_system
from reconciler.core.agent import history, lock, profiles, recovery, stage
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    COLLECTED_NAMES,
    CollectReply,
    CollectRequest,
    Generation,
    GenerationRef,
    HistoryEntry,
    LockOwner,
    PrunedProfile,
)
from reconciler.core.agent.profiles import Found
from reconciler.core.agent.progress import Progress
from reconciler.core.errors import RefusedError
from reconciler.core.profile import generations as numbered
from reconciler.core.profile import prune
from reconciler.core.profile.names import ProfileId, selects
from reconciler.core.profile.prune import Form, Needed, Retention
from reconciler.core.store import gc
from reconciler.core.store.gc import GcEvent, GcOptions, GcResult

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session
    from reconciler.core.store.store import Store


def collect(session: Session, request: CollectRequest) -> None:
    """Say what would go; without `check`, delete it. RefusedError while a deployment is at work."""
    host = session.host
    host.session.host = request.host
    if not host.managed or not host.has_store:
        session.reply(CollectReply(False))
        return
    host.require_whole()
    progress = Progress(session)
    if request.check:
        session.reply(_foreseen(host, session.own_store(), request, progress))
        return
    taken = lock.take(host, LockOwner("gc", request.who, os.getpid(), time.time()))
    try:
        session.reply(_done(host, session.own_store(), request, progress))
    finally:
        taken.release()


def _foreseen(host: Host, store: Store, request: CollectRequest, progress: Progress) -> CollectReply:
    entries = recovery.entries(host)
    pruned = tuple(_to_go(host, one, entries, request) for one in _managed(host, entries, request))
    links = tuple(name for one in pruned for name in _links(host, one))
    result = gc.collect(store, GcOptions(dry_run=True, without=links), _heard(progress))
    return _reply(pruned, result)


def _done(host: Host, store: Store, request: CollectRequest, progress: Progress) -> CollectReply:
    entries = recovery.entries(host)
    wanted = {one.profile: one for one in request.expect}
    found = [one for one in _managed(host, entries, request) if str(one.profile) in wanted]
    by_number = bool(request.delete) and Form.parse(request.delete).by_number
    pruned = tuple(_prune(host, one, wanted[str(one.profile)], _needed(host, one, entries), by_number) for one in found)
    return _reply(pruned, gc.collect(store, GcOptions(), _heard(progress)))


def _reply(pruned: tuple[PrunedProfile, ...], result: GcResult) -> CollectReply:
    names = result.deleted[:COLLECTED_NAMES]
    return CollectReply(True, pruned, len(result.deleted), names, result.freed, result.kept)


def _heard(progress: Progress) -> gc.OnGcEvent:
    def heard(event: GcEvent) -> None:
        progress.step(event.kind, event.path, event.freed)

    return heard


# --- generations ------------------------------------------------------------------------------------------------------


def _managed(host: Host, entries: tuple[HistoryEntry, ...], request: CollectRequest) -> list[Found]:
    known = sorted({ProfileId.parse(entry.profile) for entry in entries})
    return [profiles.find(host, each) for each in known if selects(each, request.system, request.users, request.places)]


def _needed(host: Host, found: Found, entries: tuple[HistoryEntry, ...]) -> Needed:
    """What stays: what runs, was booted or is staged; what a rollback of the latest change goes back to; and what the
    profile was before its first deployment, to which leaving goes back."""
    profile = str(found.profile)
    last = history.latest(entries, profile)
    # A deployment may have more than one line for a profile: its undoing leads to what stood before the first.
    latest = [entry for entry in entries if last and (entry.profile, entry.deployment) == (profile, last.deployment)]
    paths = {stage.staged_path(host, profile): "is staged"}
    if found.profile.is_system:
        paths[current_system.booted(host.root)] = "was booted"
        paths[current_system.running(host.root)] = "runs now"
    mine = [entry for entry in entries if entry.profile == profile]
    back = {profiles.recorded(entry.before): "is what `reconciler leave` goes back to" for entry in mine[:1]}
    back |= {profiles.recorded(entry.before): "is what undoing the latest change goes back to" for entry in latest[:1]}
    used = [(one, entry.when) for entry in mine for one in (entry.before, entry.after) if one is not None]
    kept = found.current.path if found.current else ""  # stays by the current generation, whatever else leads there
    return Needed(
        {path: why for path, why in paths.items() if path not in ("", kept)},
        {one: why for one, why in back.items() if one is not None},
        tuple((numbered.Recorded(one.number, one.path), when) for one, when in used),
    )


def _to_go(host: Host, found: Found, entries: tuple[HistoryEntry, ...], request: CollectRequest) -> PrunedProfile:
    if found.problem:
        return PrunedProfile(str(found.profile), found.link, note=found.problem)
    base = os.path.basename(found.link)
    by_number = {one.number: one for one in found.generations}
    there = [
        numbered.Generation(one.number, one.path, one.created, one.current, f"{base}-{one.number}-link")
        for one in by_number.values()
    ]
    needed = _needed(host, found, entries)
    try:
        going, note = _chosen(there, request, needed) if there else ([], "")
    except RefusedError as error:
        raise RefusedError(f"{found.profile.label}: {error.message}", error.hint) from None
    goes = tuple(Generation(one.number, one.path, one.created, False) for one in going)
    return PrunedProfile(str(found.profile), found.link, goes, len(there) - len(goes), note)


def _chosen(
    there: list[numbered.Generation], request: CollectRequest, needed: Needed
) -> tuple[list[numbered.Generation], str]:
    """What is to go of a profile's generations, and what is to be said of it. Only numbers can be refused: whatever
    else is asked for is asked of many profiles, and one without a current generation keeps all."""
    form = Form.parse(request.delete) if request.delete else None
    retention = Retention(request.keep_generations, request.keep_days)
    if form is None and retention.keeps_everything:
        return [], ""
    if not any(one.current for one in there) and not (form and form.by_number):
        return [], "no generation is the current one, so all are kept"
    if form is None:
        return prune.superfluous(there, retention, needed, time.time()), ""
    going, notes = prune.asked(there, form, needed, time.time())
    return going, "; ".join(notes)


def _links(host: Host, one: PrunedProfile) -> list[str]:
    """The names under which the collector knows the generations that go."""
    links = [f"{one.link}-{each.number}-link" for each in one.goes]
    return [*links, *(host.path(link) for link in links)]


def _prune(host: Host, found: Found, wanted: PrunedProfile, needed: Needed, by_number: bool) -> PrunedProfile:
    """`by_number`: what goes was asked for by its number, so also what could be gone back to."""
    if found.problem:
        return PrunedProfile(wanted.profile, found.link, note=found.problem)
    doomed = [
        GenerationRef(one.number, one.path)
        for one in wanted.goes
        if by_number or numbered.Recorded(one.number, one.path) not in needed.generations
    ]
    gone = profiles.prune(host, found, doomed, tuple(needed.paths)) if doomed else ()
    goes = tuple(one for one in wanted.goes if GenerationRef(one.number, one.path) in gone)
    stayed = len(wanted.goes) - len(goes)
    meanwhile = f"{stayed} of them have become needed meanwhile, or were gone" if stayed else ""
    note = "; ".join(filter(None, (wanted.note, meanwhile)))
    return PrunedProfile(
        wanted.profile, found.link, goes, len({one.number for one in found.generations}) - len(goes), note
    )
