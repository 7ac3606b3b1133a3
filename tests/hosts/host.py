"""`TestHost` and `Fleet`: real sshd hosts as tests use them."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from reconciler.core.fs import remove_tree
from reconciler.lab import keys
from reconciler.lab.root import DEFAULT_PATH
from tests.hosts.image import ACCOUNTS, HostOrder
from tests.pythons import find_python

Completed = subprocess.CompletedProcess[str]
Predicate = Callable[[str], bool]

# Below the ports that the kernel hands out for outgoing connections: a host that starts again finds its own free.
_PORTS = range(12_000, 32_000)

# Real Nix inside a host: its own store, no daemon, no network, no build users unless the test made them.
_NIX_ENVIRONMENT = {
    "NIX_REMOTE": "",
    "NIX_CONFIG": "build-users-group =\nexperimental-features = nix-command\nsubstituters =\nsandbox = true\n",
}


class Keeper:
    """The process that is the parent of one fleet's hosts."""

    def __init__(self, mount: Path | None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hosts.keeper", *([str(mount)] if mount else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: str) -> dict[str, object]:
        """One command, one answer; RuntimeError with what went wrong."""
        _stream(self._process.stdin).write(command + "\n")
        _stream(self._process.stdin).flush()
        line = _stream(self._process.stdout).readline()
        answer: dict[str, object] = json.loads(line) if line else {"error": "the keeper of the hosts ended"}
        if "error" in answer:
            raise RuntimeError(str(answer["error"]))
        return answer

    def close(self) -> None:
        """End every host and wait until they are gone."""
        _stream(self._process.stdin).close()
        _stream(self._process.stdout).close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _stream(stream: IO[str] | None) -> IO[str]:
    if stream is None:
        raise AssertionError
    return stream


@dataclass
class TestHost:
    """One host.

    root    its root directory as the machine sees it: its disk, without /proc, /dev, /run and the machine's programs
    port    of its sshd, on 127.0.0.1
    pid     its process 1 as the machine sees it; 0 while it is stopped
    python  the interpreter to use on it, as `ansible_python_interpreter` names it
    """

    __test__ = False

    name: str
    root: Path
    port: int
    python: str
    fleet: Fleet = field(repr=False)
    order: HostOrder = field(repr=False)
    pid: int = 0

    def start(self) -> None:
        """Switch it on; its disk is as it was, /run is new. At its old port, unless somebody took that meanwhile."""
        for attempt in range(4):
            try:
                self.pid = int(str(self.fleet.keeper.ask(f"start {self.order.to_json()}")["pid"]))
            except RuntimeError:
                if attempt == 3:
                    raise
                self.port = free_port()
                self.order = replace(self.order, port=self.port)
                self.fleet.write_ssh()
            else:
                return

    def stop(self) -> None:
        """Pull the plug."""
        self.fleet.keeper.ask(f"stop {self.name}")
        self.pid = 0

    def run(
        self,
        command: str | Sequence[str],
        user: str = "root",
        stdin: str | None = None,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> Completed:
        """Run in the host, past its sshd, as `user` in the user's home; a string is for the user's shell."""
        account = next(account for account in ACCOUNTS if account.name == user)
        argv = [account.shell, "-c", command] if isinstance(command, str) else list(command)
        environment = {
            "PATH": DEFAULT_PATH,
            "HOME": account.home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": account.shell,
            "LANG": "C.UTF-8",
            **(env or {}),
        }
        become = [] if user == "root" else ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]
        return subprocess.run(
            [
                *("nsenter", "--target", str(self.pid), "--mount", "--pid", "--uts", "--ipc", "--root", "--wd", "--"),
                *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
                *become,
                *("/bin/sh", "-c", 'cd "$HOME" && exec "$@"', "sh", *argv),
            ],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            errors="surrogateescape",
            check=False,
            timeout=timeout,
        )

    def ssh(self, command: str, user: str = "root", stdin: str | None = None, timeout: float = 60) -> Completed:
        """Run through OpenSSH's own client."""
        return subprocess.run(
            ["ssh", "-F", str(self.fleet.ssh_config), "-l", user, self.name, command],
            input=stdin if stdin is not None else "",
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def nix(self, *argv: str, user: str = "root", env: dict[str, str] | None = None) -> Completed:
        """Run real Nix in the host: `nix("nix-env", "-q", "-p", profile)`. Fails the test when it fails."""
        done = self.run(argv, user, env={**_NIX_ENVIRONMENT, **(env or {})})
        assert done.returncode == 0, f"{self.name}: {' '.join(argv)}: {done.stderr}"
        return done

    def verify_store(self) -> None:
        """Real Nix finds every registered path complete, with the hash that it was registered with."""
        if not (self.root / "nix/var/nix/db/db.sqlite").exists():
            return  # never managed; asking would make a store
        done = self.nix("nix-store", "--verify", "--check-contents")
        assert "error" not in done.stderr, done.stderr
        assert "disappeared" not in done.stderr, done.stderr

    def processes(self) -> dict[int, str]:
        """Every process of the host: its number as the machine sees it, and its command line."""
        if not self.pid:
            return {}
        namespace = os.readlink(f"/proc/{self.pid}/ns/pid")
        found = {}
        for number in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{number}/ns/pid") == namespace:
                    found[int(number)] = (
                        Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    )
        return found

    def kill_sessions(self) -> int:
        """Kill the sshd of every connection, as an operator or the kernel might; how many there were."""
        return self._kill(lambda line: line.startswith("sshd: ") and "[listener]" not in line)

    def restart_sshd(self) -> None:
        """Kill the listening sshd; the host starts another. Connections stay."""
        self.run("rm -f /run/sshd.pid")
        self._kill(lambda line: "[listener]" in line)
        self.run("while ! [ -e /run/sshd.pid ]; do sleep 0.01; done")

    def _kill(self, matches: Predicate) -> int:
        killed = 0
        for pid, line in self.processes().items():
            if matches(line):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
        return killed

    def freeze(self) -> None:
        """Stop every process of the host: a peer that is there and says nothing."""
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)


@dataclass
class Fleet:
    """Hosts and the inventory directory that names them: hosts.yml, ssh_config, known_hosts, key.

    A test writes its `group_vars/` and `host_vars/` beside hosts.yml.
    """

    directory: Path
    keeper: Keeper = field(repr=False)
    tmpfs: bool
    hosts: list[TestHost] = field(default_factory=list)

    def __iter__(self) -> Iterator[TestHost]:
        return iter(self.hosts)

    def __len__(self) -> int:
        return len(self.hosts)

    def __getitem__(self, which: int | str) -> TestHost:
        if isinstance(which, int):
            return self.hosts[which]
        return next(host for host in self.hosts if host.name == which)

    @property
    def ssh_config(self) -> Path:
        return self.directory / "ssh_config"

    @property
    def inventory(self) -> Path:
        return self.directory / "hosts.yml"

    def close(self) -> None:
        """End the hosts and remove their disks."""
        self.keeper.close()
        if self.tmpfs:
            return
        parent = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        with contextlib.closing(_Descriptor(parent)):
            remove_tree("disks", parent)

    def write_ssh(self) -> None:
        """ssh_config and known_hosts for the ports of now."""
        entries = "".join(
            f"Host {host.name}\n  HostName 127.0.0.1\n  Port {host.port}\n  User root\n"
            f'  IdentityFile "{self.directory}/key"\n'
            f'  IdentitiesOnly yes\n  UserKnownHostsFile "{self.directory}/known_hosts"\n'
            "  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n  LogLevel ERROR\n\n"
            for host in self.hosts
        )
        self.ssh_config.write_text(entries)
        lines = (f"[127.0.0.1]:{host.port} {self._public_key(host.name)}\n" for host in self.hosts)
        (self.directory / "known_hosts").write_text("".join(lines))

    def _public_key(self, name: str) -> str:
        return (self.directory / "host_keys" / f"{name}.pub").read_text().strip()

    def write_inventory(self) -> None:
        names = "".join(f"    {host.name}: {{ansible_python_interpreter: {host.python}}}\n" for host in self.hosts)
        self.inventory.write_text(
            "all:\n  vars:\n    ansible_ssh_common_args: \"-F '{{ inventory_dir }}/ssh_config'\"\n  hosts:\n" + names
        )


@dataclass
class _Descriptor:
    number: int

    def close(self) -> None:
        os.close(self.number)


@dataclass(frozen=True)
class Options:
    """How the hosts of one fleet are made.

    tmpfs            their disks lie in memory
    python           "3.9" … "3.13": the interpreter that the inventory names; None is the machine's own
    read_only_store  /nix/store is a read-only mount, as on NixOS
    sshd             lines for sshd_config that win over the usual ones
    nixbld           how many build users the hosts have
    """

    tmpfs: bool = False
    python: str | None = None
    read_only_store: bool = False
    sshd: str = ""
    nixbld: int = 0


def make_fleet(directory: Path, names: Sequence[str], options: Options) -> Fleet:
    """Start the hosts; `directory` becomes their inventory's."""
    directory.mkdir(parents=True, exist_ok=True)
    disks = directory / "disks"
    disks.mkdir()
    (directory / "host_keys").mkdir()
    (directory / "logs").mkdir()
    pair = keys.generate()
    (directory / "key").write_text(pair.private)
    (directory / "key").chmod(0o600)
    fleet = Fleet(directory, Keeper(disks if options.tmpfs else None), options.tmpfs)
    try:
        for name in names:
            fleet.hosts.append(_make_host(fleet, name, pair.public, options))
        fleet.write_ssh()
        fleet.write_inventory()
        for host in fleet:
            host.start()
    except BaseException:
        fleet.close()
        raise
    return fleet


def _make_host(fleet: Fleet, name: str, authorized: str, options: Options) -> TestHost:
    pair = keys.generate()
    (fleet.directory / "host_keys" / f"{name}.pub").write_text(pair.public)
    disk = fleet.directory / "disks" / name
    interpreter = find_python(options.python) if options.python else Path("/usr/bin/python3")
    order = HostOrder(
        name=name,
        disk=str(disk),
        log=str(fleet.directory / "logs" / name),
        port=free_port(),
        host_key=pair.private,
        authorized=authorized,
        python=str(prefix_of(interpreter)) if options.python else "",
        sshd=options.sshd,
        read_only_store=options.read_only_store,
        nixbld=options.nixbld,
    )
    root = Path(f"/proc/{fleet.keeper.pid}/root{disk}") if options.tmpfs else disk
    return TestHost(name, root, order.port, str(interpreter), fleet, order)


def free_port() -> int:
    """A port of 127.0.0.1 where nobody listens now."""
    while True:
        port = random.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def prefix_of(interpreter: Path) -> Path:
    """The directory that holds an interpreter's bin and lib."""
    return interpreter.parent.parent
