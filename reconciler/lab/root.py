"""The root of a throw-away host: its own /etc, /home, /root, /run, /var, /tmp and /nix; the machine's programs.

Two steps. `disk.furnish` writes the host's disk, an ordinary directory that outlives a stop. `enter` runs as process 1
of new namespaces: it shows the machine's /usr and the interpreter's directories read-only below the disk, mounts /proc,
/dev and /run, and makes the disk the root.

The lab and the real sshd hosts of the tests share this module.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from reconciler.lab import linux

# Programs and libraries; where these are links (a merged /usr) the host gets the same links.
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec")

# Large or constantly updated directories of /etc that programs in /usr read: shown read-only, not copied.
ETC_SHOWN = ("ssl", "pki", "ca-certificates", "crypto-policies", "fonts")

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

# Where the host's own `python3` is, when the machine's does not do.
LAB_BIN = "/opt/lab/bin"
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What people expect at a prompt, where the machine has it.
DEFAULT_SHELL = next((shell for shell in ("/bin/bash", "/usr/bin/bash") if os.path.exists(shell)), "/bin/sh")


@dataclass(frozen=True)
class Account:
    """A line of passwd. `password` is the hash of shadow; `*` never matches, and does not lock key logins."""

    name: str
    uid: int
    gid: int
    home: str
    shell: str = DEFAULT_SHELL
    password: str = "*"  # noqa: S105 - the hash that matches nothing


@dataclass(frozen=True)
class HostFile:
    """A file that the host has from its first start; owner is an account's name."""

    path: str
    data: bytes
    mode: int = 0o644
    owner: str = "root"


@dataclass(frozen=True)
class Root:
    """What one host's root consists of.

    disk      the directory that becomes /
    programs  directories shown read-only at their own path beside the system's (an interpreter, a virtual environment)
    python    the interpreter that `python3` means on this host, when /usr/bin/python3 does not do
    shift     the machine's id for the host's id 0 (0 = no shift)
    """

    name: str
    disk: Path
    accounts: tuple[Account, ...]
    programs: tuple[Path, ...] = ()
    python: Path | None = None
    files: tuple[HostFile, ...] = ()
    shift: int = 0
    read_only_store: bool = False

    @property
    def path(self) -> str:
        """PATH of a session that reads no profile."""
        return f"{LAB_BIN}:{DEFAULT_PATH}" if self.python else DEFAULT_PATH


def enter(root: Root) -> tuple[str, ...]:
    """Become a process of the host: mount what belongs to its root and make it ours. Runs as process 1.

    Returns what differs from a usual host, one sentence each. Raises OSError.
    """
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    disk = str(root.disk)
    linux.mount(disk, disk, None, linux.MS_BIND | linux.MS_REC)
    _show_machine(root)
    notes = _mount_proc(disk)
    _mount_dev(disk, root.shift)
    owner = f",uid={root.shift},gid={root.shift}" if root.shift else ""
    linux.mount("run", f"{disk}/run", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=755" + owner)
    if root.read_only_store:
        linux.bind(f"{disk}/nix/store", f"{disk}/nix/store", read_only=True)
    linux.pivot_into(disk)
    _boot()
    return notes


def _show_machine(root: Root) -> None:
    disk = root.disk
    for name in SYSTEM:
        if Path("/", name).is_dir() and not Path("/", name).is_symlink():
            linux.bind(f"/{name}", f"{disk}/{name}", read_only=True)
    for name in ETC_SHOWN:
        if Path("/etc", name).is_dir():
            linux.bind(f"/etc/{name}", f"{disk}/etc/{name}", read_only=True)
    for program in root.programs:
        linux.bind(str(program), f"{disk}{program}", read_only=True)


def _mount_proc(disk: str) -> tuple[str, ...]:
    flags = linux.MS_NOSUID | linux.MS_NODEV | linux.MS_NOEXEC
    try:
        linux.mount("proc", f"{disk}/proc", "proc", flags)
    except PermissionError:
        # A container that hides parts of /proc allows no new one.
        linux.bind("/proc", f"{disk}/proc")
        return ("/proc shows the machine's processes: the kernel allows no new /proc in this container",)
    return ()


def _mount_dev(disk: str, shift: int) -> None:
    dev = f"{disk}/dev"
    owner = f",uid={shift},gid={shift}" if shift else ""
    linux.mount("dev", dev, "tmpfs", linux.MS_NOSUID, "mode=755" + owner)
    for name in _DEVICES:
        if os.path.exists(f"/dev/{name}"):
            Path(dev, name).touch()
            linux.mount(f"/dev/{name}", f"{dev}/{name}", None, linux.MS_BIND)
    for directory in ("pts", "shm"):
        os.mkdir(f"{dev}/{directory}")
    linux.mount(
        "devpts", f"{dev}/pts", "devpts", linux.MS_NOSUID | linux.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620"
    )
    linux.mount("shm", f"{dev}/shm", "tmpfs", linux.MS_NOSUID | linux.MS_NODEV, "mode=1777" + owner)
    links = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
    for name, target in links.items():
        os.symlink(target, f"{dev}/{name}")


def _boot() -> None:
    """What a machine's start does and a deploy relies on: the lines of /etc/tmpfiles.d."""
    os.makedirs("/run/lock", exist_ok=True)
    for file in sorted(Path("/etc/tmpfiles.d").glob("*.conf")):
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
            _tmpfiles_line(line.split())


def remove(path: str) -> None:
    """Take away a file or a directory, as far as that goes."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            os.unlink(path)


def _tmpfiles_line(fields: list[str]) -> None:
    """Directories and links, which is what the reconciler writes there; see tmpfiles.d(5)."""
    match fields:
        case ["d" | "d!", path, *_]:
            os.makedirs(path, exist_ok=True)
        case ["L" | "L!" | "L+" | "L+!", path, _, _, _, _, target]:
            os.makedirs(os.path.dirname(path), exist_ok=True)
            if "+" in fields[0]:
                remove(path)
            with contextlib.suppress(FileExistsError):
                os.symlink(target, path)
        case _:
            pass
