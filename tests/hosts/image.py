"""What a test host is furnished with, beside what a lab host has: distinct users, sudo, PAM, OpenSSH's server."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from reconciler.lab.python import directories_of
from reconciler.lab.root import Account, HostFile, Root

SSHD = "/usr/sbin/sshd"

# The password of `ops`, which sudo asks for; a hash by `openssl passwd -6`.
OPS_PASSWORD = "open sesame"
_OPS_HASH = "$6$labsalt$dU4fNAxtR01LTiNngG/Fpq8pZGPnPaHeQSihuF4w89pv1hJ2reoIbzYF6kCPzsqaa6gy2fvOJ9AaNEggmKYO21"

ACCOUNTS = (
    Account("root", 0, 0, "/root"),
    Account("daemon", 1, 1, "/usr/sbin", "/usr/sbin/nologin"),
    Account("sshd", 103, 65534, "/run/sshd", "/usr/sbin/nologin"),
    Account("nobody", 65534, 65534, "/nonexistent", "/usr/sbin/nologin"),
    Account("alice", 1001, 1001, "/home/alice"),
    Account("bob", 1002, 1002, "/home/bob", "/bin/sh"),
    Account("deploy", 1003, 1003, "/home/deploy"),
    Account("ops", 1004, 1004, "/home/ops", password=_OPS_HASH),
)

# As Debian 12 has it, and one user of each kind.
_SUDOERS = b"""\
Defaults env_reset
Defaults mail_badpass
Defaults secure_path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
Defaults use_pty
root ALL=(ALL:ALL) ALL
deploy ALL=(ALL:ALL) NOPASSWD: ALL
ops ALL=(ALL:ALL) ALL
"""

_SSHD_CONFIG = """\
{extra}
Port {port}
ListenAddress 127.0.0.1
HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM yes
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AcceptEnv LANG LC_*
PrintMotd no
LogLevel VERBOSE
Subsystem sftp /usr/lib/openssh/sftp-server
"""


@dataclass(frozen=True)
class HostOrder:
    """A host to start, as the fixture tells its keeper.

    python  the prefix of an interpreter to show inside, or "" for the machine's own
    sshd    lines that come before the usual ones in sshd_config, and therefore win
    """

    name: str
    disk: str
    log: str
    port: int
    host_key: str
    authorized: str
    python: str = ""
    sshd: str = ""
    read_only_store: bool = False
    nixbld: int = 0

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> HostOrder:
        return HostOrder(**json.loads(text))


def root_of(order: HostOrder) -> Root:
    """The root of that host."""
    accounts = (*ACCOUNTS, *_build_users(order.nixbld))
    config = _SSHD_CONFIG.format(port=order.port, extra=order.sshd)
    files = [
        HostFile("/etc/ssh/ssh_host_ed25519_key", order.host_key.encode(), 0o600),
        HostFile("/etc/ssh/sshd_config", config.encode()),
        HostFile("/etc/sudoers", _SUDOERS, 0o440),
        *(
            HostFile(f"{account.home}/.ssh/authorized_keys", f"{order.authorized}\n".encode(), 0o600, account.name)
            for account in accounts
            if account.uid == 0 or account.home.startswith("/home/")
        ),
    ]
    return Root(
        name=order.name,
        disk=Path(order.disk),
        accounts=accounts,
        programs=directories_of(Path(order.python)) if order.python else (),
        files=tuple(files),
        read_only_store=order.read_only_store,
    )


def _build_users(count: int) -> tuple[Account, ...]:
    return tuple(
        Account(f"nixbld{number}", 30000 + number, 30000, "/var/empty", "/usr/sbin/nologin")
        for number in range(1, count + 1)
    )


def supervise_sshd() -> Callable[[], int]:
    """What a host's process runs: sshd, and again when it ends, as a service manager would."""

    def serve() -> int:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        while True:
            sshd = os.posix_spawn(
                SSHD, [SSHD, "-D", "-e", "-f", "/etc/ssh/sshd_config"], {"PATH": "/usr/sbin:/usr/bin"}
            )
            os.waitpid(sshd, 0)
            time.sleep(0.05)

    return serve
