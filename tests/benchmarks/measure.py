"""Run whole commands, by turns, and compare them."""

from __future__ import annotations

import contextlib
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_PEAK = re.compile(r"^peak (\d+)\n\Z", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """One run of a command: wall seconds, processor seconds of it and its children, the largest process in MiB, and
    what it wrote to stderr.

    `peak` is what the process said at its end, `peak <KiB>`. Of one that does not say, it is what the kernel counted,
    which is never below what this process itself has held: it counts from the fork on.
    """

    wall: float
    cpu: float
    peak: float
    said: str = field(default="", repr=False)


def run(argv: Sequence[str], environment: Mapping[str, str], stdin: Path | None = None) -> Run:
    """Run a command to its end; what it prints goes nowhere, unless it fails."""
    with contextlib.ExitStack() as stack:
        given = stack.enter_context(stdin.open("rb")) if stdin else subprocess.DEVNULL
        started = time.perf_counter()
        process = subprocess.Popen(
            argv, env=dict(environment), stdin=given, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        assert process.stderr is not None
        errors = process.stderr.read().decode(errors="replace")
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{' '.join(argv)[:2000]}: exit status {process.returncode}\n{errors}")
    said = _PEAK.search(errors)
    return Run(wall, usage.ru_utime + usage.ru_stime, int(said[1] if said else usage.ru_maxrss) / 1024, errors)


@dataclass(frozen=True)
class Comparison:
    """Ours and what a user would use instead, in seconds: medians and the least of each, and the median of the ratios
    pair by pair."""

    ours: float
    theirs: float
    ratio: float
    peak: float
    our_least: float
    their_least: float

    def row(self, name: str, unit: str = "s") -> str:
        return (
            f"| {name} | {self.ours:.2f} {unit} | {self.theirs:.2f} {unit} | {self.ratio:.2f} | {self.peak:.0f} MiB |"
        )


def compare(ours: Callable[[], Run], theirs: Callable[[], Run], rounds: int) -> Comparison:
    """Both in turn, `rounds` times, after one round that does not count."""
    pairs = [(ours(), theirs()) for _ in range(rounds + 1)][1:]
    return Comparison(
        statistics.median(mine.wall for mine, _ in pairs),
        statistics.median(other.wall for _, other in pairs),
        statistics.median(mine.wall / other.wall for mine, other in pairs),
        max(mine.peak for mine, _ in pairs),
        min(mine.wall for mine, _ in pairs),
        min(other.wall for _, other in pairs),
    )


def real_files(minimum: int) -> list[Path]:
    """Files of this machine's programs and libraries, `minimum` bytes of them at least, always the same ones."""
    found, size = [], 0
    for directory, folders, names in os.walk("/usr/lib"):
        folders.sort()
        for name in sorted(names):
            file = Path(directory, name)
            if file.is_file() and not file.is_symlink() and os.access(file, os.R_OK):
                found.append(file)
                size += file.stat().st_size
                if size >= minimum:
                    return found
    sys.exit(f"/usr/lib has no {minimum} bytes of files")
