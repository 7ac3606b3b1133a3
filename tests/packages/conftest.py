"""Fixtures of the tests of packages."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle import RealNix
from tests.packages.project import Project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    made = Project(tmp_path / "project")
    made.inventory.mkdir(parents=True)
    return made


@pytest.fixture(autouse=True)
def _verified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Real Nix verifies the store that a test wrote, whatever else the test looks at."""
    yield
    root = tmp_path / "root"
    if "store_root" in request.fixturenames and (root / "nix/var/nix/db").exists() and shutil.which("nix-store"):
        RealNix(root).verify()
