"""Nix's own encoding (core/nix/wire.py) over a channel that may lie, stall or end: every wait ends at a deadline."""

from __future__ import annotations

import contextlib
import re
import time

from reconciler.core.errors import LinkLostError, ReconcilerError, StoreError
from reconciler.core.nix.wire import Decoder
from reconciler.transport.connection import Channel, Stream
from reconciler.transport.errors import NotFit
from reconciler.transport.text import Tail

MAX_NOISE = 64 * 1024


class Wire(Decoder):
    """A channel's bytes, both ways, up to the time `until` (monotonic)."""

    def __init__(self, channel: Channel, name: str) -> None:
        self.channel = channel
        self.until = 0.0
        self._name = name
        self._stderr = Tail()
        self._got = bytearray()

    # --- out ----------------------------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        try:
            self.channel.write(data, self._left())
        except LinkLostError as error:
            # Nix says why it ended on its other stream, which is behind what we wrote.
            self.until = min(self.until, time.monotonic() + 2.0)
            self._drain()
            raise self._ended(error) from error

    def _drain(self) -> None:
        with contextlib.suppress(ReconcilerError):
            while time.monotonic() < self.until:
                item = self.channel.read(0.2)
                if item is not None and item[0] is Stream.END:
                    return
                if item is not None and item[0] is Stream.ERR:
                    self._stderr.add(item[1])

    # --- in -----------------------------------------------------------------------------------------------------------

    def skip_to(self, marker: bytes) -> None:
        """Drop everything up to and with `marker`."""
        while (place := self._got.find(marker)) < 0:
            if len(self._got) > MAX_NOISE:
                raise NotFit(
                    f"the login shell printed {MAX_NOISE // 1024} KiB and Nix did not start",
                    "let its start-up files print nothing when they are not interactive",
                )
            self._fill()
        del self._got[: place + len(marker)]

    def some(self, most: int) -> bytes:
        """What is there, at least one byte."""
        while not self._got:
            self._fill()
        piece = bytes(self._got[:most])
        del self._got[:most]
        return piece

    def _exactly(self, size: int) -> bytes:
        while len(self._got) < size:
            self._fill()
        piece = bytes(self._got[:size])
        del self._got[:size]
        return piece

    def _fill(self) -> None:
        """The next piece of stdout. sudo is answered on the way."""
        while True:
            item = self.channel.read(self._left())
            if item is None:
                continue  # `_left` raises
            stream, data = item
            if stream is Stream.OUT:
                self._got += data
                return
            if stream is Stream.END:
                raise self._ended(None)
            self._stderr.add(data)
            answer = self.channel.elevation.answer(self._stderr.text) if self.channel.elevation else None
            if answer is not None:
                self.channel.write(answer, self._left())

    def _left(self) -> float:
        left = self.until - time.monotonic()
        if left <= 0:
            raise LinkLostError(f"{self._name}: Nix did not answer in time{self._said()}")
        return left

    def _said(self) -> str:
        said = self._stderr.last_lines(3)
        return f": {said}" if said else ""

    def _ended(self, lost: LinkLostError | None) -> ReconcilerError:
        """Why there is nothing more: as sudo or Nix said it, else that the connection broke."""
        elevation = self.channel.elevation
        if elevation is not None:
            explained = elevation.explain(self._stderr.text)
            if explained is not None:
                return explained
            visible, self._stderr = elevation.visible(self._stderr.text), Tail()
            self._stderr.add(visible.encode())
        status = self.channel.exit_status(2.0)
        if status is None:
            return lost or LinkLostError(f"{self._name}: the connection broke{self._said()}")
        if status == 127 or re.search(r"nix-store\W*:? .*[Nn]ot? (such file|found)", self._stderr.text):
            return NotFit("there is no nix-store", "install Nix there, or Python 3.9")
        return StoreError(f"{self._name}: Nix ended (exit status {status}){self._said()}")
