"""The disk of a throw-away host: a directory that outlives a stop, with the host's own /etc, homes and /nix."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from reconciler.lab.root import ETC_SHOWN, LAB_BIN, SYSTEM, Account, HostFile, Root, remove

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


def furnish(root: Root) -> None:
    """Make the host's disk ready for a start: written when new, otherwise with /tmp emptied and new accounts added."""
    if not (root.disk / "etc/machine-id").exists():
        _first_time(root)
    for path in (root.disk / "tmp").iterdir():
        remove(str(path))
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
    for name in ETC_SHOWN:
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
    for name in SYSTEM:
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
    (root.disk / LAB_BIN[1:]).mkdir(parents=True, exist_ok=True)
    _link(root.disk / LAB_BIN[1:] / "python3", str(root.python))


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
