"""What a host printed, made fit to be shown: it is data, and a terminal obeys control characters."""

from __future__ import annotations

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with every control character but tab and newline replaced."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class Tail:
    """The last `limit` bytes of a stream."""

    def __init__(self, limit: int = 16384) -> None:
        self._limit = limit
        self._data = bytearray()

    def add(self, chunk: bytes) -> None:
        self._data += chunk
        if len(self._data) > self._limit:
            del self._data[: len(self._data) - self._limit]

    @property
    def text(self) -> str:
        return bytes(self._data).decode(errors="replace")

    def last_lines(self, count: int = 5) -> str:
        """The last lines that are not empty, fit to be shown, in one line."""
        lines = [line.strip() for line in printable(self.text).splitlines() if line.strip()]
        return "; ".join(line[:300] for line in lines[-count:])
