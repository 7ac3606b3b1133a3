"""The verbs that look after a host's store: verify, repair, optimise."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

from reconciler.core.agent import lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    FINDINGS,
    FindingMessage,
    LockOwner,
    OptimiseReply,
    OptimiseRequest,
    PathMessage,
    RepairReply,
    RepairRequest,
    VerifyReply,
    VerifyRequest,
)
from reconciler.core.agent.paths import from_message, to_message
from reconciler.core.agent.progress import Progress
from reconciler.core.agent.transfer import PathStream
from reconciler.core.errors import ReconcilerError, RefusedError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import optimise as optimising
from reconciler.core.store import repair as repairing
from reconciler.core.store import verify as verifying
from reconciler.core.store.optimise import OptimiseEvent
from reconciler.core.store.verify import VerifyEvent

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session
    from reconciler.core.store.store import Store


def verify(session: Session, request: VerifyRequest) -> None:
    """Say what is wrong with the store. Changes nothing, on whatever host."""
    if not session.host.has_store:
        session.reply(VerifyReply(False))
        return
    store = session.own_store()
    progress = Progress(session)

    def heard(event: VerifyEvent) -> None:
        progress.step(event.kind, event.path, event.size)

    paths = [StorePath.parse(path) for path in request.paths] if request.paths else None
    if paths is not None and request.lenient:
        valid = store.valid(paths)
        paths = [path for path in paths if path in valid]
    result = verifying.verify(store, request.contents, paths, heard)
    findings = tuple(FindingMessage(one.path, one.kind, one.detail, one.repairable) for one in result.findings)
    session.reply(VerifyReply(True, result.checked, result.bytes, len(findings), findings[:FINDINGS]))


def repair(session: Session, request: RepairRequest) -> None:
    """Mend in place what can be, and put what is brought in the place of what is wrong."""
    host = session.host
    host.session.host = request.host
    _hold(host, "repair", request.who)
    store = session.own_store()
    progress = Progress(session)
    mended: list[str] = []
    lacking: list[PathMessage] = []
    failed: dict[str, str] = {}
    if request.links:
        mended += [f"{store.store_dir}/.links/{name}" for name in repairing.repair_links(store)]
    for path in map(StorePath.parse, request.paths):
        progress.step("path", str(path))
        try:
            if repairing.repair_in_place(store, path):
                mended.append(str(path))
            else:
                lacking.append(to_message(store.info(path)))
        except ReconcilerError as error:
            failed[str(path)] = error.message
    for info in map(from_message, request.replace):
        stream = PathStream(session, info.nar_size)
        repairing.repair_path(store, stream, info)
        stream.finish()
        mended.append(str(info.path))
    session.reply(RepairReply(tuple(mended), tuple(lacking), failed))


def optimise(session: Session, request: OptimiseRequest) -> None:
    """Store equal files once. RefusedError while a deployment is at work."""
    host = session.host
    host.session.host = request.host
    if not host.managed or not host.has_store:
        session.reply(OptimiseReply(False))
        return
    _hold(host, "optimise", request.who)
    try:
        session.reply(_optimised(session.own_store(), Progress(session)))
    finally:
        lock.release(host)


def _optimised(store: Store, progress: Progress) -> OptimiseReply:
    skipped: list[str] = []

    def heard(event: OptimiseEvent) -> None:
        if event.kind == "skipped":
            skipped.append(event.path)
        progress.step(event.kind, event.path, event.freed)

    result = optimising.optimise(store, heard)
    return OptimiseReply(True, result.files, result.freed, tuple(_first(skipped)))


def _first(found: list[str]) -> Iterable[str]:
    return (path.encode(errors="backslashreplace").decode() for path in found[:FINDINGS])


def _hold(host: Host, what: str, who: str) -> None:
    """Take the host's lock until the agent ends, or it is released."""
    if host.session.lock is not None:
        if host.session.deployment != what:
            raise RefusedError(f"{host.name}: this login is at work on {host.session.deployment}")
        return
    host.require_whole()
    if not host.managed:
        raise RefusedError(
            f"{host.name}: this host is not managed", "deploy to it first, or repair it with its own Nix"
        )
    host.session.lock, host.session.deployment = lock.take(host, LockOwner(what, who, os.getpid(), time.time())), what
