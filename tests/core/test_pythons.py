"""Core under every Python that a host may have: 3.9 to 3.13, standard library alone, no site directory."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_writable
from tests.oracle import required, verify

SOURCE = Path(__file__).parents[2]
VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")


def interpreter(version: str) -> str:
    """A Python of that version: on PATH, or among pyenv's. Skipped when there is none, which fails in CI."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [*map(str, sorted(pyenv.glob(f"{version}.*/bin/python3"))), shutil.which(f"python{version}") or ""]
    for candidate in filter(None, candidates):
        if subprocess.run([candidate, "-I", "-S", "-c", "import sqlite3, ctypes"], check=False).returncode == 0:
            return candidate
    if os.environ.get("CI") == "true" and required():
        pytest.fail(f"there is no Python {version} with sqlite3 and ctypes here")
    pytest.skip(f"there is no Python {version} here")


def outcome(python: str, work: Path) -> dict[str, Any]:
    work.mkdir()
    script = str(Path(__file__).with_name("exercise.py"))
    command = [python, "-I", "-S", "-W", "error", script, str(SOURCE), str(SOURCE / "tests/golden"), str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.nix
@pytest.mark.parametrize("version", VERSIONS)
def test_core_does_the_same_under_every_python(version: str, tmp_path: Path) -> None:
    python = interpreter(version)
    try:
        expected, found = outcome(sys.executable, tmp_path / "here"), outcome(python, tmp_path / "there")
        assert found == expected
        steps = {
            "nar_round_trip",
            "wrong_archives",
            "derivations",
            "cache_formats",
            "store",
            "caches",
            "garbage",
            "upkeep",
            "elf_files",
        }
        assert set(found) == steps
        verify(tmp_path / "there/root")
        verify(tmp_path / "there/root-of-caches")
        verify(tmp_path / "there/root-of-garbage")
        verify(tmp_path / "there/root-of-upkeep")
    finally:
        make_writable(tmp_path)
