"""Inventories written out for a test."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

import pytest

from reconciler.core.errors import Faults
from reconciler.inventory.faults import InputError
from reconciler.inventory.inventory import Inventory, load


def write(root: Path, files: Mapping[str, str]) -> Path:
    """The files, dedented, below `root`, which is returned."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return root


def read(root: Path, hosts: str, **files: str) -> Inventory:
    """The inventory of a hosts file, and of others whose names are spelled with `__` for `/` and without `.yml`."""
    named = {name.replace("__", "/") + ".yml": text for name, text in files.items()}
    return load(write(root, {"hosts.yml": hosts, **named}) / "hosts.yml")


def faults_of(root: Path, hosts: str, **files: str) -> list[str]:
    """What `read` objects to: the messages, with paths below `root` as the user would type them there."""
    return [told.message for told in errors_of(root, hosts, **files)]


def errors_of(root: Path, hosts: str, **files: str) -> list[InputError]:
    """As `faults_of`, whole; at least one."""
    with pytest.raises(Faults) as raised:
        read(root, hosts, **files)
    return [_below(root, error) for error in raised.value.errors if isinstance(error, InputError)]


def _below(root: Path, error: InputError) -> InputError:
    short = InputError(error.position, error.text, error.hint)
    short.message = error.message.replace(f"{root}/", "")
    short.hint = error.hint and error.hint.replace(f"{root}/", "")
    return short
