"""Fixtures for every test."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.store.store import Store
from tests.oracle import RealNix

# A run in the background of a shell ignores Ctrl-C, and so would all that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["tests.groups", "tests.hosts.fixture"]


@pytest.fixture
def store_root(tmp_path: Path) -> Iterator[Path]:
    """Where a test's store may lie; made writable afterwards, so that an ordinary user's pytest can remove it."""
    root = tmp_path / "root"
    root.mkdir()
    yield root
    make_writable(root)


@pytest.fixture
def store(store_root: Path) -> Iterator[Store]:
    """An empty store."""
    with Store.open(str(store_root), create=True) as opened:
        yield opened


@pytest.fixture
def nix(store_root: Path) -> RealNix:
    """Real Nix on the store below `store_root`; a store that a test wrote is verified by calling `nix.verify()`."""
    return RealNix(store_root)


def make_writable(top: Path) -> None:
    """Let the owner remove every directory below `top` (a store's are 0555)."""
    for directory, _, _ in os.walk(top):
        with contextlib.suppress(OSError):
            mode = os.lstat(directory).st_mode
            if stat.S_ISDIR(mode) and mode & 0o700 != 0o700:
                os.chmod(directory, 0o700)
