"""The inner side of a sandbox: a starter for a run, and a process 1 for each build, which becomes the builder.

This module is run by itself, by `python3 -I -S`, in a process that has one thread (see core/afresh.py), so it imports
the standard library alone and nothing of ours. That process is the *starter*. For each build it takes one byte from a
socket and two descriptors, the log and a channel, and forks process 1, which costs a tenth of what an interpreter's
start does. The byte says whose user namespace the build is to be in:

    u            we are root; everything is mounted as root, and the user namespace is entered last, on `uid`
    s            only one uid can be mapped, our own; process 1 is in the user namespace from its first breath

The starter says the number of process 1 on the channel (4 bytes), and process 1 reads one plain dict there (8 bytes of
length, marshalled):

    single       whether the byte was s
    uid, gid     the outer ids that the build runs as; 1000 and 100 inside
    network      whether the network of the host is left to the build
    root         an empty directory, the mount point of the private root (a tmpfs, read-only once it is furnished)
    directories  paths to make in it              files    (path, contents) to make
    links        (path, target) to make           binds    (source, path, writable): read-only unless writable
    devices      names below /dev to show         memory   where a tmpfs of the build's own goes
    builder, arguments, environment               processes  the limit on processes
    each_memory, most_memory  bytes of private memory that one process may have (0: not limited here), and bytes that
                 the tmpfs at `memory` may take (0: what the kernel thinks right)

The channel is the leash, too: when its other end is shut, the build is killed. One marshalled tuple goes back on it,
then its end: ("exit", status), ("signal", number), or ("error", text): the build could not be started.

Order of u:  unshare, mount, pivot, unshare user, wait for the starter to write the maps, become the build's user, drop
             everything, exec.
Order of s:  wait for the starter to write the maps, unshare the rest, mount, pivot, drop everything, exec.
Process 1 of a pid namespace takes every process in it along when it ends: nothing outlives a build. It dies with the
starter, whose other builds it knows nothing of: what it has of their descriptors closes when it becomes the builder.
"""

from __future__ import annotations

import _socket
import ctypes
import fcntl
import marshal
import os
import resource
import select
import struct

# The first build waits for what is imported here: what is slow (typing, signal, socket, subprocess) is left out.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable

CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MNT_DETACH = 2
KEPT_FLAGS = MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC  # the same numbers in statvfs and in mount

PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4
ADDR_NO_RANDOMIZE = 0x0040000
CAPABILITY_VERSION_3 = 0x20080522

SYS_CLONE3 = 435  # the same on every architecture
CLONE_PIDFD = 0x00001000
SIGINT, SIGKILL, SIGPIPE, SIGCHLD, SIGXFSZ = 2, 9, 13, 17, 25
SIG_DFL = None
SIG_SETMASK = 2
AF_INET, SOCK_DGRAM = 2, 2
SIOCSIFFLAGS = 0x8914
IFF_UP_LOOPBACK_RUNNING = 0x1 | 0x8 | 0x40
POLLRDHUP = 0x2000  # select names it on few Pythons: the other end will write no more
SHUT_WR = 1

INNER_UID = 1000
INNER_GID = 100
MAPPED = b"m"

libc = ctypes.CDLL(None, use_errno=True)
# It holds on to the interpreter's lock, so that both processes come back from a fork with it.
locked_libc = ctypes.PyDLL(None, use_errno=True)


def call(what: str, function: str, *arguments: object) -> None:
    """Call a function of libc that answers -1 on failure; OSError saying `what` could not be done."""
    converted = [ctypes.c_ulong(a) if isinstance(a, int) else a for a in arguments]
    if getattr(libc, function)(*converted) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    names = [os.fsencode(text) if text else None for text in (source, target, kind)]
    call(f"mounting {kind or source} at {target}", "mount", *names, flags, data.encode() or None)


def unshare(flags: int) -> None:
    if libc.unshare(ctypes.c_int(flags)) == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"entering namespaces of its own: {os.strerror(number)}")


# --- the starter's side of one build ----------------------------------------------------------------------------------


