"""One thread for one channel: everything that comes out of it, and the heartbeat that goes in.

stdout and stderr share one window, so whoever reads one and waits for the other stands still; here one loop reads both.
A peer that is silent for SILENCE_SECONDS while we listen is dead. What is read and not yet asked for is bounded: past
the bound the pump stops reading, the window closes, and the peer waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from reconciler.core.agent.frames import HEARTBEAT_SECONDS, SILENCE_SECONDS, Frame, FrameDecoder, Kind, encode
from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError
from reconciler.transport.connection import Channel, Stream
from reconciler.transport.text import Tail

_WAITING = 16
_EXPECTED = frozenset({Kind.REPLY, Kind.ERROR, Kind.EVENT, Kind.DATA, Kind.END})
_BEAT = encode(Kind.HEARTBEAT)


class Pump:
    """Frames out of a channel, in order; the error that ended it, for ever after."""

    def __init__(self, channel: Channel, decoder: FrameDecoder, frames: list[Frame], stderr: Tail, name: str) -> None:
        self._channel = channel
        self._decoder = decoder
        self._name = name
        self._frames: deque[Frame] = deque()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._error: ReconcilerError | None = None
        self._closing = False
        self._number = 0
        self._pending = frames
        self._last_beat = time.monotonic()
        self.stderr = stderr
        self._thread = threading.Thread(target=self._run, name=f"pump {name}", daemon=True)
        self._thread.start()

    # --- for the caller -----------------------------------------------------------------------------------------------

    def expect(self, number: int) -> None:
        """Which request is being answered; a frame of any other is a fault of the peer."""
        with self._changed:
            self._raise()
            self._number = number

    def take(self, until: float) -> Frame | None:
        """The next frame; None when `until` (monotonic) passes first. Raises what ended the pump."""
        with self._changed:
            while not self._frames:
                self._raise()
                left = until - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    if self._frames:
                        break
                    return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def poll(self) -> Frame | None:
        """A frame that is there already."""
        with self._changed:
            if not self._frames:
                self._raise()
                return None
            frame = self._frames.popleft()
            self._changed.notify_all()
            return frame

    def write(self, data: bytes | memoryview, until: float) -> None:
        """Send; raises what ended the pump when the channel is gone."""
        try:
            with self._writing:
                self._channel.write(data, max(0.1, until - time.monotonic()))
        except LinkLostError:
            # The reader may know better why; it is told by the same end.
            self._thread.join(1.0)
            with self._changed:
                self._raise()
            raise

    def fail(self, error: ReconcilerError) -> None:
        """End it: the channel is closed, and `error` is what everybody hears."""
        with self._changed:
            if self._error is None:
                self._error = error
            self._closing = True
            self._changed.notify_all()
        self._channel.close()

    def close(self, patience: float) -> None:
        """Hang up; wait up to `patience` seconds for the agent to have ended, which frees its locks."""
        with self._changed:
            self._closing = True
            self._frames.clear()
            self._changed.notify_all()
        try:
            self._channel.end_input()
        except LinkLostError:
            patience = 0.0
        self._thread.join(patience)
        self._channel.close()
        self._thread.join(2.0)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._deliver(self._pending)
            self._loop()
        except FormatError as error:
            self.fail(LinkLostError(f"{self._name}: the agent sent {error.message}"))
        except ReconcilerError as error:
            self.fail(error)
        except Exception as error:  # a thread that dies unheard leaves its caller waiting
            self.fail(LinkLostError(f"{self._name}: the connection broke: {type(error).__name__}: {error}"))

    def _loop(self) -> None:
        heard = time.monotonic()
        while True:
            item = self._channel.read(self._beat())
            now = time.monotonic()
            if item is None:
                if now - heard >= SILENCE_SECONDS:
                    raise LinkLostError(f"{self._name}: silent for {SILENCE_SECONDS:.0f} s")
                continue
            stream, data = item
            if stream is Stream.END:
                raise LinkLostError(self._how_it_ended())
            if stream is Stream.ERR:
                self.stderr.add(data)
            else:
                self._deliver(self._decoder.feed(data))
            # Time spent waiting for our own side is not the peer's silence.
            heard = time.monotonic()

    def _beat(self) -> float:
        """Send a heartbeat if one is due, and never wait to do it; the seconds until the next."""
        now = time.monotonic()
        if now - self._last_beat >= HEARTBEAT_SECONDS:
            self._last_beat = now
            if not self._closing and self._writing.acquire(blocking=False):
                try:
                    if self._channel.writable():
                        self._channel.write(_BEAT, 1.0)
                finally:
                    self._writing.release()
        return max(0.05, self._last_beat + HEARTBEAT_SECONDS - now)

    def _deliver(self, frames: list[Frame]) -> None:
        for frame in frames:
            if frame.kind is Kind.HEARTBEAT:
                continue
            with self._changed:
                if self._closing:
                    continue
                if frame.kind not in _EXPECTED or frame.number != self._number:
                    raise FormatError(f"a {frame.kind.name} frame that nobody asked for")
                while len(self._frames) >= _WAITING and not self._closing:
                    self._changed.wait(self._beat())
                self._frames.append(frame)
                self._changed.notify_all()

    def _how_it_ended(self) -> str:
        status = self._channel.exit_status(1.0)
        said = self.stderr.last_lines(3)
        if status is None:
            return f"{self._name}: the connection broke"
        return f"{self._name}: the agent ended (exit status {status}){': ' + said if said else ''}"
