"""Accounts of a host, and work done as one of them.

What is done in a home, or in a directory that a user owns, is done by a child process that has become that user: the
kernel then refuses what the user may not do, however the user changes names and links meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import select
import signal
import stat
import time
import warnings
from typing import Any, Callable, NoReturn

from reconciler.core.errors import InternalError, ReconcilerError, StoreError, from_wire, to_wire
from reconciler.core.values import value

PATIENCE = 20.0
_ANSWER_LIMIT = 64 * 1024 * 1024


@value
class Account:
    """A user of the host. `private_group`: the user's group is the user's alone (its name is the user's)."""

    name: str
    uid: int
    gid: int
    home: str
    private_group: bool = False


def find_account(name: str, root: str = "/") -> Account | None:
    """The account `name` of the host whose root directory is `root`; None when there is none.

    Of the running system through its name service; of another root by its /etc/passwd.
    """
    if root != "/":
        return _in_file(name, root)
    import grp

    try:
        entry = pwd.getpwnam(name)
    except (KeyError, ValueError, UnicodeError):
        return None
    try:
        private = grp.getgrgid(entry.pw_gid).gr_name == name
    except KeyError:
        private = False
    return Account(name, entry.pw_uid, entry.pw_gid, entry.pw_dir, private)


def account_homes(root: str = "/") -> list[tuple[str, str]]:
    """The name and home of every account, as far as the host lists them; each home once, root's first."""
    if root == "/":
        listed = [(entry.pw_name, entry.pw_dir) for entry in pwd.getpwall()]
    else:
        listed = [(fields[0], fields[5]) for fields in _fields(root, "etc/passwd", 7)]
    homes: dict[str, str] = {}
    for name, home in listed:
        if home not in ("", "/"):
            homes.setdefault(home, name)
    return [(name, home) for home, name in homes.items()]


def _in_file(name: str, root: str) -> Account | None:
    users = {fields[0]: fields for fields in _fields(root, "etc/passwd", 7)}
    if name not in users:
        return None
    fields = users[name]
    groups = {entry[2]: entry[0] for entry in _fields(root, "etc/group", 4)}
    return Account(name, int(fields[2]), int(fields[3]), fields[5], groups.get(fields[3]) == name)


def _fields(root: str, file: str, count: int) -> list[list[str]]:
    try:
        with open(os.path.join(root, file), encoding="utf-8", errors="surrogateescape") as lines:
            split = [line.rstrip("\n").split(":") for line in lines]
    except FileNotFoundError:
        return []
    return [fields for fields in split if len(fields) == count and fields[2].isdigit()]


def refuse_foreign_writers(status: os.stat_result, shown: str, account: Account, or_root: bool = False) -> None:
    """StoreError when the directory is not the account's (`or_root`: or root's), or others may write to it."""
    if status.st_uid != account.uid and not (or_root and status.st_uid == 0):
        raise StoreError(f"{shown} belongs to {_owner(status.st_uid)}, not to {account.name}")
    group_is_private = account.private_group and status.st_gid == account.gid
    if status.st_mode & stat.S_IWOTH or (status.st_mode & stat.S_IWGRP and not group_is_private):
        raise StoreError(f"others than {account.name} may write to {shown}", f"chmod go-w {shown}")


def _owner(uid: int) -> str:
    return "root" if uid == 0 else f"user {uid}"


# --- becoming somebody ------------------------------------------------------------------------------------------------


def as_user(account: Account, function: Callable[..., Any], *arguments: Any, root: str = "/") -> Any:
    """`function(root descriptor, account, *arguments)` in a child that has become the account; its result.

    The result is what JSON can carry. The descriptor of `root` was opened before, so that the user need not be able to
    reach it. ReconcilerError and OSError of the child are raised here, the latter as StoreError; StoreError too when
    the child takes more than PATIENCE seconds (a home on a server that does not answer).
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    reader, writer = os.pipe()
    try:
        with warnings.catch_warnings():
            # The agent's heartbeat is a thread; the child takes no lock that such a thread could hold.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _run_child(writer, root_fd, account, root, lambda: function(root_fd, account, *arguments))
        os.close(writer)
        writer = -1
        answer = _collect(pid, reader, account)
    finally:
        for fd in (root_fd, reader, writer):
            if fd >= 0:
                os.close(fd)
    if "result" in answer:
        return answer["result"]
    raise from_wire(answer["code"], answer["message"], answer["hint"])


def _collect(pid: int, reader: int, account: Account) -> dict[str, Any]:
    data = bytearray()
    until = time.monotonic() + PATIENCE
    while len(data) <= _ANSWER_LIMIT:
        ready, _, _ = select.select([reader], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            _end(pid)
            raise StoreError(f"the home of {account.name}, {account.home}, did not answer within {PATIENCE:.0f} s")
        chunk = os.read(reader, 1 << 16)
        if not chunk:
            break
        data += chunk
    os.waitpid(pid, 0)
    try:
        answer = json.loads(bytes(data))
    except ValueError:
        raise InternalError(f"the child working as {account.name} ended without an answer") from None
    assert isinstance(answer, dict)
    return answer


def _end(pid: int) -> None:
    """Kill the child. One that hangs inside the kernel cannot be waited for; it goes when the kernel lets it."""
    os.kill(pid, signal.SIGKILL)
    for _ in range(20):
        if os.waitpid(pid, os.WNOHANG)[0]:
            return
        time.sleep(0.05)


def _run_child(writer: int, root_fd: int, account: Account, root: str, work: Callable[[], Any]) -> NoReturn:
    answer: dict[str, Any]
    try:
        _let_go_of_everything_but(writer, root_fd)
        _become(account, root)
        answer = {"result": work()}
    except ReconcilerError as error:
        answer = dict(to_wire(error))
    except OSError as error:
        answer = dict(to_wire(StoreError(_os_error(error, account))))
    except BaseException as error:  # a child must not return into its parent's code
        answer = dict(to_wire(InternalError(f"as {account.name}: {error!r}")))
    try:
        data = memoryview(json.dumps(answer).encode())
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _os_error(error: OSError, account: Account) -> str:
    where = f"{error.filename}: " if isinstance(error.filename, str) else ""
    return f"as {account.name}: {where}{error.strerror}"


def _let_go_of_everything_but(*keep: int) -> None:
    """Locks and the agent's channel must not live on in a child that hangs."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    null = os.open("/dev/null", os.O_RDWR)
    for standard in (0, 1, 2):
        if standard not in keep:
            os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in keep:
            with contextlib.suppress(OSError):  # the descriptor that listed them
                os.close(int(name))
    os.umask(0o022)


def _become(account: Account, root: str) -> None:
    if os.geteuid() == account.uid:
        return  # also where a namespace has one user only, under several names
    try:
        if root == "/":
            os.initgroups(account.name, account.gid)
        else:
            os.setgroups([account.gid])
    except PermissionError:
        if os.geteuid() != 0:
            raise StoreError(f"only root may change the profile of {account.name}") from None
        if not _groups_are_fixed():
            raise
    os.setresgid(account.gid, account.gid, account.gid)
    os.setresuid(account.uid, account.uid, account.uid)
    if os.getresuid() != (account.uid,) * 3:
        raise StoreError(f"cannot become {account.name}")


def _groups_are_fixed() -> bool:
    """Whether this is a user namespace that forbids setgroups; there are no groups to lose there."""
    try:
        with open("/proc/self/setgroups", encoding="ascii") as file:
            return file.read().strip() == "deny"
    except OSError:
        return False
