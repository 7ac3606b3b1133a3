"""Start a host: one process in namespaces of its own, with the host's root as its root.

    caller -- outer -- process 1 -- server
                           reaps what is orphaned; ends with the server, and with it ends every process of the host

What separates a host from the machine depends on what the kernel allows:

- OWN_USER   an ordinary user: a user namespace in which only one id exists, 0, and it is the user's.
- RANGE      the machine's root: 65,536 ids above those in use, so that the host's root owns nothing of the machine.
- PLAIN      no user namespace: the real sshd hosts of the tests, and root where user namespaces are switched off.
- PODMAN     OWN_USER where only podman may make user namespaces: PLAIN inside of `podman unshare`.
"""

from __future__ import annotations

import contextlib
import enum
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import RefusedError
from reconciler.lab import linux
from reconciler.lab.root import Root, enter

RANGE_START = 28_992 * 65_536
RANGE_SIZE = 65_536

_OTHERS = linux.CLONE_NEWNS | linux.CLONE_NEWPID | linux.CLONE_NEWUTS | linux.CLONE_NEWIPC

# By number, <linux/capability.h>: all that reaches the machine itself. Kept are those over files, processes and
# mounts, which a package manager and its build sandbox need.
_MACHINE_CAPABILITIES = (9, 11, 12, 13, 14, 16, 17, 20, 22, 24, 25, 26, 27, 29, 30, 32, 33, 34, 35, 36, 37, 38, 39)


class Isolation(enum.Enum):
    """What separates a host from the machine."""

    OWN_USER = "own-user"
    RANGE = "range"
    PLAIN = "plain"
    PODMAN = "podman"

    @property
    def has_one_id(self) -> bool:
        """Only id 0 exists inside: users are names of it."""
        return self in {Isolation.OWN_USER, Isolation.PODMAN}

    @property
    def shift(self) -> int:
        """The machine's id that is the host's 0."""
        return RANGE_START if self is Isolation.RANGE else 0


def choose_isolation() -> Isolation:
    """The best that this machine allows to this user; RefusedError with what to type when it allows none."""
    ordinary = os.geteuid() != 0
    machine_root = not ordinary and _maps_all_ids()
    if _works(linux.CLONE_NEWUSER):
        return Isolation.RANGE if machine_root else Isolation.OWN_USER
    if not ordinary and _works(0):
        return Isolation.PLAIN
    if ordinary and _podman_works():
        return Isolation.PODMAN
    raise RefusedError(
        "this kernel does not let " + ("you" if ordinary else "root in this container") + " make namespaces",
        hint=_how_to_allow(ordinary),
    )


