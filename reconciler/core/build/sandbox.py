"""A sandbox seen from outside: what it shows, and one build run in it.

The namespaces are entered by a process that a starter forks (starter.py, inside.py), so that it does not matter how
many threads we have.
"""

from __future__ import annotations

import contextlib
import errno
import marshal
import os
import select
import signal
import time
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from reconciler.core.build import limits
from reconciler.core.build.starter import Helper, Starter
from reconciler.core.build.toolchain import host_system
from reconciler.core.build.users import BuildUser
from reconciler.core.errors import BuildError
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.values import field, value

BUILD_DIR = "/build"
_TMP = "/tmp"  # noqa: S108  the sandbox's own, as is the next
_MEMORY = "/dev/shm"  # noqa: S108

# The distribution's programs and libraries, for derivations that name a host toolchain.
TOOLCHAIN_PATHS = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ld.so.cache",
)
# A pinned toolchain is one tree: these are links into it, where it has them.
IN_USR = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
# What a fixed output may need to find a server.
NETWORK_PATHS = ("/etc/resolv.conf", "/etc/services", "/etc/hosts")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

_ACCOUNTS = (
    "root:x:0:0:Nix build user:/build:/noshell\n"
    "nixbld:x:1000:100:Nix build user:/build:/noshell\n"
    "nobody:x:65534:65534:Nobody:/:/noshell\n"
)
_GROUP = "root:x:0:\nnixbld:!:100:\nnogroup:x:65534:\n"
_HOSTS = "127.0.0.1 localhost\n::1 localhost\n"
_NSSWITCH = "hosts: files dns\nservices: files\n"

_POLL_SECONDS = 0.5
_READ_SIZE = 65536


@value
class Sandbox:
    """One build and everything that it may see.

    `directory` is the build's own, private to us; its `root`, `store`, `build` and `tmp` exist. `inputs` are the
    store paths shown, by their physical path. `memory` in bytes, as limits.py counts them; 0: as much as there is.
    `toolchain`: the distribution's own is shown; or `usr`, the physical path of a pinned one, is shown as /usr.
    `devices`: names in /dev that are shown beside those that every build sees.
    """

    directory: str
    user: BuildUser
    builder: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    inputs: Mapping[StorePath, str]
    toolchain: bool = False
    network: bool = False
    processes: int = 8192
    memory: int = 0
    usr: str = ""
    devices: tuple[str, ...] = ()


@value
class Ended:
    """How a build ended. `reason`: empty for success, else what an error says after `the builder of X`; `hint`: what
    to do about it."""

    reason: str = ""
    hint: str = ""

    @property
    def succeeded(self) -> bool:
        return not self.reason


@value
class Watch:
    """What ends a build from outside, and who reads its log."""

    on_output: Callable[[bytes], None]
    timeout: float
    max_log: int
    cancelled: Callable[[], bool]


