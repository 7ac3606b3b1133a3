"""Which store paths does some output refer to? Those whose hash parts occur anywhere in the bytes of its archive."""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconciler.core.nix import base32
from reconciler.core.nix.store_path import HASH_PART_LENGTH, StorePath

# Up to so many candidates each is searched for by itself, at memchr's speed; above that, each run of digits that is
# long enough is looked at once, whatever the number of candidates.
_FEW = 48
_RUN = re.compile(f"[{base32.ALPHABET}]{{{HASH_PART_LENGTH},}}".encode())


class Scanner:
    """Fed the archive in chunks of any sizes, knows what was found so far."""

    def __init__(self, candidates: Iterable[StorePath]) -> None:
        self._wanted = {path.hash_part.encode(): path for path in candidates}
        self._found: set[StorePath] = set()
        self._tail = b""

    @property
    def found(self) -> tuple[StorePath, ...]:
        """Sorted."""
        return tuple(sorted(self._found))

    def feed(self, chunk: bytes) -> None:
        if not self._wanted:
            return
        data = self._tail + chunk
        for part in self._few(data) if len(self._wanted) <= _FEW else self._many(data):
            self._found.add(self._wanted.pop(part))
        self._tail = data[-(HASH_PART_LENGTH - 1) :]

    def _few(self, data: bytes) -> list[bytes]:
        return [part for part in self._wanted if part in data]

    def _many(self, data: bytes) -> set[bytes]:
        found: set[bytes] = set()
        for run in _RUN.finditer(data):
            digits = run.group()
            windows = (digits[start : start + HASH_PART_LENGTH] for start in range(len(digits) - HASH_PART_LENGTH + 1))
            found.update(window for window in windows if window in self._wanted)
        return found
