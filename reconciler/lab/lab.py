"""Throw-away hosts on this machine: `up`, `down`, `stop`, `start`, `hosts`.

For trying things out and for quick tests. A lab host has the machine's programs and a disk of its own, an SSH server
that is not OpenSSH, no systemd, and where the kernel maps one id only, users that are names of that id.

A lab is a directory (see `state` for what it holds). Only one command at a time changes it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reconciler.core.errors import RefusedError, UsageError
from reconciler.core.fs import FileLock, remove_tree, replace_file
from reconciler.lab import keys, python, state
from reconciler.lab.launch import Answer, HostOrder, Order
from reconciler.lab.namespaces import Isolation, choose_isolation

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")

# Longest wait for a host to come up; a loaded machine takes part of a second.
_START_SECONDS = 60.0


@dataclass(frozen=True)
class LabHost:
    """One host of a lab. `disk` is its root directory as the machine sees it; `pid` is 0 while it is stopped."""

    name: str
    running: bool
    port: int
    pid: int
    disk: Path


@dataclass(frozen=True)
class Lab:
    """A lab after a change: its hosts, which of them that change started, and what differs from usual hosts."""

    directory: Path
    hosts: tuple[LabHost, ...]
    started: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    def host(self, name: str) -> LabHost:
        return next(host for host in self.hosts if host.name == name)


def up(names: Sequence[str], directory: Path, users: Sequence[str] = ()) -> Lab:
    """Start those of `names` that do not run yet; all of them, also those that run, know `users` beside root.

    `directory` is made when missing. Raises UsageError for a bad name, RefusedError where this machine allows no lab
    or a host did not start; the hosts that did start stay.
    """
    _check_names(names, users)
    directory = directory.absolute()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _locked(directory):
        all_users = _record(directory, users)
        for name in names:
            _make_host(directory, name)
        return _start_hosts(directory, list(dict.fromkeys(names)), all_users)


def start(names: Sequence[str], directory: Path) -> Lab:
    """Switch hosts of the lab on again, with the disks they had."""
    with _existing(directory) as (folder, users):
        _check_known(folder, names)
        return _start_hosts(folder, list(dict.fromkeys(names)), users)


def stop(names: Sequence[str], directory: Path) -> Lab:
    """Switch hosts off, as pulling the plug does; their disks stay."""
    with _existing(directory) as (folder, _):
        _check_known(folder, names)
        for name in names:
            _kill(folder / "hosts" / name)
        return Lab(folder, hosts(folder))


def down(directory: Path) -> tuple[str, ...]:
    """End the lab: its processes, its mounts (which end with them) and its directory. The names of its hosts."""
    if not directory.exists():
        return ()
    with _existing(directory) as (folder, _):
        names = tuple(host.name for host in hosts(folder))
        for name in names:
            _kill(folder / "hosts" / name)
        _remove(folder)
    return names


def hosts(directory: Path) -> tuple[LabHost, ...]:
    """The hosts of a lab, by name; none when there is no lab."""
    folder = directory.absolute() / "hosts"
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    return tuple(_describe(folder / name) for name in names)


def _describe(folder: Path) -> LabHost:
    found = state.read_host(folder)
    running = state.is_running(found)
    port, pid = (found.port, found.pid if running else 0) if found else (0, 0)
    return LabHost(folder.name, running, port, pid, folder / "disk")


def _check_names(names: Sequence[str], users: Sequence[str]) -> None:
    for name in names:
        if not _NAME.fullmatch(name):
            raise UsageError(f"a lab host cannot be named {name!r}", hint="letters, digits, '.', '_', '-'; at most 63")
    for user in users:
        if not _USER.fullmatch(user):
            raise UsageError(f"a user of a lab host cannot be named {user!r}", hint="names match [a-z_][a-z0-9_-]*")


def _check_known(directory: Path, names: Sequence[str]) -> None:
    known = {host.name for host in hosts(directory)}
    for name in names:
        if name not in known:
            raise UsageError(f"the lab has no host {name!r}", hint=f"it has {', '.join(sorted(known)) or 'none'}")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with FileLock(str(directory / "lock")):
        yield


@contextlib.contextmanager
def _existing(directory: Path) -> Iterator[tuple[Path, list[str]]]:
    directory = directory.absolute()
    if not (directory / "lab").exists():
        raise UsageError(f"{directory}: no lab is here", hint="reconciler lab up makes one")
    with _locked(directory):
        yield directory, _users(directory)


def _users(directory: Path) -> list[str]:
    found = state.read(directory / "lab", "reconciler-lab").get("users", [])
    return [str(user) for user in found]


def _record(directory: Path, users: Sequence[str]) -> list[str]:
    """Mark the directory as a lab with these users and the ones it had, and give it a key."""
    mark = directory / "lab"
    if not mark.exists() and any(entry.name != "lock" for entry in directory.iterdir()):
        raise RefusedError(f"{directory}: is no lab and not empty", hint="name another directory, or empty this one")
    before = _users(directory) if mark.exists() else []
    merged = list(dict.fromkeys([*before, *users]))
    state.write(mark, "reconciler-lab", {"users": merged})
    if not (directory / "key.pub").exists():
        _write_key(directory / "key", keys.generate(), "lab")
    return merged


def _write_key(path: Path, pair: keys.KeyPair, comment: str) -> None:
    replace_file(str(path), pair.private.encode(), mode=0o600, durable=False)
    replace_file(f"{path}.pub", f"{pair.public} {comment}\n".encode(), durable=False)


def _make_host(directory: Path, name: str) -> None:
    folder = directory / "hosts" / name
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not (folder / "host_key.pub").exists():
        _write_key(folder / "host_key", keys.generate(), name)


def _start_hosts(directory: Path, names: list[str], users: list[str]) -> Lab:
    named = [host for host in hosts(directory) if host.name in names]
    missing = [host for host in named if not host.running]
    lacking = [host for host in named if host.running and not set(users) <= _accounts(host)]
    answers: list[Answer] = []
    if missing or lacking:
        isolation = choose_isolation()
        answers = _launch(_order(directory, isolation, users, missing, lacking), isolation)
    _write_ssh(directory)
    failed = [answer for answer in answers if answer.error]
    if failed:
        raise RefusedError("\n".join(f"{answer.name}: {answer.error}" for answer in failed))
    notes = tuple(dict.fromkeys(note for answer in answers for note in answer.notes))
    return Lab(directory, hosts(directory), tuple(host.name for host in missing), notes)


def _accounts(host: LabHost) -> set[str]:
    return {line.split(":")[0] for line in (host.disk / "etc/passwd").read_text().splitlines()}


def _order(
    directory: Path, isolation: Isolation, users: list[str], missing: list[LabHost], lacking: list[LabHost]
) -> Order:
    def orders(wanted: list[LabHost]) -> list[HostOrder]:
        return [HostOrder(host.name, str(directory / "hosts" / host.name), host.port) for host in wanted]

    extra = python.interpreter()
    return Order(
        isolation=isolation.value,
        authorized=(directory / "key.pub").read_text().strip(),
        users=users,
        programs=[str(path) for path in python.own_directories()],
        python=str(extra) if extra else None,
        hosts=orders(missing),
        running=orders(lacking),
    )


def _launch(order: Order, isolation: Isolation) -> list[Answer]:
    """Run the launcher, which answers for every host."""
    prefix = ["podman", "unshare"] if isolation is Isolation.PODMAN else []
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "reconciler.lab.launch"],
        input=order.to_json(),
        capture_output=True,
        check=False,
        timeout=_START_SECONDS,
        cwd=Path(__file__).parents[2],  # where `reconciler` is imported from, installed or not
    )
    answers = [Answer(**json.loads(line)) for line in done.stdout.splitlines()]
    if len(answers) < len(order.hosts) + len(order.running):
        raise RefusedError(f"the lab's hosts could not be started: {done.stderr.decode(errors='replace')[-2000:]}")
    return [replace(answer, notes=tuple(answer.notes)) for answer in answers]


def _kill(folder: Path) -> None:
    """End process 1 of the host, and with it every process that it ever started."""
    found = state.read_host(folder)
    if found is None:
        return
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(found.pid) if found.pid else -1
        # Asked after the descriptor is ours: from here on the number cannot become another process.
        if descriptor >= 0 and state.is_running(found):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], 30)
        if descriptor >= 0:
            os.close(descriptor)
    state.write_host(folder, replace(found, pid=0, started=0))


def _remove(directory: Path) -> None:
    """Remove the lab's directory. What a host's builder wrote as another id needs podman's help once more."""
    parent = os.open(directory.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            remove_tree(directory.name, parent)
        except PermissionError:
            if not _used_podman(directory):
                raise
            subprocess.run(["podman", "unshare", "rm", "-rf", "--", str(directory)], check=True, capture_output=True)
    finally:
        os.close(parent)


def _used_podman(directory: Path) -> bool:
    found = (state.read_host(folder) for folder in (directory / "hosts").iterdir())
    return any(host is not None and host.isolation == Isolation.PODMAN.value for host in found)


def _write_ssh(directory: Path) -> None:
    """ssh_config and known_hosts, for ssh(1) and for an inventory's `-F`."""
    known = [host for host in hosts(directory) if host.port]
    config = "# Written by `reconciler lab`; each start writes it again.\n" + "".join(
        _SSH_ENTRY.format(name=host.name, port=host.port, directory=_quoted(directory)) for host in known
    )
    lines = "".join(f"[127.0.0.1]:{host.port} {_public_key(directory, host.name)}\n" for host in known)
    replace_file(str(directory / "known_hosts"), lines.encode(), mode=0o600, durable=False)
    replace_file(str(directory / "ssh_config"), config.encode(), mode=0o600, durable=False)


# The second known hosts file keeps paramiko from taking the quotes off the first, which may hold spaces.
_SSH_ENTRY = """
Host {name}
    HostName 127.0.0.1
    Port {port}
    User root
    IdentityFile "{directory}/key"
    IdentitiesOnly yes
    UserKnownHostsFile "{directory}/known_hosts" /dev/null
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
"""


def _quoted(path: Path) -> str:
    """For use between quotes; a percent sign is ssh's own."""
    return str(path).replace("%", "%%")


def _public_key(directory: Path, name: str) -> str:
    algorithm, key = (directory / "hosts" / name / "host_key.pub").read_text().split()[:2]
    return f"{algorithm} {key}"
