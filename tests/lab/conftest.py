"""Labs for the tests: made in the test's directory, ended with it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import RefusedError
from reconciler.lab import lab, namespaces


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where a test's lab goes; skipped where this machine allows none."""
    try:
        namespaces.choose_isolation()
    except RefusedError as error:
        pytest.skip(f"lab: {error.message}")
    path = tmp_path / "lab"
    yield path
    if path.exists():
        lab.down(path)
