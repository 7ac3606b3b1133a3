from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.operator import Operator
from tests.hosts.fixture import MakeFleet

MakeOperator = Callable[..., Operator]


@pytest.fixture
def operator(fleet: MakeFleet, tmp_path: Path) -> Iterator[MakeOperator]:
    """`operator(["web01", "web02"])`: hosts, and somebody to deploy to them; every store is verified at the end."""
    made: list[Operator] = []

    def make(hosts: int | list[str], **options: object) -> Operator:
        made.append(Operator(tmp_path, fleet(hosts, **options)))
        return made[-1]

    yield make
    for each in made:
        each.verify()
