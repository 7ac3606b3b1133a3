"""Which interpreter a lab host has as `python3`, and which directories of the machine it and our server need."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

from reconciler.core.errors import RefusedError

_SYSTEM_PYTHON = Path("/usr/bin/python3")
_FITNESS = "import sys, sqlite3, ctypes; sys.exit(sys.version_info < (3, 9))"


def interpreter() -> Path | None:
    """The interpreter to put on a host's PATH, or None when the machine's own /usr/bin/python3 does."""
    return None if _fits(_SYSTEM_PYTHON) else Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")


def _fits(python: Path) -> bool:
    try:
        done = subprocess.run([python, "-I", "-S", "-c", _FITNESS], capture_output=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def directories_of(prefix: Path) -> tuple[Path, ...]:
    """`prefix` as named and as it really is, unless the host sees it below /usr anyway."""
    names = {prefix, prefix.resolve()}
    return tuple(sorted(name for name in names if not name.is_relative_to("/usr") and name != Path("/")))


def own_directories() -> tuple[Path, ...]:
    """Where this interpreter and the modules of our server lie; none of them within another."""
    wanted = [Path(sys.base_prefix), Path(sys.prefix), _packages()]
    found = sorted({directory for prefix in wanted for directory in directories_of(prefix)})
    if any(directory.is_relative_to("/nix") for directory in found):
        raise RefusedError(
            f"the lab's hosts start without a /nix, and this Python lies in it: {sys.base_prefix}",
            hint="install the reconciler with a Python outside of /nix, as uv or pyenv make it",
        )
    return tuple(path for path in found if not any(path != other and path.is_relative_to(other) for other in found))


def _packages() -> Path:
    spec = importlib.util.find_spec("paramiko")
    if spec is None or spec.origin is None:
        return Path(sys.prefix)
    return Path(spec.origin).parent.parent
