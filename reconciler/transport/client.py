"""The controller's side of an agent: typed calls over one channel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from reconciler.core.agent import archive, bootstrap
from reconciler.core.agent import messages as m
from reconciler.core.agent.frames import DATA_SIZE, Frame, Kind, data_header, encode
from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError, StoreError, from_wire
from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.connection import Connection
from reconciler.transport.handshake import Handshake
from reconciler.transport.interpreters import interpreters
from reconciler.transport.pump import Pump
from reconciler.transport.text import printable

R = TypeVar("R", bound=m.Message)

# From the login to the agent's first word: an interpreter's start on a loaded host, and the archive over a slow line.
START_SECONDS = 60.0
# To root the first paths may take until a garbage collection is done, for which an agent waits ten minutes.
ROOTED_SECONDS = 660.0
# How long an agent that holds the host's lock gets to end.
PATIENCE_SECONDS = 10.0
# A transfer is given this long for anything, and the time its bytes take at this rate.
TRANSFER_SECONDS = 300.0
TRANSFER_RATE = 32 * 1024
# How long work on a whole store may go without a step forward: one huge path on a slow disk, or another's collection.
SILENT_SECONDS = 3600.0
# The same while a host asks caches: several times what it waits for one that says nothing, and a sync of what came.
SUBSTITUTE_SILENCE = 900.0
CACHE_DIRECTORY = "/nix/var/reconciler/agent"
# Pieces smaller than this are gathered before they are sent.
_GATHER = 128 * 1024


def _ignore(_: object) -> None:
    pass


class Sink(Protocol):
    """Takes an export: `begin` before each path's bytes, `end` after them. An error raised here ends the export."""

    def begin(self, path: m.PathMessage) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self, path: m.PathMessage) -> None: ...


