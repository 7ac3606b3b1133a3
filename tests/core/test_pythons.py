"""Core under every Python that a host may have: 3.9 to 3.13, standard library alone, no site directory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import make_writable
from tests.oracle import verify
from tests.pythons import VERSIONS, interpreter

SOURCE = Path(__file__).parents[2]


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
