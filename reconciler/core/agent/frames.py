"""The frames that controller and agent exchange: bytes in, frames out, and back. No I/O, no threads.

    stream   := MAGIC state frame*                  towards the controller; towards the agent: frame*
    frame    := kind number json-size payload-size json payload
    kind     := u8, one of Kind                     all numbers big-endian
    number   := u32, the request that this belongs to; 0 for HELLO and HEARTBEAT
    json     := an object in UTF-8; absent (size 0) for DATA and HEARTBEAT
    payload  := bytes; only DATA has one

What a host says is data, and may be a lie: every size is checked against its kind's limit before a byte of it is
stored, so that a peer can make the other end hold one frame of the largest size and no more.
"""

from __future__ import annotations

import enum
import json
import struct
from typing import Any

from reconciler.core.errors import FormatError
from reconciler.core.values import field, value

# What the agent says first; a shell's start-up files may have printed something before it. NULs, so that no text does.
MAGIC = b"\0\0reconciler-agent-1\0"
MAX_NOISE = 65536

PROTOCOL = 1
DATA_SIZE = 256 * 1024
MAX_PAYLOAD = 1024 * 1024
HEARTBEAT_SECONDS = 5.0
SILENCE_SECONDS = 20.0

_HEADER = struct.Struct(">BIII")
HEADER_SIZE = _HEADER.size


class Kind(enum.IntEnum):
    """HELLO opens the agent's side. A REQUEST is answered by one REPLY or ERROR; EVENTs may come before it. DATA and
    END carry the bytes of store paths, one END after each path. A HEARTBEAT says: still here."""

    HELLO = 1
    REQUEST = 2
    REPLY = 3
    ERROR = 4
    DATA = 5
    END = 6
    EVENT = 7
    HEARTBEAT = 8


_MAX_JSON = {
    Kind.HELLO: 65536,
    Kind.REQUEST: 32 * 1024 * 1024,
    Kind.REPLY: 32 * 1024 * 1024,
    Kind.ERROR: 1024 * 1024,
    Kind.DATA: 0,
    Kind.END: 65536,
    Kind.EVENT: 65536,
    Kind.HEARTBEAT: 0,
}
_KINDS = {int(kind): kind for kind in _MAX_JSON}


@value
class Frame:
    """One frame. `payload` is bytes-like; its owner may change it no more."""

    kind: Kind
    number: int = 0
    body: dict[str, Any] = field(default_factory=dict)
    payload: bytes | bytearray = b""


def encode(kind: Kind, number: int = 0, body: dict[str, Any] | None = None) -> bytes:
    """A frame without a payload."""
    text = b"" if body is None else json.dumps(body, separators=(",", ":")).encode()
    if len(text) > _MAX_JSON[kind]:
        raise FormatError(f"a {kind.name} of {len(text)} bytes passes the limit of {_MAX_JSON[kind]}")
    return _HEADER.pack(int(kind), number, len(text), 0) + text


def data_header(number: int, size: int) -> bytes:
    """What stands before `size` bytes of a DATA frame."""
    if not 0 < size <= MAX_PAYLOAD:
        raise FormatError(f"a DATA frame of {size} bytes")
    return _HEADER.pack(int(Kind.DATA), number, 0, size)


class FrameDecoder:
    """Cuts a stream of bytes into frames, whatever pieces it comes in. FormatError at the first wrong byte."""

    def __init__(self) -> None:
        self._head = bytearray()
        self._kind = Kind.HEARTBEAT
        self._number = 0
        self._json_size = 0
        self._body: bytearray | None = None
        self._size = 0
        self._filled = 0

    @property
    def idle(self) -> bool:
        """Whether the stream may end here: no frame is half read."""
        return not self._head and self._body is None

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that `chunk` completes."""
        frames = []
        view = memoryview(chunk)
        while view:
            view = self._take_head(view) if self._body is None else self._take_body(view)
            if self._body is not None and self._filled == self._size:
                frames.append(self._finish())
        return frames

    def _take_head(self, view: memoryview) -> memoryview:
        wanted = HEADER_SIZE - len(self._head)
        self._head += view[:wanted]
        if len(self._head) == HEADER_SIZE:
            number, self._number, self._json_size, payload_size = _HEADER.unpack(self._head)
            kind = _KINDS.get(number)
            if kind is None:
                raise FormatError(f"a frame of kind {number}")
            self._kind = kind
            limit = MAX_PAYLOAD if kind is Kind.DATA else 0
            if self._json_size > _MAX_JSON[kind] or payload_size > limit:
                raise FormatError(f"a {kind.name} frame of {self._json_size} + {payload_size} bytes")
            self._head.clear()
            self._body = bytearray(min(self._json_size + payload_size, MAX_PAYLOAD))
            self._size = self._json_size + payload_size
            self._filled = 0
        return view[wanted:]

    def _take_body(self, view: memoryview) -> memoryview:
        body = self._body
        assert body is not None
        count = min(self._size - self._filled, len(view))
        if self._filled + count > len(body):
            # Room for what has arrived, never for what is only announced.
            body.extend(bytes(min(self._size, 2 * (self._filled + count)) - len(body)))
        body[self._filled : self._filled + count] = view[:count]
        self._filled += count
        return view[count:]

    def _finish(self) -> Frame:
        body, self._body = self._body, None
        assert body is not None
        if self._kind is Kind.DATA:
            return Frame(self._kind, self._number, payload=body)
        return Frame(self._kind, self._number, parse_object(bytes(body)) if body else {})


def parse_object(text: bytes) -> dict[str, Any]:
    """A JSON object; FormatError for anything else, however it is broken."""
    try:
        value = json.loads(text.decode())
    except (ValueError, RecursionError, MemoryError) as error:
        raise FormatError(f"a frame's JSON is broken: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise FormatError("a frame's JSON is no object")
    return value
