"""ruff and mypy --strict over source and tests. Each ignored rule has its reason beside it in pyproject.toml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

COMMANDS = {
    "ruff finds nothing": ["ruff", "check", "."],
    "the layout is ruff's": ["ruff", "format", "--check", "."],
    "mypy --strict finds nothing": ["mypy"],
    # 3.9 is too old for mypy; ruff reads core as 3.9, and the tests import it there.
    "mypy finds nothing in core as Python 3.10 sees it": ["mypy", "--python-version", "3.10", "reconciler/core"],
}


@pytest.mark.parametrize("argv", COMMANDS.values(), ids=COMMANDS.keys())
def test_style(argv: list[str]) -> None:
    program = Path(sys.executable).with_name(argv[0])
    done = subprocess.run([program, *argv[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