class Build:
    """One build, from its process 1's first breath to the report."""

    def __init__(self, single: bool, log: int, channel: int) -> None:
        self._single = single
        self.channel = channel
        self.asks, its_asks = os.pipe()
        its_mapped, self._mapped = os.pipe()
        self._failed, its_failed = os.pipe()
        problem = None
        try:
            self._pid, self.ended = fork(CLONE_NEWUSER | CLONE_NEWPID if single else CLONE_NEWPID)
        except OSError as error:
            problem = error  # whoever comes to life will tell it, in the way in which all else is told
            self._pid, self.ended = fork(0)
        if self._pid == 0:
            for fd in (self.asks, self._mapped, self._failed):
                os.close(fd)
            become_builder(log, channel, (its_failed, its_asks, its_mapped), problem)
        for fd in (its_asks, its_mapped, its_failed, log):
            os.close(fd)
        tell(channel, self._pid.to_bytes(4, "little"))

    def map_user(self) -> None:
        """Map the build's user, and nobody else, in its user namespace, unless process 1 never got there."""
        wanted = os.read(self.asks, 8)
        if len(wanted) == 8:
            try:
                write_maps(self._pid, self._single, *struct.unpack("II", wanted))
            except OSError as error:
                tell(self._mapped, f"mapping the build's user: {error.strerror}".encode())
            else:
                tell(self._mapped, MAPPED)
        os.close(self.asks)
        os.close(self._mapped)
        self.asks = -1  # another build's may have the number next

    def kill(self) -> None:
        os.kill(self._pid, SIGKILL)

    def report(self) -> None:
        """Say how it ended, which it has."""
        status = os.waitpid(self._pid, 0)[1]
        failure = os.read(self._failed, 65536)
        if failure:
            said: tuple[str, Any] = ("error", failure.decode(errors="replace"))
        elif os.WIFSIGNALED(status):
            said = ("signal", os.WTERMSIG(status))
        else:
            said = ("exit", os.WEXITSTATUS(status))
        tell(self.channel, marshal.dumps(said))
        # A process 1 that is not a builder yet has the channel too: to close it here would be no end of it.
        libc.shutdown(self.channel, SHUT_WR)
        for fd in (self.channel, self._failed, self.ended):
            os.close(fd)


def fork(flags: int) -> tuple[int, int]:
    """A child in namespaces of its own: its number, and a descriptor that is readable when it has ended; 0 in it."""
    ended = ctypes.c_int(-1)
    arguments = struct.pack("8Q", flags | CLONE_PIDFD, ctypes.addressof(ended), 0, 0, SIGCHLD, 0, 0, 0)
    pid = locked_libc.syscall(ctypes.c_long(SYS_CLONE3), arguments, ctypes.c_size_t(len(arguments)))
    if pid == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"entering namespaces of its own: {os.strerror(number)}")
    return pid, ended.value


def tell(channel: int, data: bytes) -> None:
    """Say something to whoever waits for it, if that is still there."""
    try:  # noqa: SIM105  contextlib would have to be imported
        os.write(channel, data)
    except OSError:
        pass  # that it is gone is seen elsewhere


def write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def write_maps(process: int, single: bool, uid: int, gid: int) -> None:
    if single:
        write(f"/proc/{process}/setgroups", "deny")
    write(f"/proc/{process}/uid_map", f"{INNER_UID} {uid} 1")
    write(f"/proc/{process}/gid_map", f"{INNER_GID} {gid} 1")


