"""Frames: what is written is read back in any pieces; what is not a frame is refused before it is stored."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.agent.frames import (
    HEADER_SIZE,
    MAX_PAYLOAD,
    FrameDecoder,
    Kind,
    data_header,
    encode,
    parse_object,
)
from reconciler.core.errors import FormatError

BODIES = st.dictionaries(st.text(max_size=8), st.text(max_size=40) | st.integers() | st.none(), max_size=4)
KINDS = st.sampled_from([Kind.HELLO, Kind.REQUEST, Kind.REPLY, Kind.ERROR, Kind.END, Kind.EVENT])


@given(
    st.lists(st.tuples(KINDS, st.integers(0, 2**32 - 1), BODIES) | st.binary(min_size=1, max_size=300), max_size=6),
    st.lists(st.integers(1, 40), min_size=1, max_size=20),
)
def test_a_stream_of_frames_is_read_back_in_whatever_pieces_it_comes(
    sent: list[tuple[Kind, int, dict[str, object]] | bytes], cuts: list[int]
) -> None:
    stream = b""
    for one in sent:
        stream += data_header(7, len(one)) + one if isinstance(one, bytes) else encode(*one)
    decoder = FrameDecoder()
    frames = []
    position = turn = 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        frames += decoder.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
    assert decoder.idle
    assert [
        bytes(frame.payload) if frame.kind is Kind.DATA else (frame.kind, frame.number, frame.body) for frame in frames
    ] == sent


def test_a_heartbeat_is_a_header_alone() -> None:
    assert encode(Kind.HEARTBEAT) == b"\x08" + bytes(HEADER_SIZE - 1)
    (frame,) = FrameDecoder().feed(encode(Kind.HEARTBEAT))
    assert (frame.kind, frame.body, bytes(frame.payload)) == (Kind.HEARTBEAT, {}, b"")


def header(kind: int, json_size: int, payload_size: int) -> bytes:
    return struct.pack(">BIII", kind, 1, json_size, payload_size)


@pytest.mark.parametrize(
    "stream",
    [
        header(0, 0, 0),
        header(9, 0, 0),
        header(255, 0, 0),
        header(Kind.DATA, 1, 0),
        header(Kind.DATA, 0, MAX_PAYLOAD + 1),
        header(Kind.DATA, 0, 2**32 - 1),
        header(Kind.REPLY, 2**32 - 1, 0),
        header(Kind.REPLY, 2, 1) + b"{}x",
        header(Kind.HEARTBEAT, 2, 0),
        header(Kind.EVENT, 65537, 0),
        header(Kind.REPLY, 2, 0) + b"[]",
        header(Kind.REPLY, 4, 0) + b"null",
        header(Kind.REPLY, 2, 0) + b"{,",
        header(Kind.REPLY, 2, 0) + b"\xff\xff",
        header(Kind.REPLY, 200000, 0) + b"[" * 200000,
        header(Kind.REPLY, 5006, 0) + b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_a_wrong_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(FormatError):
        FrameDecoder().feed(stream)


def test_an_announced_size_takes_no_memory_until_its_bytes_come() -> None:
    tracemalloc.start()
    decoder = FrameDecoder()
    decoder.feed(header(Kind.REPLY, 32 * 1024 * 1024, 0) + b"{")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * MAX_PAYLOAD
    assert not decoder.idle


def test_an_object_too_large_for_its_kind_is_not_sent() -> None:
    with pytest.raises(FormatError, match=r"a EVENT of|an EVENT of|EVENT"):
        encode(Kind.EVENT, 1, {"detail": "x" * 70000})


def test_json_that_is_no_object_is_refused() -> None:
    with pytest.raises(FormatError, match=r"no object"):
        parse_object(b"[1]")
