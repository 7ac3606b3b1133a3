"""The root of a throw-away host: its own /etc, /home, /root, /run, /var, /tmp and /nix; the machine's programs.

Two steps. `furnish` writes the host's disk, an ordinary directory that outlives a stop. `enter` runs as process 1 of
new namespaces: it shows the machine's /usr and the interpreter's directories read-only below the disk, mounts /proc,
/dev and /run, and makes the disk the root.

The lab and the real sshd hosts of the tests share this module.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from reconciler.lab import linux

# Programs and libraries; where these are links (a merged /usr) the host gets the same links.
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "libexec")

# Large or constantly updated directories of /etc that programs in /usr read: shown read-only, not copied.
_ETC_SHOWN = ("ssl", "pki", "ca-certificates", "crypto-policies", "fonts")

# What programs of /usr look up in /etc. All that identifies a machine or its people is left out.
_ETC_COPIED = (
    "alternatives", "bash.bashrc", "bashrc", "ca-certificates.conf", "debian_version", "default", "environment.d",
    "fedora-release", "fish", "gai.conf", "host.conf", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d",
    "localtime", "login.defs", "lsb-release", "magic", "mime.types", "os-release", "pam.conf", "pam.d", "protocols",
    "redhat-release", "resolv.conf", "security", "services", "shells", "skel", "system-release", "terminfo",
    "timezone", "zsh", "zshenv", "zprofile", "zshrc",
)  # fmt: skip

_DIRECTORIES = (
    "boot", "dev", "etc/profile.d", "home", "media", "mnt", "nix", "opt", "proc", "run", "srv", "sys",
    "var/cache", "var/empty", "var/lib", "var/log", "var/mail", "var/spool/cron/crontabs",
)  # fmt: skip

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_PROFILE = """\
# Written when this throw-away host was made.
PATH={path}
export PATH
if [ -n "${{BASH_VERSION-}}" ] && [ -n "${{PS1-}}" ] && [ -r /etc/bash.bashrc ]; then
    . /etc/bash.bashrc