class AgentClient:
    """A started agent. Not for two threads at once; `close` may come from any.

    Every call takes `deadline`, in seconds; past it the channel is closed and LinkLostError raised, since what the
    agent has done by then is not known. An error that the agent reports is raised as the class it had there.
    """

    def __init__(self, pump: Pump, description: str, hello: Frame) -> None:
        self._pump = pump
        self._description = description
        self._number = 0
        self._locked = False
        self.python = printable(str(hello.body.get("python", "")))[:40]

    @classmethod
    def start(
        cls,
        connection: Connection,
        settings: ConnectionSettings,
        keep_cached: bool = False,
        root: str = "/",
        seconds: float = START_SECONDS,
        *,
        python: str | None = None,
    ) -> AgentClient:
        """`python` is the interpreter, where it is not the first of `interpreters`.

        `keep_cached`: leave the agent's code on a managed host for the next time, also when nothing is deployed
        (`begin` leaves it in any case). `root` makes the agent take a directory for the host's root, for tests."""
        code = archive.build()
        python = python or interpreters(settings)[0]
        directory = root.rstrip("/") + CACHE_DIRECTORY
        argv = [
            python,
            *bootstrap.OPTIONS,
            "-c",
            bootstrap.code(),
            code.sha256,
            directory,
            "keep" if keep_cached else "-",
            root,
        ]
        channel = connection.start(argv, as_root=settings.become)
        try:
            handshake = Handshake(channel, code, python, connection.description, seconds)
            hello = handshake.run()
        except FormatError as error:
            channel.close()
            raise LinkLostError(error.message) from error
        except BaseException:
            channel.close()
            raise
        pump = Pump(channel, handshake.decoder, handshake.frames, handshake.stderr, connection.description)
        return cls(pump, connection.description, hello)

    # --- verbs --------------------------------------------------------------------------------------------------------

    def observe(self, request: m.ObserveRequest, deadline: float = 60) -> m.Observation:
        return self._call("observe", request, m.Observation, deadline)

    def begin(self, request: m.BeginRequest, deadline: float = 60) -> m.Begun:
        reply = self._call("begin", request, m.Begun, deadline)
        self._locked = True
        return reply

    def missing(self, request: m.MissingRequest, deadline: float = ROOTED_SECONDS) -> m.MissingReply:
        return self._call("missing", request, m.MissingReply, deadline)

    def substitute(
        self,
        request: m.SubstituteRequest,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        silence: float = SUBSTITUTE_SILENCE,
    ) -> m.SubstituteReply:
        """`on_event` gets a SubstituteEvent's fields (kind, path, done, total), as plain data from the host; `silence`:
        how long it may come no further."""
        return self._work("substitute", request, m.SubstituteReply, silence, on_event)

    def realise(
        self,
        request: m.RealiseRequest,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        deadline: float | None = None,
    ) -> m.RealiseReply:
        """`on_event` gets a BuildEvent's fields (kind, derivation, detail), as plain data from the host."""
        return self._call("realise", request, m.RealiseReply, deadline or 24 * 3600.0, on_event)

    def stage(self, request: m.StageRequest, deadline: float = 600) -> m.StageReply:
        return self._call("stage", request, m.StageReply, deadline)

    def switch(self, request: m.SwitchRequest, deadline: float = 300) -> m.SwitchReply:
        return self._call("switch", request, m.SwitchReply, deadline)

    def generations(self, request: m.ProfilesRequest, deadline: float = 60) -> m.GenerationsReply:
        return self._call("generations", request, m.GenerationsReply, deadline)

    def history(self, request: m.HistoryRequest, deadline: float = 60) -> m.HistoryReply:
        return self._call("history", request, m.HistoryReply, deadline)

    def log(self, request: m.LogRequest, deadline: float = 60) -> m.LogReply:
        return self._call("log", request, m.LogReply, deadline)

    def holdings(self, request: m.HoldingsRequest, deadline: float = 120) -> m.HoldingsReply:
        return self._call("holdings", request, m.HoldingsReply, deadline)

    def leave(self, request: m.LeaveRequest, deadline: float = 1800) -> m.LeaveReply:
        """To remove all of /nix may take minutes."""
        return self._call("leave", request, m.LeaveReply, deadline)

    def collect(
        self,
        request: m.CollectRequest,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        silence: float = SILENT_SECONDS,
    ) -> m.CollectReply:
        """How long it takes depends on the store: `silence` is how long the agent may say nothing of its progress."""
        self._locked = self._locked or not request.check
        return self._work("collect", request, m.CollectReply, silence, on_event)

    def verify(
        self,
        request: m.VerifyRequest,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        silence: float = SILENT_SECONDS,
    ) -> m.VerifyReply:
        return self._work("verify", request, m.VerifyReply, silence, on_event)

    def optimise(
        self,
        request: m.OptimiseRequest,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        silence: float = SILENT_SECONDS,
    ) -> m.OptimiseReply:
        self._locked = True
        return self._work("optimise", request, m.OptimiseReply, silence, on_event)

    def repair(
        self,
        request: m.RepairRequest,
        open_nar: Callable[[str], Iterator[bytes]] | None = None,
        on_event: Callable[[dict[str, Any]], None] = _ignore,
        silence: float = SILENT_SECONDS,
    ) -> m.RepairReply:
        """`open_nar(path)` gives the NAR of each path of `request.replace`; errors as in `import_paths`."""
        self._locked = True
        if open_nar is None:
            return self._work("repair", request, m.RepairReply, silence, on_event)
        total = sum(info.nar_size for info in request.replace)
        until = time.monotonic() + TRANSFER_SECONDS + total / TRANSFER_RATE
        self._request("repair", request, until)
        outgoing = _Outgoing(self._pump, self._number, until, _ignore)
        for info in request.replace:
            outgoing.path(info, open_nar(info.path))
        outgoing.flush()
        return self._finish("repair", self._await_reply("repair", until, on_event), m.RepairReply)

    def import_paths(
        self,
        infos: Sequence[m.PathMessage],
        open_nar: Callable[[str], Iterator[bytes]],
        on_progress: Callable[[int], None] = _ignore,
        deadline: float | None = None,
    ) -> m.ImportReply:
        """Send paths, references before referrers; `open_nar(path)` gives a path's NAR, `on_progress` is told how many
        more bytes went out. Nothing is waited for between two paths; StoreError when a NAR is not as long as said."""
        total = sum(info.nar_size for info in infos)
        until = time.monotonic() + (deadline or TRANSFER_SECONDS + total / TRANSFER_RATE)
        self._request("import", m.ImportRequest(tuple(infos)), until)
        outgoing = _Outgoing(self._pump, self._number, until, on_progress)
        for info in infos:
            early = self._pump.poll()
            if early is not None:
                return self._finish("import", early, m.ImportReply)
            try:
                outgoing.path(info, open_nar(info.path))
            except LinkLostError:
                raise
            except Exception as error:
                # The stream is broken off in a way that the agent can tell from a lost link.
                outgoing.give_up(str(error))
                self._await_reply("import", until, None)
                raise
        outgoing.flush()
        return self._finish("import", self._await_reply("import", until, None), m.ImportReply)

    def export(self, request: m.ExportRequest, sink: Sink, deadline: float | None = None) -> m.ExportReply:
        """Have store paths sent here. Each path has `nar_size` bytes; whether they are the right ones `sink` checks."""
        started = time.monotonic()
        until = started + (deadline or TRANSFER_SECONDS)
        self._request("export", request, until)
        reply = self._finish("export", self._await_reply("export", until, None), m.ExportReply)
        if deadline is None:
            until += sum(max(0, path.nar_size) for path in reply.paths) / TRANSFER_RATE
        try:
            for path in reply.paths:
                self._take_path(path, sink, until)
        except LinkLostError:
            raise
        except BaseException:
            # Whatever else follows was meant for this export: the channel cannot be used for anything after it.
            self._pump.fail(LinkLostError(f"{self._description}: an export was broken off"))
            raise
        return reply

    def close(self) -> None:
        """Hang up: the agent stops at its next step and frees its locks. Never raises."""
        self._pump.close(PATIENCE_SECONDS if self._locked else 0.0)

    # --- one call -----------------------------------------------------------------------------------------------------

    def _call(
        self,
        verb: str,
        request: m.Message,
        reply: type[R],
        deadline: float,
        on_event: Callable[[dict[str, Any]], None] | None = None,
    ) -> R:
        until = time.monotonic() + deadline
        self._request(verb, request, until)
        return self._finish(verb, self._await_reply(verb, until, on_event), reply)

    def _work(
        self,
        verb: str,
        request: m.Message,
        reply: type[R],
        silence: float,
        on_event: Callable[[dict[str, Any]], None],
    ) -> R:
        """A call that tells of its progress: each event gives it `silence` seconds more."""
        self._request(verb, request, time.monotonic() + TRANSFER_SECONDS)
        while True:
            frame = self._take(verb, time.monotonic() + silence)
            if frame.kind is not Kind.EVENT:
                return self._finish(verb, frame, reply)
            on_event(frame.body)

    def _request(self, verb: str, request: m.Message, until: float) -> None:
        frame = encode(Kind.REQUEST, self._number + 1, {"verb": verb, "request": request.to_json()})
        self._number += 1
        self._pump.expect(self._number)
        self._pump.write(frame, until)

    def _await_reply(self, verb: str, until: float, on_event: Callable[[dict[str, Any]], None] | None) -> Frame:
        while True:
            frame = self._take(verb, until)
            if frame.kind is not Kind.EVENT:
                return frame
            if on_event is None:
                raise self._fault(f"an EVENT in answer to {verb}")
            on_event(frame.body)

    def _take(self, verb: str, until: float) -> Frame:
        frame = self._pump.take(until)
        if frame is None:
            error = LinkLostError(f"{self._description}: '{verb}' did not end in time")
            self._pump.fail(error)
            raise error
        return frame

    def _finish(self, verb: str, frame: Frame, reply: type[R]) -> R:
        if frame.kind is Kind.ERROR:
            raise _reported(frame.body)
        if frame.kind is not Kind.REPLY:
            raise self._fault(f"{frame.kind.name} in answer to {verb}")
        try:
            return reply.from_json(frame.body)
        except FormatError as error:
            raise self._fault(error.message) from error

    def _take_path(self, path: m.PathMessage, sink: Sink, until: float) -> None:
        sink.begin(path)
        left = path.nar_size
        while True:
            frame = self._take("export", until)
            if frame.kind is Kind.ERROR:
                raise _reported(frame.body)
            if frame.kind is Kind.END and left == 0:
                break
            if frame.kind is not Kind.DATA or len(frame.payload) > left:
                raise self._fault(f"{frame.kind.name} where {left} bytes of {printable(path.path)} were due")
            left -= len(frame.payload)
            sink.write(bytes(frame.payload))
        sink.end(path)

    def _fault(self, what: str) -> LinkLostError:
        """The peer does not keep to the protocol: nothing more is believed of it."""
        error = LinkLostError(f"{self._description}: the agent sent {printable(what)}")
        self._pump.fail(error)
        return error