def read_exactly(fd: int, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = os.read(fd, size - len(data))
        if not part:
            raise EOFError
        data += part
    return bytes(data)


# --- process 1 --------------------------------------------------------------------------------------------------------


def become_builder(log: int, channel: int, pipes: tuple[int, int, int], problem: OSError | None) -> None:
    """Everything between fork and exec. Never returns; a failure goes into the first pipe as text, also the `problem`
    that the fork had."""
    failed, asks, mapped = pipes
    what = ""
    try:
        call("dying with the starter", "prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
        spec = hear(channel, problem)
        reset_signals()
        os.setsid()
        os.umask(0o022)
        null = os.open("/dev/null", os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        os.close(null)
        if spec["single"]:
            be_mapped(spec, asks, mapped)
        enter(spec)
        if not spec["single"]:
            become_user(spec, asks, mapped)
        give_up_privileges(spec)
        name = os.path.basename(spec["builder"])
        what = f"executing {spec['builder']}: "
        os.execve(spec["builder"], [name, *spec["arguments"]], spec["environment"])  # noqa: S606  no shell is meant
    except EOFError:
        pass  # whoever wanted the build is gone
    except OSError as error:
        # An error of `call` says already what could not be done; any other names its file.
        named = f"{error.filename}: " if error.filename and not what else ""
        os.write(failed, f"{what}{named}{error.strerror or error}".encode(errors="surrogateescape"))
    except BaseException as error:
        os.write(failed, f"{type(error).__name__}: {error}".encode(errors="replace"))
    finally:
        os._exit(127)


def hear(channel: int, problem: OSError | None) -> dict[str, Any]:
    """What is to be built. A problem waits until then: nobody expects to be told of the end of what has not begun."""
    size = int.from_bytes(read_exactly(channel, 8), "little")
    spec: dict[str, Any] = marshal.loads(read_exactly(channel, size))  # noqa: S302  our own end wrote it
    if problem is not None:
        raise problem
    return spec


def reset_signals() -> None:
    """What Python, or whoever started us, ignores or blocks is not handed on."""
    for number in (SIGCHLD, SIGPIPE, SIGXFSZ, SIGINT):
        libc.signal(ctypes.c_int(number), SIG_DFL)
    call("unblocking signals", "sigprocmask", ctypes.c_int(SIG_SETMASK), bytes(128), None)


def enter(spec: dict[str, Any]) -> None:
    flags = CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWUTS
    unshare(flags if spec["network"] else flags | CLONE_NEWNET)
    mount("", "/", "", MS_REC | MS_PRIVATE)
    furnish(spec)
    if not spec["network"]:
        raise_loopback()
    name = b"localhost"
    call("naming the host", "sethostname", name, len(name))
    domain = b"(none)"
    call("naming the domain", "setdomainname", domain, len(domain))
    os.chdir(spec["root"])
    call("changing the root", "pivot_root", b".", b".")
    call("leaving the old root", "umount2", b".", MNT_DETACH)
    os.chdir("/build")


def furnish(spec: dict[str, Any]) -> None:
    """Mount and fill the private root."""
    root = spec["root"]
    mount("none", root, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0755,size=16m")
    for path in spec["directories"]:
        os.mkdir(root + path, 0o755)
    for path, contents in spec["files"]:
        make_file(root + path, contents)
    writable = {root}
    for source, path, may_write in spec["binds"]:
        bind(source, root + path)
        if may_write:
            writable.add(root + path)
    for path, target in spec["links"]:  # after the binds: some of them lie in what was bound
        os.symlink(target, root + path)
    furnish_dev(spec, root + "/dev")
    make_read_only(root, writable)
    mount("none", root + "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    if spec["single"]:
        protect_kernel(root + "/proc")
    mount("none", root + spec["memory"], "tmpfs", MS_NOSUID | MS_NODEV, memory_options(spec))
    mount("none", root, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def memory_options(spec: dict[str, Any]) -> str:
    return f"mode=1777,size={spec['most_memory']}" if spec["most_memory"] else "mode=1777"


def protect_kernel(proc: str) -> None:
    """Our one uid may be the machine's root in disguise, whom the kernel lets write its settings without any right."""
    for name in ("sys", "sysrq-trigger", "irq", "bus", "fs"):
        path = f"{proc}/{name}"
        if os.path.exists(path):
            mount(path, path, "", MS_BIND | MS_REC)
            mount("none", path, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC)


def make_file(path: str, contents: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, contents)
    finally:
        os.close(fd)


def bind(source: str, target: str) -> None:
    if os.path.isdir(source):
        if not os.path.isdir(target):
            os.mkdir(target, 0o755)
    elif not os.path.exists(target):
        make_file(target, b"")
    mount(source, target, "", MS_BIND | MS_REC)


def furnish_dev(spec: dict[str, Any], dev: str) -> None:
    for name in spec["devices"]:
        bind("/dev/" + name, f"{dev}/{name}")
    try:
        mount("none", dev + "/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
        os.symlink("/dev/pts/ptmx", dev + "/ptmx")
    except OSError:
        pass  # a kernel that gives no terminals here: a build that needs one will say so


def make_read_only(root: str, writable: set[str]) -> None:
    """Every bind below `root`, and whatever is mounted below it, but not what is writable and not the devices.

    A namespace that is not root's may add flags to a mount, never take one away: those that are there are kept.
    """
    with open("/proc/self/mountinfo", "rb") as table:
        points = [os.fsdecode(unescape(line.split(b" ", 5)[4])) for line in table]
    for point in points:
        if not point.startswith(root + "/") or point in writable or point.startswith(root + "/dev/"):
            continue
        flags = os.statvfs(point).f_flag & KEPT_FLAGS
        mount("none", point, "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV | flags)


def unescape(field: bytes) -> bytes:
    """A field of mountinfo: blanks, tabs, newlines and backslashes stand there as three octal digits."""
    head, *rest = field.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def raise_loopback() -> None:
    control = libc.socket(AF_INET, SOCK_DGRAM, 0)
    if control == -1:
        raise OSError(ctypes.get_errno(), f"raising the loopback: {os.strerror(ctypes.get_errno())}")
    try:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", IFF_UP_LOOPBACK_RUNNING))
    finally:
        os.close(control)


def be_mapped(spec: dict[str, Any], asks: int, mapped: int) -> None:
    """Have the starter map our user in our user namespace."""
    os.write(asks, struct.pack("II", spec["uid"], spec["gid"]))
    answer = os.read(mapped, 4096)
    if answer != MAPPED:
        raise OSError(0, answer.decode() or "the starter ended before the build began")


def become_user(spec: dict[str, Any], asks: int, mapped: int) -> None:
    os.setgroups([])
    unshare(CLONE_NEWUSER)
    be_mapped(spec, asks, mapped)
    os.setresgid(INNER_GID, INNER_GID, INNER_GID)
    os.setresuid(INNER_UID, INNER_UID, INNER_UID)


def give_up_privileges(spec: dict[str, Any]) -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    most = spec["processes"] if hard == resource.RLIM_INFINITY else min(spec["processes"], hard)
    resource.setrlimit(resource.RLIMIT_NPROC, (most, most))
    if spec["each_memory"]:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        most = spec["each_memory"] if hard == resource.RLIM_INFINITY else min(spec["each_memory"], hard)
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    libc.personality(ctypes.c_ulong(libc.personality(ctypes.c_ulong(0xFFFFFFFF)) | ADDR_NO_RANDOMIZE))
    # A change of the user forgot who dies with whom.
    call("dying with the starter", "prctl", PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    call("refusing new privileges", "prctl", PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    capability = 0
    while libc.prctl(PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) == 0:
        capability += 1
    libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    call("dropping capabilities", "capset", header, bytes(24))


# --- the starter ------------------------------------------------------------------------------------------------------


def receive(requests: _socket.socket) -> tuple[bool, int, int] | None:
    """What is said of the next build, and its descriptors; None when no more are wanted."""
    data, messages, _, _ = requests.recvmsg(1, _socket.CMSG_SPACE(8), _socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    log, channel = struct.unpack("2i", messages[0][2])
    return data == b"s", log, channel


class Starter:
    """All builds of a run, in one loop over what may happen to any of them."""

    def __init__(self, requests: _socket.socket) -> None:
        self._requests = requests
        self._poll = select.poll()
        self._events: dict[int, Callable[[], None]] = {}
        self._watch(requests.fileno(), select.POLLIN, self._next)

    def serve(self) -> None:
        """Until no more are wanted, and none is left."""
        while self._events:
            fd, _ = self._poll.poll()[0]  # no more: what is done about one may close another, and open its number anew
            self._events[fd]()

    def _watch(self, fd: int, event: int, then: Callable[[], None]) -> None:
        self._poll.register(fd, event)
        self._events[fd] = then

    def _leave(self, *descriptors: int) -> None:
        for fd in descriptors:
            if self._events.pop(fd, None) is not None:
                self._poll.unregister(fd)

    def _next(self) -> None:
        received = receive(self._requests)
        if received is None:
            self._leave(self._requests.fileno())
            return
        build = Build(*received)
        self._watch(build.ended, select.POLLIN, lambda: self._end(build))
        self._watch(build.asks, select.POLLIN, lambda: self._map(build))
        self._watch(build.channel, POLLRDHUP, lambda: self._kill(build))

    def _map(self, build: Build) -> None:
        self._leave(build.asks)
        build.map_user()

    def _kill(self, build: Build) -> None:
        self._leave(build.channel)
        build.kill()

    def _end(self, build: Build) -> None:
        if build.asks in self._events:
            self._map(build)
        self._leave(build.ended, build.channel)
        build.report()


def main(spec: dict[str, Any]) -> None:
    """What the starter does from its start to its end."""
    libc.signal(ctypes.c_int(SIGCHLD), SIG_DFL)  # how a child ended is kept for us
    os.set_inheritable(spec["requests"], False)
    Starter(_socket.socket(fileno=spec["requests"])).serve()
    os._exit(0)  # the run waits for us: nothing here needs an interpreter's orderly end