fi
for file in /etc/profile.d/*.sh; do
    [ -r "$file" ] && . "$file"
done
unset file
"""

_NSSWITCH = "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\nservices: files\nprotocols: files\n"


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
        return f"{_LAB_BIN}:{DEFAULT_PATH}" if self.python else DEFAULT_PATH


_LAB_BIN = "/opt/lab/bin"


def furnish(root: Root) -> None:
    """Make the host's disk ready for a start: written when new, otherwise with /tmp emptied and new accounts added."""
    if not (root.disk / "etc/machine-id").exists():
        _first_time(root)
    for path in (root.disk / "tmp").iterdir():
        _remove(str(path))
    _make_mount_points(root)
    add_accounts(root)


def _first_time(root: Root) -> None:
    disk = root.disk
    disk.mkdir(mode=0o755, parents=True, exist_ok=True)
    disk.chmod(0o755)
    for name in _DIRECTORIES:
        (disk / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/tmp"):
        (disk / name).mkdir(exist_ok=True)
        (disk / name).chmod(0o1777)
    (disk / "root").mkdir(mode=0o700, exist_ok=True)
    _link(disk / "var/run", "/run")
    _copy_etc(disk / "etc")
    _write_etc(root)
    _link_system(disk)
    _link_python(root)
    for account in root.accounts:
        _make_home(root, account)
    for file in root.files:
        _write_file(root, file)
    if root.read_only_store:
        (disk / "nix/store").mkdir(parents=True, exist_ok=True)
    # Last: its presence says that the rest is there.
    unready = disk / "etc/machine-id.new"
    unready.write_text(secrets.token_hex(16) + "\n")
    if root.shift:
        _shift_owners(root)
    unready.rename(disk / "etc/machine-id")


def _link(path: Path, target: str) -> None:
    if not path.is_symlink():
        path.symlink_to(target)


def _copy_etc(etc: Path) -> None:
    for name in _ETC_COPIED:
        _copy(Path("/etc") / name, etc / name, follow=name in {"localtime", "resolv.conf"})
    for source in Path("/etc").glob("python3*"):
        _copy(source, etc / source.name)
    for name in _ETC_SHOWN:
        if Path("/etc", name).is_dir():
            (etc / name).mkdir(exist_ok=True)


def _copy(source: Path, target: Path, follow: bool = False) -> None:
    """Copy what we may read; a file that only root may read is left out when we are not root."""
    with contextlib.suppress(FileNotFoundError, PermissionError):
        if source.is_symlink() and not follow:
            _link(target, os.readlink(source))
        elif source.is_dir():
            target.mkdir(exist_ok=True)
            for child in source.iterdir():
                _copy(child, target / child.name)
        elif source.is_file():
            shutil.copy(source, target)


def _write_etc(root: Root) -> None:
    etc = root.disk / "etc"
    groups = {account.gid: account.name for account in reversed(root.accounts)}
    texts = {
        "hostname": f"{root.name}\n",
        "hosts": f"127.0.0.1 localhost\n127.0.1.1 {root.name}\n::1 localhost\n",
        "nsswitch.conf": _NSSWITCH,
        "profile": _PROFILE.format(path=root.path),
        "environment": "",
        "passwd": "",
        "group": "".join(f"{name}:x:{gid}:\n" for gid, name in sorted(groups.items())) + "tty:x:5:\n",
        "shadow": "",
    }
    for name, text in texts.items():
        (etc / name).write_text(text)
    (etc / "shadow").chmod(0o640)
    if not (etc / "shells").exists():
        (etc / "shells").write_text("/bin/sh\n/bin/bash\n")


def add_accounts(root: Root) -> tuple[str, ...]:
    """Append the accounts that the host's passwd lacks, and make their homes; their names."""
    etc = root.disk / "etc"
    known = {line.split(":")[0] for line in (etc / "passwd").read_text().splitlines()}
    groups = {line.split(":")[2] for line in (etc / "group").read_text().splitlines()}
    missing = [account for account in root.accounts if account.name not in known]
    for account in missing:
        _append(etc / "shadow", f"{account.name}:{account.password}:19000:0:99999:7:::\n")
        if str(account.gid) not in groups:
            groups.add(str(account.gid))
            _append(etc / "group", f"{account.name}:x:{account.gid}:\n")
        _make_home(root, account)
        entry = f"{account.name}:x:{account.uid}:{account.gid}::{account.home}:{account.shell}\n"
        _append(etc / "passwd", entry)
    return tuple(account.name for account in missing)


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def _link_system(disk: Path) -> None:
    for name in _SYSTEM:
        source = Path("/", name)
        if source.is_symlink():
            _link(disk / name, os.readlink(source))
        elif source.is_dir():
            (disk / name).mkdir(exist_ok=True)


def _make_mount_points(root: Root) -> None:
    for program in root.programs:
        directory = root.disk
        for part in program.parts[1:]:
            directory /= part
            if not directory.is_dir():
                directory.mkdir()
                os.chown(directory, root.shift or -1, root.shift or -1)
            # Every account has to get to the interpreter, also where it lies below /root.
            directory.chmod(directory.stat().st_mode | 0o111)


def _link_python(root: Root) -> None:
    if root.python is None:
        return
    (root.disk / _LAB_BIN[1:]).mkdir(parents=True, exist_ok=True)
    _link(root.disk / _LAB_BIN[1:] / "python3", str(root.python))


def _make_home(root: Root, account: Account) -> None:
    home = root.disk / account.home[1:]
    if account.uid and not account.home.startswith("/home/"):
        return  # a system account: its home is part of the system
    if home.exists() and account.name != "root":
        return
    home.mkdir(mode=0o755, parents=True, exist_ok=True)
    skeleton = root.disk / "etc/skel"
    if skeleton.is_dir():
        for source in skeleton.iterdir():
            _copy(source, home / source.name)
    for path in (home, *home.iterdir()):
        _own(root, path, account)


def _own(root: Root, path: Path, account: Account) -> None:
    if os.geteuid() == 0 and (account.uid or root.shift):
        os.chown(path, root.shift + account.uid, root.shift + account.gid, follow_symlinks=False)


def _write_file(root: Root, file: HostFile) -> None:
    account = next(account for account in root.accounts if account.name == file.owner)
    path = root.disk / file.path[1:]
    missing = [parent for parent in path.parents if not parent.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    for directory in missing:
        _own(root, directory, account)
    path.write_bytes(file.data)
    path.chmod(file.mode)
    _own(root, path, account)


def _shift_owners(root: Root) -> None:
    """Give what the machine's root wrote to the host's root."""
    for directory, names, files in os.walk(root.disk):
        for path in (directory, *(os.path.join(directory, name) for name in (*names, *files))):
            info = os.lstat(path)
            if info.st_uid < root.shift:
                os.chown(path, root.shift + info.st_uid, root.shift + info.st_gid, follow_symlinks=False)


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
    for name in _SYSTEM:
        if Path("/", name).is_dir() and not Path("/", name).is_symlink():
            linux.bind(f"/{name}", f"{disk}/{name}", read_only=True)
    for name in _ETC_SHOWN:
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


def _remove(path: str) -> None:
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
                _remove(path)
            with contextlib.suppress(FileExistsError):
                os.symlink(target, path)
        case _:
            pass
