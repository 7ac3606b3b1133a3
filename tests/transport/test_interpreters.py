"""Which Python an agent is started with: decided in one place."""

from __future__ import annotations

import sys

import pytest

from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.interpreters import BROUGHT, interpreters


@pytest.mark.parametrize(
    ("connection", "named", "first"),
    [
        ("ssh", None, "python3"),
        ("ssh", "auto", "python3"),
        ("ssh", "auto_silent", "python3"),
        ("ssh", "/opt/python3.12", "/opt/python3.12"),
        ("local", None, sys.executable),
        ("local", "/opt/python3.12", "/opt/python3.12"),
    ],
)
def test_what_the_inventory_names_comes_first_and_what_was_brought_last(
    connection: str, named: str | None, first: str
) -> None:
    settings = ConnectionSettings("web01", connection=connection, python=named)
    assert interpreters(settings) == (first, BROUGHT)


def test_the_one_that_was_brought_stands_where_the_collector_looks() -> None:
    assert BROUGHT == "/nix/var/nix/gcroots/reconciler/python/bin/python3"
