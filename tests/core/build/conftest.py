"""Fixtures of the builder's tests."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import make_writable
from tests.core.build.helpers import Builder, builders, require_python
from tests.oracle import RealNix


@pytest.fixture(params=["us", "nobody", "container", "one uid"] if os.geteuid() == 0 else ["us", "one uid"])
def builder(request: pytest.FixtureRequest) -> Iterator[Builder]:
    """Each kind of builder, with an empty store that real Nix verifies after the test."""
    require_python()
    # Not pytest's own directory: that is ours alone, and nobody has to get at this one.
    with tempfile.TemporaryDirectory(prefix="reconciler-build-", ignore_cleanup_errors=True) as made:
        top = Path(made)
        os.chmod(top, 0o755)
        found = builders(top)[request.param]
        yield found
        if (found.root / "nix").exists() and shutil.which("nix-store"):
            found.verify()
        with contextlib.suppress(OSError):
            make_writable(top)


@pytest.fixture(autouse=True)
def _verified(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
    """Real Nix verifies the store that a test wrote, whatever else the test looks at."""
    yield
    root = tmp_path / "root"
    if "store_root" in request.fixturenames and (root / "nix/var/nix/db").exists() and shutil.which("nix-store"):
        RealNix(root).verify()
