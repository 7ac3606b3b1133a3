"""What caches said in earlier runs: the form in which whoever reads caches asks for it.

Nothing is believed because it is remembered. A remembered narinfo is read and its signatures are checked as if it had
just come; a remembered "no" counts only while another cache has the path. So what is remembered saves questions, and
decides nothing: see binary_cache.Caches.
"""

from __future__ import annotations

from typing import Protocol

from reconciler.core.values import value


@value
class Remembered:
    """`data`: the narinfo as it came; None where the cache had none."""

    data: bytes | None


class Memory(Protocol):
    """Caches are named by their URLs, without user and password; paths by their hash parts. For several threads, and
    raises nothing: what cannot be remembered is asked again."""

    def recall(self, cache: str, hash_part: str) -> Remembered | None:
        """What the cache said lately; None when that is not known."""

    def keep(self, cache: str, hash_part: str, data: bytes | None) -> None:
        """The cache has said this now."""
