"""Which groups of tests this machine can run: those it cannot are skipped with the reason, and in CI they fail.

Registered in tests/conftest.py.
"""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable, Generator

import pytest

# How the reason of a skip begins when root has nothing to test there: a refusal that only others get.
NOT_FOR_ROOT = "as root: "


def _no_root() -> str | None:
    if os.geteuid() != 0:
        return "needs root: run `make test` as root for the tests on real sshd hosts"
    missing = [
        program for program in ("/usr/sbin/sshd", "/usr/bin/nsenter", "/usr/bin/sudo") if not os.path.exists(program)
    ]
    return f"needs {', '.join(missing)}" if missing else None


def _no_nix() -> str | None:
    return None if shutil.which("nix-store") else "needs real Nix: apt-get install nix-bin"


_OBSTACLES: dict[str, Callable[[], str | None]] = {"root": _no_root, "nix": _no_nix}


@functools.cache
def _obstacle(group: str) -> str | None:
    return _OBSTACLES[group]()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for group in _OBSTACLES:
        if item.get_closest_marker(group) and (reason := _obstacle(group)):
            pytest.skip(f"{group}: {reason}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI nothing may be left out: a skipped test is a failed one, but for what does not exist for root at all."""
    report = yield
    left_out = report.skipped and not hasattr(report, "wasxfail") and NOT_FOR_ROOT not in str(report.longrepr)
    if os.environ.get("CI") == "true" and left_out:
        report.outcome = "failed"
        report.longrepr = f"left out, which CI does not allow: {report.longrepr}"
    return report
