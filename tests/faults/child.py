"""One operation in a process of its own, stopped from outside at a system call of our choice.

The process is forked from this one, so that nothing is imported, and nothing but the operation is seen. It stops
itself, strace attaches, and counts from there: at the Nth call of a name the process is killed before the call happens,
or the call fails with an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from reconciler.core.errors import ReconcilerError

Operate = Callable[[str], None]

# Calls that change what is on a disk, make it durable, or lock. Between two of them nothing changes for whoever looks
# at the disk, so a process that dies at each of them has died everywhere.
WRITING = (
    *("write", "pwrite64", "writev", "pwritev", "pwritev2", "copy_file_range", "sendfile", "fallocate"),
    *("ftruncate", "truncate", "mkdir", "mkdirat", "symlink", "symlinkat", "link", "linkat", "rename", "renameat"),
    *("renameat2", "creat", "mknod", "mknodat", "fsync", "fdatasync", "syncfs", "sync", "sync_file_range", "msync"),
)
OTHER_CHANGES = (
    *("unlink", "unlinkat", "rmdir", "chmod", "fchmod", "fchmodat", "fchmodat2", "chown", "fchown", "lchown"),
    *("fchownat", "utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr", "removexattr"),
    *("lremovexattr", "fremovexattr", "flock"),
)
OPENING = ("open", "openat", "openat2")
TRACED = (*WRITING, *OTHER_CHANGES, *OPENING)

PATIENCE = 60.0
_CALL = re.compile(r"^(\d+)\s+(\w+)\((.*)$")


@dataclass(frozen=True)
class Call:
    """The `number`th call (from 1) of `name` in its process; `text` is how strace shows it."""

    name: str
    number: int
    text: str = field(compare=False)

    def __str__(self) -> str:
        return f"{self.name} #{self.number}: {self.text[:160]}"

    @property
    def writes(self) -> bool:
        """Whether it needs space or the disk: one that a full or broken disk can fail."""
        return self.name in WRITING or self.name in OPENING


@dataclass(frozen=True)
class Injection:
    """What happens at one call: `action` as strace has it (`signal=SIGKILL`, `error=ENOSPC`)."""

    call: Call
    action: str


@dataclass(frozen=True)
class Ended:
    """`acknowledged`: the operation returned and said so. `refusal`: the error that ended it, in words, as an agent
    answers with it; `crash`: any other. `hung`: it did not end in time and was killed by us."""

    acknowledged: bool
    refusal: str = ""
    crash: str = ""
    hung: bool = False
    calls: tuple[Call, ...] = ()


def run(operate: Operate, root: str) -> Ended:
    """The operation, undisturbed."""
    pid, reader = _fork(operate, root, stopped=False)
    return _answer(pid, reader, None)


def list_calls(operate: Operate, root: str) -> tuple[Call, ...]:
    """Every call of the operation that changes something below `root`, in order. It is carried out."""
    ended = _traced(operate, root, None)
    assert ended.acknowledged, f"the undisturbed operation failed: {ended.refusal}{ended.crash}"
    return ended.calls


def disturb(operate: Operate, root: str, injection: Injection) -> Ended:
    return _traced(operate, root, injection)


def _traced(operate: Operate, root: str, injection: Injection | None) -> Ended:
    trace = Path(f"{root}.trace")
    pid, reader = _fork(operate, root, stopped=True)
    names = ",".join(f"?{name}" for name in TRACED)
    command = ["strace", "-f", "-y", "-qq", "-s", "0", "-o", str(trace), "-p", str(pid), "-e", f"trace={names}"]
    if injection is not None:
        command += ["-e", f"inject={injection.call.name}:{injection.action}:when={injection.call.number}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as strace:
        _wait_for_tracer(pid, strace)
        os.kill(pid, signal.SIGCONT)
        ended = _answer(pid, reader, strace)
        _, said = strace.communicate(timeout=PATIENCE)
    text = trace.read_text(errors="replace")
    trace.unlink()
    assert "invalid" not in said.decode(), said.decode()
    return Ended(ended.acknowledged, ended.refusal, ended.crash, ended.hung, tuple(_calls(text, root)))


def _fork(operate: Operate, root: str, stopped: bool) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _child(operate, root, writer, stopped)
    os.close(writer)
    if stopped:
        os.waitpid(pid, os.WUNTRACED)
    return pid, reader


def _child(operate: Operate, root: str, writer: int, stopped: bool) -> NoReturn:
    answer = {}
    try:
        os.setsid()
        if stopped:
            os.kill(os.getpid(), signal.SIGSTOP)
        try:
            operate(root)
        except (ReconcilerError, OSError) as error:  # an agent answers with either
            answer["refusal"] = f"{type(error).__name__}: {error}"
        except BaseException:
            answer["crash"] = traceback.format_exc()
        os.write(writer, json.dumps(answer).encode())
    finally:
        os._exit(0)


def _wait_for_tracer(pid: int, strace: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if strace.poll() is not None or time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise RuntimeError(f"strace cannot attach: {strace.stderr.read().decode() if strace.stderr else ''}")
        time.sleep(0.0005)


def _answer(pid: int, reader: int, strace: subprocess.Popen[bytes] | None) -> Ended:
    data, hung = b"", False
    until = time.monotonic() + PATIENCE
    while not (gone := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > until:
            hung = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        time.sleep(0.0005)
    if strace is not None:
        strace.wait(PATIENCE)  # it ends with the last of the children that the operation left
    os.set_blocking(reader, False)
    with contextlib.suppress(BlockingIOError):
        data = os.read(reader, 1 << 20)
    os.close(reader)
    if not data or gone[1] != 0:
        died = os.waitstatus_to_exitcode(gone[1])
        return Ended(False, crash="" if died in (0, -signal.SIGKILL) else f"the process ended with {died}", hung=hung)
    answer = json.loads(data)
    return Ended(not answer, answer.get("refusal", ""), answer.get("crash", ""), hung)


def _calls(trace: str, root: str) -> list[Call]:
    counted: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, int], Call] = {}
    for line in trace.splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        process, name, rest = match.groups()
        number = counted[process, name] = counted.get((process, name), 0) + 1
        if (root in rest or "/proc/self/fd/" in rest) and (name not in OPENING or "O_CREAT" in rest):
            # strace counts in each process for itself and hits the first to get there, so a child's call is the same
            # point as its parent's of that number.
            found.setdefault((name, number), Call(name, number, f"{name}({rest}".replace(root, "")))
    return list(found.values())