class _Outgoing:
    """The DATA side of an import: small pieces gathered, large ones sent as they are."""

    def __init__(self, pump: Pump, number: int, until: float, on_progress: Callable[[int], None]) -> None:
        self._pump = pump
        self._number = number
        self._until = until
        self._on_progress = on_progress
        self._gathered = bytearray()
        self._end = encode(Kind.END, number, {})

    def path(self, info: m.PathMessage, chunks: Iterator[bytes]) -> None:
        left = info.nar_size
        piece = bytearray()
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise StoreError(f"{info.path}: its NAR is longer than the {info.nar_size} bytes registered for it")
            if not piece and len(chunk) >= _GATHER:
                self._frames(chunk)
                continue
            piece += chunk
            if len(piece) >= _GATHER:
                self._frames(piece)
                piece = bytearray()
        if left:
            raise StoreError(f"{info.path}: its NAR is {left} bytes shorter than registered")
        if piece:
            self._frames(piece)
        self._put(self._end)

    def _frames(self, data: bytes | bytearray) -> None:
        view = memoryview(data)
        for start in range(0, len(view), DATA_SIZE):
            part = view[start : start + DATA_SIZE]
            self._put(data_header(self._number, len(part)))
            self._put(part)
            self._on_progress(len(part))

    def _put(self, data: bytes | memoryview) -> None:
        if len(data) < _GATHER and len(self._gathered) + len(data) <= DATA_SIZE:
            self._gathered += data
            return
        self.flush()
        self._pump.write(data, self._until)

    def flush(self) -> None:
        if self._gathered:
            gathered, self._gathered = self._gathered, bytearray()
            self._pump.write(memoryview(gathered), self._until)

    def give_up(self, reason: str) -> None:
        """Say that the path under way will not be completed."""
        self._put(encode(Kind.END, self._number, {"error": reason[:1000]}))
        self.flush()


def _reported(body: dict[str, Any]) -> ReconcilerError:
    """The error that an agent reported; its words are data."""
    code, message, hint = body.get("code"), body.get("message"), body.get("hint")
    return from_wire(
        code if isinstance(code, str) else "failed",
        printable(message) if isinstance(message, str) else "the agent failed and did not say why",
        printable(hint) if isinstance(hint, str) else None,
    )
