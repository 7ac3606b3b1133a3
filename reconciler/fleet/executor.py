"""Work on many hosts at once, behind a Protocol: threads today, other processes or machines some day."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Executor(Protocol):
    """Runs one function over many items; results come in the items' order."""

    def run(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]: ...


class Threads:
    """At most `forks` items at once, each in a thread."""

    def __init__(self, forks: int) -> None:
        self.forks = max(1, forks)

    def run(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        if len(items) <= 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(max_workers=min(self.forks, len(items)), thread_name_prefix="host") as pool:
            try:
                return list(pool.map(function, items))
            except BaseException:
                # Ctrl-C: what has not begun shall not begin.
                pool.shutdown(wait=False, cancel_futures=True)
                raise
