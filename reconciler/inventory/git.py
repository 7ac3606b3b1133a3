"""Which revision of an inventory is in use."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class Revision:
    """A commit: its hash, the first line of its message, and whether the inventory's folder is as it says."""

    commit: str
    subject: str
    clean: bool

    @property
    def short(self) -> str:
        return self.commit[:7]

    def __str__(self) -> str:
        """The whole hash, `-dirty` behind it where the folder has changes."""
        return self.commit if self.clean else f"{self.commit}-dirty"


def revision_of(directory: str) -> Revision | None:
    """The revision of a folder; None without git, outside a repository, before its first commit, and for a folder of
    which the repository has no file: what some commit says of others is no revision of it."""
    head = _git(directory, "log", "-1", "--format=%H%n%s", "--no-show-signature")
    changes = _git(directory, "status", "--porcelain", "--untracked-files=normal", "--", ".")
    if head is None or changes is None or not _git(directory, "ls-files", "--", "."):
        return None
    commit, _, subject = head.partition("\n")
    return Revision(commit, subject.strip(), not changes.strip())


def _git(directory: str, *arguments: str) -> str | None:
    # Reading only: no lock beside a git that somebody else runs, and no program that the repository names.
    command = ["git", "-c", "core.fsmonitor=false", "-C", directory, *arguments]
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, env=environment, stdin=subprocess.DEVNULL, timeout=_TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None