@value(frozen=False)
class _View:
    """The furniture of a private root, as inside.py takes it."""

    directories: list[str] = field(default_factory=list)
    files: list[tuple[str, bytes]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    binds: list[tuple[str, str, bool]] = field(default_factory=list)

    def show(self, source: str, path: str) -> None:
        """`source` under `path`, read-only; a link as the same link, and nothing when it does not exist."""
        if os.path.islink(source):
            self.links.append((path, os.readlink(source)))
        elif os.path.lexists(source):
            self.binds.append((source, path, False))


def specification(sandbox: Sandbox) -> dict[str, Any]:
    """What inside.py is told."""
    view = _View(["/nix", STORE_DIR, BUILD_DIR, _TMP, "/etc", "/dev", _MEMORY, "/dev/pts", "/proc"])
    view.files += [("/etc/passwd", _ACCOUNTS.encode()), ("/etc/group", _GROUP.encode())]
    for inner, name in ((STORE_DIR, "store"), (BUILD_DIR, "build"), (_TMP, "tmp")):
        view.binds.append((os.path.join(sandbox.directory, name), inner, True))
    for store_path, real in sandbox.inputs.items():
        view.show(real, str(store_path))
    if sandbox.network:
        view.files.append(("/etc/nsswitch.conf", _NSSWITCH.encode()))
        view.binds += [(path, path, False) for path in NETWORK_PATHS if os.path.exists(path)]
    else:
        view.files.append(("/etc/hosts", _HOSTS.encode()))
    if sandbox.toolchain:
        for path in TOOLCHAIN_PATHS:
            view.show(path, path)
    elif sandbox.usr:
        view.show(sandbox.usr, "/usr")
        present = (name for name in IN_USR if os.path.isdir(os.path.join(sandbox.usr, name)))
        view.links += [(f"/{name}", f"usr/{name}") for name in present]
    view.links += [("/dev/fd", "/proc/self/fd")]
    view.links += [(f"/dev/std{name}", f"/proc/self/fd/{fd}") for fd, name in enumerate(("in", "out", "err"))]
    return {
        "single": sandbox.user.single,
        "uid": sandbox.user.uid,
        "gid": sandbox.user.gid,
        "network": sandbox.network,
        "root": os.path.join(sandbox.directory, "root"),
        "directories": view.directories,
        "files": view.files,
        "links": view.links,
        "binds": view.binds,
        "memory": _MEMORY,
        "devices": [name for name in (*DEVICES, *sandbox.devices) if os.path.exists("/dev/" + name)],
        "builder": sandbox.builder,
        "arguments": list(sandbox.arguments),
        "environment": dict(sandbox.environment),
        "processes": sandbox.processes,
        "most_memory": sandbox.memory,
        "each_memory": sandbox.memory,
    }


def prepare(directory: str, user: BuildUser) -> None:
    """Make the parts of a build's directory. As root, `build` is its user's; /tmp and the store are open to it."""
    for name, mode in (("root", 0o755), ("store", 0o1775), ("build", 0o700), ("tmp", 0o1777)):
        path = os.path.join(directory, name)
        os.mkdir(path)
        if not user.single and name in ("store", "build"):
            os.chown(path, user.uid if name == "build" else -1, user.gid)
        os.chmod(path, mode)


def run(sandbox: Sandbox, watch: Watch, starter: Starter) -> Ended:
    """Run one build to its end, all its processes included. BuildError when the sandbox could not be set up."""
    log_read, log_write = os.pipe()
    group = limits.make_group(sandbox.memory, sandbox.processes) if sandbox.memory else None
    try:
        with _closing(log_read):
            with _closing(log_write):
                helper = starter.helper(log_write, sandbox.user.single)
            with helper:
                _tell(helper, sandbox, group)
                stopped = _follow(helper, log_read, watch)
                report = helper.report()
        hit = group.hit if group is not None else ""
    finally:
        if group is not None:
            group.end()
    ended = _ended(report, starter, stopped)
    if hit and not ended.succeeded and not ended.hint:
        return Ended(_counted(hit, sandbox), limits.raising(hit))
    return ended


def _counted(kind: str, sandbox: Sandbox) -> str:
    if kind == "memory":
        return f"used more than {sandbox.memory} bytes of memory and was killed"
    return f"wanted more than {sandbox.processes} processes at a time"


@contextlib.contextmanager
def _closing(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _tell(helper: Helper, sandbox: Sandbox, group: limits.ControlGroup | None) -> None:
    """Say what is to be built, once process 1 is where the build's processes are counted."""
    spec = specification(sandbox)
    if group is not None:
        with contextlib.suppress(OSError):  # a group that it may not enter: it is limited by itself
            group.enter(helper.pid)
            spec["each_memory"] = 0
    helper.tell(spec)


def _follow(helper: Helper, log: int, watch: Watch) -> Ended:
    """Read the log to its end; why the build was killed, or nothing."""
    deadline = time.monotonic() + watch.timeout
    poll = select.poll()
    poll.register(log, select.POLLIN)
    size = 0
    stopped = Ended()
    while True:
        ready = poll.poll(_POLL_SECONDS * 1000)
        if ready:
            data = os.read(log, _READ_SIZE)
            if not data:
                return stopped
            size += len(data)
            if stopped.succeeded:
                watch.on_output(data)
        if not stopped.succeeded:
            continue
        stopped = _reason_to_stop(size, deadline, watch)
        if not stopped.succeeded:
            helper.kill()


def _reason_to_stop(size: int, deadline: float, watch: Watch) -> Ended:
    if size > watch.max_log:
        return Ended(f"printed more than {watch.max_log} bytes and was killed", limits.raising("log"))
    if time.monotonic() > deadline:
        return Ended(f"took longer than {watch.timeout:g} s and was killed", limits.raising("time"))
    return Ended("was killed: the run was cancelled") if watch.cancelled() else Ended()


def _ended(report: bytes, starter: Starter, stopped: Ended) -> Ended:
    if not report:
        raise starter.lost("a build ended without a report")
    kind, value = marshal.loads(report)  # noqa: S302  written by our own starter, not by the build
    if kind == "error" and value.startswith("executing "):
        raise BuildError(value, hint=_executing_hint(value))
    if kind == "error":
        raise BuildError(f"the sandbox could not be set up: {value}", hint=_setup_hint(value))
    if not stopped.succeeded:
        return stopped
    if kind == "signal":
        with contextlib.suppress(ValueError):
            value = signal.Signals(value).name
        return Ended(f"was killed by {value}")
    return Ended(f"failed with exit status {value}" if value else "")


def _executing_hint(text: str) -> str:
    if os.strerror(errno.ENOEXEC) in text:
        return (
            f"this machine is {host_system()}: programs of another system need an emulator that the kernel knows "
            "(binfmt_misc) and keeps open (flag F)"
        )
    return "a builder lies in an input, or in the host toolchain where one is named"


def _setup_hint(text: str) -> str | None:
    if "Operation not permitted" in text or "No space left" in text:
        return (
            "builds need user namespaces: see /proc/sys/user/max_user_namespaces, kernel.unprivileged_userns_clone, "
            "and kernel.apparmor_restrict_unprivileged_userns"
        )
    return None
