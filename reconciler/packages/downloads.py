"""Files that are fetched by programs of the controller: where they are kept, how they are checked, how such a program
is run."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.build.outputs import wrong_hash
from reconciler.core.errors import StoreError
from reconciler.core.nix.hashes import Hash


def cache_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where copies are kept of what can be had again: $XDG_CACHE_HOME/reconciler, else ~/.cache/reconciler."""
    given = environment.get("XDG_CACHE_HOME", "")
    base = Path(given) if os.path.isabs(given) else Path(environment.get("HOME") or Path.home()) / ".cache"
    return base / "reconciler"


def sha256_of(file: Path) -> Hash:
    """The hash of a file's content."""
    with file.open("rb") as stream:
        return Hash("sha256", hashlib.file_digest(stream, "sha256").digest())


def is_kept(file: Path, wanted: Hash) -> bool:
    """Whether `file` is there with the content that is wanted."""
    return file.is_file() and sha256_of(file) == wanted


def keep(fetched: Path, place: Path, wanted: Hash, what: str) -> None:
    """Move a file that was fetched on the same file system to the place where it is kept; BuildError, with both hashes,
    when it is not `what` is wanted."""
    found = sha256_of(fetched)
    if found != wanted:
        raise wrong_hash(what, wanted, found)
    fetched.chmod(0o644)
    fetched.replace(place)


@dataclass(frozen=True)
class Ended:
    """How a program ended: its status, what it printed, and what it said on stderr."""

    status: int
    out: bytes
    said: str

    def last_lines(self, count: int) -> str:
        """The end of what it said, each line indented; empty when it said nothing."""
        return "\n".join(f"  {line}" for line in self.said.strip().splitlines()[-count:])


def run(
    command: Sequence[str], seconds: float, environment: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Ended:
    """Run a program that asks nothing and speaks English. `environment`: all of it, else the caller's. StoreError when
    it is not installed, or takes longer than `seconds`."""
    try:
        done = subprocess.run(
            list(command),
            env={**(os.environ if environment is None else environment), "LC_ALL": "C"},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError:
        raise StoreError(f"`{command[0]}` is not installed", hint=f"install {command[0]}") from None
    except subprocess.TimeoutExpired:
        raise StoreError(f"`{' '.join(command)}` took longer than {seconds:g} s") from None
    return Ended(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
