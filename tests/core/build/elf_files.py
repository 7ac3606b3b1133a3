"""ELF files made by hand: small, of both sizes and byte orders, good and bad."""

from __future__ import annotations

import struct
from collections.abc import Sequence


def elf(
    *,
    interpreter: str = "",
    needed: Sequence[str] = (),
    runpath: str = "",
    rpath: str = "",
    wide: bool = True,
    little: bool = True,
    kind: int = 3,
) -> bytes:
    """A file that says how it is loaded, and holds nothing else. Everything lies in one segment, at address 0x1000."""
    order = "<" if little else ">"
    header_size, each = (64, 56) if wide else (52, 32)
    strings = bytearray(b"\0")
    table = []
    for tag, texts in ((1, needed), (29, [runpath] if runpath else []), (15, [rpath] if rpath else [])):
        for text in texts:
            table.append((tag, len(strings)))
            strings += text.encode() + b"\0"
    start = header_size + 3 * each
    path = interpreter.encode() + b"\0"
    at_strings = start + len(path)
    table += [(5, 0x1000 + at_strings), (10, len(strings)), (0, 0)]
    dynamic = b"".join(struct.pack(order + ("QQ" if wide else "II"), *pair) for pair in table)
    body = path + bytes(strings)
    at_dynamic = start + len(body)

    def segment(kind: int, offset: int, size: int) -> bytes:
        if wide:
            return struct.pack(order + "IIQQQQQQ", kind, 4, offset, 0x1000 + offset, 0, size, size, 1)
        return struct.pack(order + "IIIIIIII", kind, offset, 0x1000 + offset, 0, size, size, 4, 1)

    whole = at_dynamic + len(dynamic)
    segments = [segment(1, 0, whole), segment(2, at_dynamic, len(dynamic))]
    segments.append(segment(3, start, len(path)) if interpreter else segment(0, 0, 0))
    begin = bytes([0x7F, 0x45, 0x4C, 0x46, 2 if wide else 1, 1 if little else 2, 1]) + bytes(9)
    form = order + ("HHIQQQIHHHHHH" if wide else "HHIIIIIHHHHHH")
    header = begin + struct.pack(form, kind, 62, 1, 0, header_size, 0, 0, header_size, each, 3, 0, 0, 0)
    return header + b"".join(segments) + body + dynamic
