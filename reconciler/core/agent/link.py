"""The agent's end of the channel: frames out under one lock, frames in by a reader thread, a heartbeat.

`_thread` and `_queue` instead of threading and queue: the same primitives without what those import, for which a probe
would wait.
"""

from __future__ import annotations

import _thread
import contextlib
import fcntl
import os
import select
import time
from _queue import SimpleQueue
from typing import Any

from reconciler.core.agent import stopping
from reconciler.core.agent.frames import (
    HEARTBEAT_SECONDS,
    SILENCE_SECONDS,
    Frame,
    FrameDecoder,
    Kind,
    data_header,
    encode,
)
from reconciler.core.errors import FormatError, LinkLostError

# Frames that may wait for the main thread; the reader stops reading when they are as many.
_WAITING = 16
_READ_SIZE = 1024 * 1024
_F_SETPIPE_SZ = 1031  # fcntl names it from Python 3.10 on
# What a verb may take to come to its next step after the controller is gone, before the process ends regardless.
_GRACE_SECONDS = 60.0


class Link:
    """Both directions. `next` and `send` are for the main thread, `send` for others too."""

    def __init__(self, incoming: int, outgoing: int) -> None:
        self._incoming = incoming
        self._outgoing = outgoing
        self._writing = _thread.allocate_lock()
        self._frames: SimpleQueue[Frame | None] = SimpleQueue()
        self._room: SimpleQueue[None] = SimpleQueue()
        for _ in range(_WAITING):
            self._room.put(None)
        self._ended = False

    def start(self) -> None:
        """Start reading and beating."""
        _thread.start_new_thread(self._read, ())
        _thread.start_new_thread(self._beat, ())

    def expect_much(self) -> None:
        """A larger pipe for what follows: fewer wake-ups for each megabyte. Not every stdin is one."""
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._incoming, _F_SETPIPE_SZ, _READ_SIZE)

    # --- out ----------------------------------------------------------------------------------------------------------

    def send(self, kind: Kind, number: int = 0, body: dict[str, Any] | None = None) -> None:
        """One frame. LinkLostError when nobody takes it."""
        self._write(encode(kind, number, body))

    def send_data(self, number: int, payload: bytes | memoryview) -> None:
        """One DATA frame."""
        self._write(data_header(number, len(payload)), payload)

    def _write(self, *pieces: bytes | memoryview) -> None:
        with self._writing:
            try:
                for piece in pieces:
                    view = memoryview(piece)
                    while view:
                        view = view[os.write(self._outgoing, view) :]
            except OSError as error:
                stopping.request(f"the controller is gone: {error.strerror}")
                raise LinkLostError("the controller is gone") from error

    def _beat(self) -> None:
        frame = encode(Kind.HEARTBEAT)
        try:
            while not self._ended:
                time.sleep(HEARTBEAT_SECONDS)
                # Somebody is writing: that is a sign of life too, or the controller does not read.
                if self._writing.acquire(False):
                    self._writing.release()
                    self._write(frame)
        except LinkLostError:
            pass

    # --- in -----------------------------------------------------------------------------------------------------------

    def next(self) -> Frame | None:
        """The next frame that is not a heartbeat; None at the end of the stream."""
        if self._ended:
            return None
        frame = self._frames.get()
        self._room.put(None)
        self._ended = frame is None
        return frame

    def _read(self) -> None:
        reason = "the controller hung up"
        try:
            self._read_frames()
        except FormatError as error:
            reason = f"the controller sent {error.message}"
        except OSError as error:
            reason = f"the controller is gone: {error.strerror}"
        except LinkLostError as error:
            reason = error.message
        stopping.request(reason)
        self._frames.put(None)
        time.sleep(_GRACE_SECONDS)
        os._exit(1)

    def _read_frames(self) -> None:
        decoder = FrameDecoder()
        poll = select.poll()
        poll.register(self._incoming, select.POLLIN)
        while True:
            if not poll.poll(SILENCE_SECONDS * 1000):
                raise LinkLostError(f"the controller was silent for {SILENCE_SECONDS:.0f} s")
            chunk = os.read(self._incoming, _READ_SIZE)
            if not chunk:
                return
            for frame in decoder.feed(chunk):
                if frame.kind is not Kind.HEARTBEAT:
                    self._room.get()
                    self._frames.put(frame)
