"""Faults of an inventory: each knows where it stands, and all of them are told at once, in the order of the files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from reconciler.core.errors import Faults, UsageError
from reconciler.inventory.desired import Position

# A fault of a whole tier is one line: more hosts than this are counted, not named.
HOSTS_NAMED = 6


class InputError(UsageError):
    """A fault at a position; `text` is the message without it. Line 0 means the file as a whole."""

    def __init__(self, position: Position, text: str, hint: str | None = None) -> None:
        super().__init__(f"{position if position.line else position.file}: {text}", hint)
        self.position = position
        self.text = text


@dataclass
class _Seen:
    fault: InputError
    tail: str
    hosts: list[str] = field(default_factory=list)

    def error(self) -> InputError:
        if not self.hosts:
            return self.fault
        return InputError(
            self.fault.position, self.fault.text + self.tail.format(name_hosts(self.hosts)), self.fault.hint
        )


class FaultLog:
    """Collects faults. The same fault on several hosts is one fault that names them."""

    def __init__(self) -> None:
        self._seen: dict[tuple[Position, str, str | None], _Seen] = {}

    def __bool__(self) -> bool:
        return bool(self._seen)

    def add(self, fault: InputError, host: str | None = None, tail: str = " (on {})") -> None:
        """Note a fault. `tail` is how the hosts that it concerns are appended, where `host` says one."""
        seen = self._seen.setdefault((fault.position, fault.text, fault.hint), _Seen(fault, tail))
        if host is not None and host not in seen.hosts:
            seen.hosts.append(host)

    @contextmanager
    def catching(self, host: str | None = None) -> Iterator[None]:
        """Note the fault that the block raises, and go on behind it."""
        try:
            yield
        except InputError as fault:
            self.add(fault, host)

    def errors(self) -> tuple[InputError, ...]:
        """Every fault, sorted by position."""
        return tuple(
            sorted((seen.error() for seen in self._seen.values()), key=lambda fault: (fault.position, fault.text))
        )

    def check(self) -> None:
        """Raise Faults with everything noted; nothing where there is nothing."""
        if self._seen:
            raise Faults(self.errors())


def name_hosts(hosts: list[str]) -> str:
    """`web01, web02`, and the number of the rest where they are many."""
    if len(hosts) <= HOSTS_NAMED:
        return ", ".join(hosts)
    return f"{', '.join(hosts[: HOSTS_NAMED - 1])} and {len(hosts) - HOSTS_NAMED + 1} more"


def short_places(positions: list[Position]) -> list[str]:
    """`web.yml:4:13` for each position; whole paths where two files of one name are among them."""
    files = {position.file for position in positions}
    shorten: Callable[[str], str] = os.path.basename
    if len({shorten(file) for file in files}) < len(files):
        shorten = str
    return [f"{shorten(position.file)}:{position.line}:{position.column}" for position in positions]
