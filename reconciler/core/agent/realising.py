"""The verbs that build on the host, and the log of what was built."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from reconciler.core.agent import stopping
from reconciler.core.agent.host import NIX_STATE, Host
from reconciler.core.agent.messages import FailedBuild, LogReply, LogRequest, RealiseReply, RealiseRequest
from reconciler.core.agent.paths import to_message
from reconciler.core.build.events import BuildEvent, BuildLimits, BuildOptions
from reconciler.core.build.logs import read_log
from reconciler.core.build.machine import Machine
from reconciler.core.build.realise import BuildsError
from reconciler.core.errors import BuildError, FormatError
from reconciler.core.nix.store_path import StorePath

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session


def realise(session: Session, request: RealiseRequest) -> None:
    """Build here. Events go out as they happen; builds are killed when the controller is gone."""

    def tell(event: BuildEvent) -> None:
        session.event({"kind": event.kind, "derivation": event.derivation, "detail": event.detail[:4096]})

    options = BuildOptions(
        jobs=max(1, request.jobs or os.cpu_count() or 1),
        keep_going=request.keep_going,
        keep_failed=request.keep_failed,
        limits=_limits(request.limits),
        machine=_machine(request),
        on_event=tell,
        cancelled=stopping.requested,
    )
    derivations = [StorePath.parse(path) for path in request.derivations]
    try:
        result = session.host.realise(session.store(create=True), derivations, options)
    except BuildsError as error:
        session.reply(RealiseReply((), (), tuple(_failed(path, one) for path, one in error.errors.items())))
        return
    session.reply(
        RealiseReply(
            built=tuple(str(path) for path in result.built),
            outputs=tuple(to_message(info) for info in result.outputs),
        )
    )


def _machine(request: RealiseRequest) -> Machine:
    return Machine(request.systems) if request.features is None else Machine(request.systems, request.features)


def _limits(said: dict[str, float]) -> BuildLimits:
    """FormatError for a limit that there is not, or that leaves nothing."""
    try:
        numbers: dict[str, Any] = {name: most if name == "timeout" else int(most) for name, most in said.items()}
        return BuildLimits(**numbers)
    except (TypeError, ValueError, OverflowError) as error:
        raise FormatError(f"limits of builds: {error}") from error


def _failed(path: StorePath, error: BuildError) -> FailedBuild:
    return FailedBuild(str(path), error.message, error.hint or "")


def log(host: Host, request: LogRequest) -> LogReply:
    """The last lines of a kept build log."""
    text = read_log(host.path(NIX_STATE), StorePath.parse(request.derivation))
    lines = text.splitlines(keepends=True)
    return LogReply("".join(lines[-request.lines :]) if request.lines > 0 else "")
