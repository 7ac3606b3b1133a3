"""The pytest fixture `fleet`. Registered in tests/conftest.py; tests that use it are marked `root`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.hosts.host import Fleet, Options, make_fleet

MakeFleet = Callable[..., Fleet]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[MakeFleet]:
    """`fleet(3)` or `fleet(["web01", "db01"], tmpfs=True)`: hosts that are gone when the test ends.

    Keyword arguments are those of tests.hosts.host.Options.
    """
    made: list[Fleet] = []

    def make(hosts: int | Sequence[str], **options: object) -> Fleet:
        names = [f"host{number:02d}" for number in range(1, hosts + 1)] if isinstance(hosts, int) else list(hosts)
        chosen = Options(**options)  # type: ignore[arg-type]  # a wrong name or value fails the test at once
        made.append(make_fleet(tmp_path / f"fleet{len(made) or ''}", names, chosen))
        return made[-1]

    yield make
    for each in made:
        each.close()