def _maps_all_ids() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _works(user_flag: int) -> bool:
    """Whether a child can make the namespaces and mount in them; some kernels refuse only the second."""
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            uid, gid = os.geteuid(), os.getegid()
            linux.unshare(_OTHERS | user_flag)
            if user_flag:
                _map_own_ids(uid, gid)
            linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
            linux.mount("probe", "/tmp", "tmpfs")  # noqa: S108 - in a mount namespace that ends with this child
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def _podman_works() -> bool:
    if shutil.which("podman") is None:
        return False
    done = subprocess.run(["podman", "unshare", "true"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return done.returncode == 0


def _how_to_allow(ordinary: bool) -> str:
    if not ordinary:
        return "start the container with --privileged, or run the lab on the machine itself"
    switches = {
        "kernel/apparmor_restrict_unprivileged_userns": "0",
        "kernel/unprivileged_userns_clone": "1",
        "user/max_user_namespaces": "15000",
    }
    present = [f"{name.replace('/', '.')}={value}" for name, value in switches.items() if _differs(name, value)]
    command = " ".join(present) or "user.max_user_namespaces=15000"
    return (
        f"sudo sysctl -w {command}     until the next boot\n"
        "apt-get install podman uidmap     or let podman make them\n"
        "sudo reconciler lab up     or be root for the lab alone"
    )


def _differs(name: str, value: str) -> bool:
    try:
        now = Path("/proc/sys", name).read_text().strip()
    except OSError:
        return False
    return now == "0" if name.startswith("user/") else now != value


def _map_own_ids(uid: int, gid: int) -> None:
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


@dataclass
class Started:
    """A host that is on its way: `pid` is its process 1 as the caller sees it; `wait` tells how it went."""

    pid: int
    outer: int
    _report: int

    def wait(self) -> tuple[str, ...]:
        """Wait until the host runs its server; the notes of `enter`. RefusedError when it could not."""
        with os.fdopen(self._report, "rb") as file:
            line = file.readline()
        if not line:
            raise RefusedError("the host ended before it was ready")
        message = json.loads(line)
        if "error" in message:
            raise RefusedError(f"the host could not be set up: {message['error']}")
        return tuple(message["notes"])


def start(root: Root, isolation: Isolation, serve: Callable[[], int], log: Path, attached: bool) -> Started:
    """Fork a host and run `serve` in it, which never returns to the caller's code; its output goes to `log`.

    attached: the host dies with the caller and `outer` is its child; else the host outlives the caller.
    The caller has one thread.
    """
    report_read, report_write = os.pipe()
    pid_read, pid_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    outer = os.fork()
    if outer == 0:
        for descriptor in (report_read, pid_read, mapped_write):
            os.close(descriptor)
        _run_outer(_Fork(root, isolation, serve, log, attached, report_write, pid_write, mapped_read))
    for descriptor in (report_write, pid_write, mapped_read):
        os.close(descriptor)
    with os.fdopen(pid_read, "rb") as file:
        pid = int(file.readline() or b"0")
        if pid and isolation is Isolation.RANGE and file.readline():
            _map_range(pid)
    os.close(mapped_write)
    if not attached:
        os.waitpid(outer, 0)
    return Started(pid, outer, report_read)


@dataclass(frozen=True)
class _Fork:
    """What the processes of a host share."""

    root: Root
    isolation: Isolation
    serve: Callable[[], int]
    log: Path
    attached: bool
    report: int  # one line of JSON to the caller
    pids: int  # the number of process 1, then a line when it wants its ids mapped
    mapped: int  # at end of file the ids are mapped

    def fail(self, error: BaseException) -> None:
        with contextlib.suppress(OSError):
            os.write(self.report, json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")


def _run_outer(fork: _Fork) -> None:
    """Make the namespaces and fork their process 1; ends the process."""
    try:
        if fork.attached:
            linux.die_with_parent(signal.SIGKILL)
        os.setsid()
        _redirect(fork.log)
        uid, gid = os.geteuid(), os.getegid()
        own_user = fork.isolation is Isolation.OWN_USER
        linux.unshare(_OTHERS | (linux.CLONE_NEWUSER if own_user else 0))
        if own_user:
            _map_own_ids(uid, gid)
        child = os.fork()
        if child == 0:
            _run_first(fork)
        os.write(fork.pids, f"{child}\n".encode())
        for descriptor in (fork.pids, fork.report, fork.mapped):
            os.close(descriptor)
        if fork.attached:
            os.waitpid(child, 0)
    except BaseException as error:  # a forked copy of the caller must never run the caller's code
        fork.fail(error)
        os._exit(1)
    os._exit(0)


def _redirect(log: Path) -> None:
    """Hold none of the caller's streams: somebody may be waiting for their end."""
    null = os.open("/dev/null", os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for target, source in ((0, null), (1, output), (2, output)):
        os.dup2(source, target)
    for descriptor in {null, output} - {0, 1, 2}:
        os.close(descriptor)


def _run_first(fork: _Fork) -> None:
    """Process 1 of the host; ends the process, and with it the host."""
    status = 1
    try:
        if fork.attached:
            linux.die_with_parent(signal.SIGKILL)
        # A signal without a handler cannot end process 1 from inside; Python's own handler would let it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        socket.sethostname(fork.root.name)
        notes = enter(fork.root)
        if fork.isolation is Isolation.RANGE:
            _enter_range(fork)
        elif fork.isolation is Isolation.OWN_USER:
            # Once more: the mounts of another user namespace, ours of a moment ago, cannot be made writable again.
            linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
            _map_own_ids(0, 0)
        elif fork.isolation is Isolation.PLAIN and not fork.attached:
            _keep_off_the_machine()
            notes = (*notes, "no user namespaces here: root of a lab host is root of this machine, in namespaces only")
        elif fork.isolation is Isolation.PODMAN:
            notes = (*notes, "podman made the namespaces and keeps a process of its own: podman system migrate ends it")
        os.close(fork.mapped)
        os.close(fork.pids)
        os.write(fork.report, json.dumps({"notes": notes}).encode() + b"\n")
        os.close(fork.report)
        server = os.fork()
        if server == 0:
            _run_server(fork.serve)
        status = _reap(server)
    except BaseException as error:  # as above
        fork.fail(error)
    os._exit(status)


def _run_server(serve: Callable[[], int]) -> None:
    status = 1
    try:
        status = serve()
    except BaseException:  # as above
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _reap(server: int) -> int:
    """Collect every orphan of the host until its server ends."""
    while True:
        pid, status = os.wait()
        if pid == server:
            return os.waitstatus_to_exitcode(status) & 0xFF


def _enter_range(fork: _Fork) -> None:
    """Exchange the machine's root for an id that owns nothing of it. All mounts are made, and locked by this."""
    linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWNS)
    os.write(fork.pids, b"map\n")
    os.read(fork.mapped, 1)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    linux.set_dumpable()


def _map_range(pid: int) -> None:
    for name in ("uid_map", "gid_map"):
        Path(f"/proc/{pid}/{name}").write_text(f"0 {RANGE_START} {RANGE_SIZE}")


def _keep_off_the_machine() -> None:
    """For a root that is the machine's: against accidents, not against intent."""
    linux.bind("/proc/sys", "/proc/sys", read_only=True)
    if os.path.exists("/proc/sysrq-trigger"):
        linux.mount("/dev/null", "/proc/sysrq-trigger", None, linux.MS_BIND)
    for number in _MACHINE_CAPABILITIES:
        with contextlib.suppress(OSError):
            linux.drop_bounding_capability(number)
