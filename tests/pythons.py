"""The Pythons of this machine: those that a host may have, and those that are too old for one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.oracle import required

VERSIONS = ("3.9", "3.10", "3.11", "3.12", "3.13")


def interpreter(version: str) -> str:
    """The interpreter "3.9" …; without one the test is skipped, or fails where the whole truth is `required`."""
    try:
        return str(find_python(version))
    except LookupError as error:
        if required():
            pytest.fail(str(error))
        pytest.skip(str(error))


def find_python(version: str) -> Path:
    """The interpreter "3.9" … on this machine; LookupError when there is none."""
    for folder in _folders(version):
        candidate = folder / f"python{version}"
        # A shim of pyenv is a script, which would need pyenv inside of the host.
        if candidate.is_file() and candidate.resolve().read_bytes()[:4] == b"\x7fELF":
            return candidate.resolve()
    raise LookupError(f"no python{version} on this machine: apt, pyenv or `uv python install {version}` have it")


def _folders(version: str) -> Iterator[Path]:
    """PATH, pyenv's versions (also of the pyenv whose shims are on PATH), uv's."""
    on_path = [Path(folder) for folder in os.environ.get("PATH", "").split(":")]
    yield from on_path
    pyenvs = [folder.parent for folder in on_path if folder.name == "shims"]
    for pyenv in (*pyenvs, Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser()):
        yield from sorted(pyenv.glob(f"versions/{version}.*/bin"))
    yield from sorted(Path("~/.local/share/uv/python").expanduser().glob(f"cpython-{version}.*/bin"))
