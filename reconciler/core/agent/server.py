"""The agent's main loop: one request at a time, answered by one reply, until the controller hangs up."""

from __future__ import annotations

import gc
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from reconciler.core.agent import created, stopping, verbs
from reconciler.core.agent.frames import PROTOCOL, Frame, Kind
from reconciler.core.agent.host import Host
from reconciler.core.agent.link import Link
from reconciler.core.errors import LinkLostError, ReconcilerError, StoreError, to_wire
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.values import value

if TYPE_CHECKING:
    from reconciler.core.agent.messages import Message
    from reconciler.core.store.store import Store
    from reconciler.core.store.working import WorkingStore


@value
class Settings:
    """What the start line said. `archive`: our own code as the controller sent it or as it lay in the cache; None when
    compiled code was run. `keep`: leave it in `cache`, also when nothing is deployed."""

    root: str = "/"
    sha256: str = ""
    cache: str = ""
    keep: bool = False
    archive: bytes | None = None


class Session:
    """What a verb works with: the host, its store (one object for the agent's life, since it holds the temporary
    roots), and for verbs that stream, the link."""

    def __init__(self, host: Host, link: Link) -> None:
        self.host = host
        self.link = link
        self.number = 0
        self._store: WorkingStore | None = None

    def store(self, create: bool = False) -> WorkingStore:
        if self._store is None:
            if create:
                created.note_store(self.host)
            self._store = self.host.open_store(create)
        return self._store

    def own_store(self, create: bool = False) -> Store:
        """The same as files and a database to work on; RefusedError where they are not ours."""
        return self.host.own(self.store(create))

    def event(self, body: dict[str, Any]) -> None:
        self.link.send(Kind.EVENT, self.number, body)

    def reply(self, message: Message) -> None:
        self.link.send(Kind.REPLY, self.number, message.to_json())


def serve(settings: Settings) -> None:
    """Serve the controller on stdin and stdout until the end of stdin; then the process ends."""
    os.umask(0o022)
    os.chdir("/")
    link = Link(*_take_over_streams())
    host = Host.here(settings.root)
    link.start()
    try:
        version = ".".join([str(part) for part in sys.version_info[:3]])
        link.send(Kind.HELLO, 0, {"protocol": PROTOCOL, "python": version, "uid": os.geteuid(), "pid": os.getpid()})
        _loop(Session(host, link), settings)
    except LinkLostError:
        _end(1)
    _end(0)


def _end(status: int) -> NoReturn:
    """End without an interpreter shutdown: the reader thread is blocked in a read, and locks end with us."""
    temp_roots = sys.modules.get("reconciler.core.store.temp_roots")
    if temp_roots is not None:
        temp_roots.end()
    sys.stderr.flush()
    os._exit(status)


def _take_over_streams() -> tuple[int, int]:
    """Descriptors of our own for the frames. Whatever else prints, prints to stderr; what else reads, reads nothing."""
    incoming, outgoing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    return incoming, outgoing


def _own_mounts(host: Host) -> None:
    """A store that is read-only for the host gets writable, in a mount namespace that only we see."""
    if os.geteuid() != 0 or host.session.outside is not None:
        return
    from reconciler.core.agent import mounts

    try:
        host.session.outside = mounts.enter(host.path(STORE_DIR))
    except StoreError as error:
        # Where this is not allowed the store may still be writable; where it is not, the write will say so.
        print(error.message, file=sys.stderr)


def _loop(session: Session, settings: Settings) -> None:
    begun = False
    while True:
        frame = session.link.next()
        if frame is None:
            break
        if frame.kind in (Kind.DATA, Kind.END) and frame.number == session.number:
            continue  # what was still under way when the request failed
        if frame.kind is not Kind.REQUEST:
            raise LinkLostError(f"the controller sent {frame.kind.name} where a request was due")
        verb = _answer(session, frame)
        gc.enable()  # bootstrap.py turned it off: a probe's garbage is not worth a collection
        if verb == "begin":
            # A deployment: the next one starts from here. Now rather than at the end, where the lock would wait for it.
            _keep(session.host, settings)
            begun = True
    if settings.keep and not begun:
        _keep(session.host, settings)


def _answer(session: Session, frame: Frame) -> str:
    """Do what a request asks for; the verb's name, or nothing when it failed."""
    session.number = frame.number
    try:
        stopping.checkpoint()
        verb = verbs.find(frame.body.get("verb"))
        request = verb.request.from_json(frame.body.get("request"))
        function = verb.load()
        if verb.writes:
            _own_mounts(session.host)
        if verb.streams:
            function(session, request)
        else:
            session.reply(function(session.host, request))
    except LinkLostError:
        raise
    except ReconcilerError as error:
        session.link.send(Kind.ERROR, frame.number, dict(to_wire(error)))
    except OSError as error:
        session.link.send(Kind.ERROR, frame.number, _system_error(error))
    except Exception as error:  # whatever it is, the controller has to hear of it
        session.link.send(Kind.ERROR, frame.number, _own_fault(error))
    else:
        return verb.name
    return ""


def _system_error(error: OSError) -> dict[str, Any]:
    where = f"{error.filename}: " if error.filename else ""
    return {"code": "failed", "message": f"{where}{error.strerror or error}", "hint": None}


def _own_fault(error: Exception) -> dict[str, Any]:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace is not None else "?"
    return {
        "code": "internal",
        "message": f"the agent failed at {where}: {type(error).__name__}: {error}",
        "hint": None,
    }


def _keep(host: Host, settings: Settings) -> None:
    """Leave our code on a managed host. Never worth failing for."""
    if not host.managed or os.stat(host.own_state).st_uid != os.geteuid():
        return
    cache = host.agent_cache(settings.cache)
    try:
        from reconciler.core.agent.cache import keep

        keep(cache, settings.sha256, settings.archive)
    except Exception as error:  # whatever it is: the host works without it
        print(f"the agent was not kept in {cache}: {error}", file=sys.stderr)
