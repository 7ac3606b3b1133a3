"""Store paths in and out of a host: which are missing, NARs that come in, NARs that go out.

A transfer is one stream in one direction: nobody waits for the other side between two paths. What has arrived whole and
right is committed in batches, also when the rest does not come, so that the next attempt begins where this one ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from reconciler.core.agent import stopping
from reconciler.core.agent.frames import DATA_SIZE, Kind
from reconciler.core.agent.messages import (
    ExportReply,
    ExportRequest,
    ImportReply,
    ImportRequest,
    MissingReply,
    MissingRequest,
)
from reconciler.core.agent.paths import from_message, to_message
from reconciler.core.errors import FormatError, LinkLostError
from reconciler.core.nix.store_path import StorePath

if TYPE_CHECKING:
    from reconciler.core.agent.server import Session

# A batch is committed when it holds this much: one sync each, and at most this much to be sent again.
BATCH_BYTES = 64 * 1024 * 1024
BATCH_PATHS = 256


def missing(session: Session, request: MissingRequest) -> None:
    """Which paths are not valid; all of them are temporary roots from here on."""
    paths = [StorePath.parse(path) for path in request.paths]
    store = session.store(create=True)
    store.add_temp_roots(paths)
    valid = store.valid(paths)
    session.reply(MissingReply(tuple(str(path) for path in paths if path not in valid)))


def import_paths(session: Session, request: ImportRequest) -> None:
    """Take NARs as they come, check each against what was said of it, and make them valid."""
    infos = [from_message(message) for message in request.paths]
    store = session.store(create=True)
    session.link.expect_much()
    batch = store.batch()
    count = size = total = 0
    try:
        for info in infos:
            # No checkpoint: what has arrived is taken, also when the controller is gone by now.
            stream = PathStream(session, info.nar_size)
            batch.add_nar(info, stream)
            stream.finish()
            count, size, total = count + 1, size + info.nar_size, total + info.nar_size
            if size >= BATCH_BYTES or count >= BATCH_PATHS:
                batch.commit()
                count = size = 0
    finally:
        # Also on the way out of an error: what came before it is whole.
        batch.commit()
    session.reply(ImportReply(len(infos), total))


class PathStream:
    """The bytes of one path out of its DATA frames: a Reader that ends after `size` bytes."""

    def __init__(self, session: Session, size: int) -> None:
        self._session = session
        self._left = size
        self._view = memoryview(b"")

    def read(self, size: int, /) -> bytes:
        if not self._view:
            if not self._left:
                return b""
            self._view = self._next()
        piece = self._view[:size]
        self._view = self._view[size:]
        return bytes(piece)

    def finish(self) -> None:
        """Everything was read, and the controller says so too."""
        frame = self._session.link.next()
        if frame is None:
            raise LinkLostError("the controller hung up between two paths")
        if frame.kind is not Kind.END or frame.number != self._session.number or self._left or self._view:
            raise FormatError(f"a path's stream ends with {frame.kind.name}")

    def _next(self) -> memoryview:
        frame = self._session.link.next()
        if frame is None:
            raise LinkLostError("the controller hung up in the middle of a path")
        if frame.kind is Kind.END and "error" in frame.body:
            raise FormatError(f"the controller could not read it: {frame.body['error']}")
        if frame.kind is not Kind.DATA or frame.number != self._session.number:
            raise FormatError(f"{frame.kind.name} in the middle of a path")
        if len(frame.payload) > self._left:
            raise FormatError("more bytes than were announced")
        self._left -= len(frame.payload)
        return memoryview(frame.payload)


def export(session: Session, request: ExportRequest) -> None:
    """Say which paths follow, then send their NARs."""
    store = session.store()
    have = {StorePath.parse(path) for path in request.have}
    wanted = [StorePath.parse(path) for path in request.paths]
    closure = wanted if request.alone else store.closure(wanted)
    infos = [store.info(path) for path in closure if path not in have]
    for info in infos:
        store.add_temp_root(info.path)
    session.reply(ExportReply(tuple(to_message(info) for info in infos)))
    for info in infos:
        for chunk in _sized(store.nar(info.path)):
            stopping.checkpoint()
            session.link.send_data(session.number, chunk)
        session.link.send(Kind.END, session.number, {})


def _sized(chunks: Iterator[bytes]) -> Iterator[bytes | memoryview]:
    """The same bytes in pieces of DATA_SIZE: a NAR's many small ones would each become a frame."""
    gathered = bytearray()
    for chunk in chunks:
        if not gathered and len(chunk) == DATA_SIZE:
            yield chunk
            continue
        gathered += chunk
        while len(gathered) >= DATA_SIZE:
            yield bytes(gathered[:DATA_SIZE])
            del gathered[:DATA_SIZE]
    if gathered:
        yield bytes(gathered)
