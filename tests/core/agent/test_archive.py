"""The agent's archive: the same bytes for the same code, and all of core in it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import reconciler.core
from reconciler.core.agent import archive


def test_the_archive_has_all_of_core_and_starts_by_main() -> None:
    packed = archive.build()
    with zipfile.ZipFile(io.BytesIO(packed.contents)) as file:
        names = set(file.namelist())
        assert file.read("__main__.py") == file.read("reconciler/core/agent/start.py")
    core = Path(reconciler.core.__file__).parent
    wanted = {f"reconciler/core/{path.relative_to(core)}" for path in core.rglob("*.py")}
    assert names == wanted | {"__main__.py", "reconciler/__init__.py"}


def test_its_name_is_its_hash_and_the_packed_form_is_the_same_bytes() -> None:
    packed = archive.build()
    assert packed.sha256 == hashlib.sha256(packed.contents).hexdigest()
    assert zlib.decompress(packed.packed()) == packed.contents
    assert len(packed.packed()) < len(packed.contents) / 2


def test_two_processes_make_the_same_archive_whatever_their_clock_umask_and_hash_seed() -> None:
    def name(seed: str, umask: str) -> str:
        program = (
            f"import os; os.umask({umask}); from reconciler.core.agent import archive; print(archive.build().sha256)"
        )
        done = subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}", "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert name("1", "0o022") == name("2", "0o077")


def test_another_byte_of_code_is_another_name() -> None:
    one = archive.pack({"reconciler/core/agent/start.py": b"1"})
    other = archive.pack({"reconciler/core/agent/start.py": b"2"})
    assert one.sha256 != other.sha256
