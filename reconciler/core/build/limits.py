"""How much memory, and how many processes, one build may have: a control group where one can be made.

A control group (version 2, `memory` and `pids`) counts all processes of a build together. It is made below the nearest
of our own control groups that hands those controllers on and lets us: as root on most hosts with systemd; as an
ordinary user only where the administrator delegated one. A machine whose controllers are in version 1 has none.

Elsewhere the limit is RLIMIT_DATA, and weaker: each process by itself may have so much private memory, so that several
together may have more, and memory that they share is not counted. Processes are then limited by RLIMIT_NPROC, which
the kernel does not apply to the machine's root, for whom our one uid stands where no other is mapped.

In both cases what a build writes to /dev/shm may not be more than the limit. Files in the build directory are limited
by the disk alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable, Iterator

_MOUNTS = "/proc/self/mountinfo"
_OWN = "/proc/self/cgroup"
_CONTROLLERS = frozenset({"memory", "pids"})
_REMOVAL_SECONDS = 2.0

_LOOKS_LIKE = {
    "memory": re.compile(r"cannot allocate memory|out of memory|memory exhausted|MemoryError|bad_alloc", re.IGNORECASE),
    "processes": re.compile(r"cannot fork|can't fork|fork: .*unavailable|unable to fork", re.IGNORECASE),
}
_EXAMPLES = {"memory": "16G", "processes": "20000", "time": "12h", "log": "1G"}


def default_memory() -> int:
    """Three quarters of the machine's memory, in bytes."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4 * 3


def raising(kind: str) -> str:
    """How to allow more of `kind`: memory, processes, time or log."""
    return f"more is allowed in reconciler.yml, by  builds: {{{kind}: {_EXAMPLES[kind]}}}"


def suspicion(lines: Iterable[str], memory: int, processes: int) -> str | None:
    """What to say of a build that failed, when its last lines read as if it had hit a limit that nobody counts."""
    text = "\n".join(lines)
    said = {"memory": f"{memory} bytes a process", "processes": f"{processes} processes"}
    for kind, pattern in _LOOKS_LIKE.items():
        if pattern.search(text):
            return f"it may have hit the limit of {said[kind]}: {raising(kind)}"
    return None


class ControlGroup:
    """A control group of one build. Its processes are gone, or are killed, when it ends."""

    def __init__(self, path: str) -> None:
        self.path = path

    def enter(self, process: int) -> None:
        """Put a process that has no children yet into it."""
        _write(self.path, "cgroup.procs", str(process))

    @property
    def hit(self) -> str:
        """`memory`, when the kernel killed for it; `processes`, when it refused one; else empty."""
        if _count(self.path, "memory.events", "oom_kill"):
            return "memory"
        return "processes" if _count(self.path, "pids.events", "max") else ""

    def end(self) -> None:
        """Kill whatever is left in it, and remove it."""
        with contextlib.suppress(OSError):
            _write(self.path, "cgroup.kill", "1")
        deadline = time.monotonic() + _REMOVAL_SECONDS
        while time.monotonic() < deadline:
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError:
                time.sleep(0.02)  # the last of its processes is not quite gone
            else:
                return


def make_group(memory: int, processes: int) -> ControlGroup | None:
    """A new control group with these limits, in bytes and processes; None where we can make none."""
    for parent in _parents():
        group = ControlGroup(os.path.join(parent, f"reconciler-build-{os.getpid()}-{os.urandom(4).hex()}"))
        try:
            os.mkdir(group.path)
        except OSError:
            continue
        try:
            _write(group.path, "memory.max", str(memory))
            _write(group.path, "pids.max", str(processes))
            if os.path.exists(os.path.join(group.path, "memory.swap.max")):
                _write(group.path, "memory.swap.max", "0")
        except OSError:
            group.end()
            continue
        return group
    return None


def _parents() -> Iterator[str]:
    """The control groups that we are in, the nearest first, as far as they hand on both controllers."""
    found = _hierarchy()
    if found is None:
        return
    top, own = found
    while True:
        try:
            with open(os.path.join(own, "cgroup.subtree_control"), encoding="ascii") as file:
                handed_on = set(file.read().split())
        except OSError:
            handed_on = set()
        if handed_on >= _CONTROLLERS:
            yield own
        if own == top:
            return
        own = os.path.dirname(own)


def _hierarchy() -> tuple[str, str] | None:
    """Where version 2 is mounted, and our own group in it; None where it is not, or does not show us."""
    try:
        with open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as table:
            mounts = [line.split() for line in table if " - cgroup2 " in line]
        with open(_OWN, encoding="utf-8", errors="surrogateescape") as groups:
            own = next((line.rstrip("\n")[len("0::") :] for line in groups if line.startswith("0::")), "")
    except OSError:
        return None
    for fields in mounts:
        root, top = fields[3], fields[4]
        below = os.path.relpath(own or "/", root)
        if own.startswith("/") and ".." not in own.split("/") and not below.startswith(".."):
            return top, os.path.normpath(os.path.join(top, below))
    return None


def _write(group: str, name: str, text: str) -> None:
    with open(os.path.join(group, name), "w", encoding="ascii") as file:
        file.write(text)


def _count(group: str, name: str, word: str) -> int:
    try:
        with open(os.path.join(group, name), encoding="ascii") as file:
            counts = dict(line.split() for line in file)
    except (OSError, ValueError):
        return 0
    return int(counts.get(word, "0"))
