"""A whole aarch64 machine in qemu: Debian's kernel for arm64, systemd, sshd. Slow, and nothing of it is this machine's.

qemu's user mode would be faster, and is no machine that builds: each of its processes has a thread of qemu's own, and
a process with two threads cannot enter a user namespace.

The disk is made once from the root directory of tests/hosts/aarch64.py, which says what is needed; what a machine
writes to it goes when the machine does. Its name, keys and address come on a second disk, which is a tar archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import socket
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.fs import FileLock
from reconciler.lab import keys
from tests.hosts.aarch64 import CannotEmulateError, program
from tests.hosts.host import free_port

_SIZE = "6G"  # sparse
_READY_SECONDS = 600.0
_UNIT = "reconciler-test.service"
_SETTINGS = r"""[Unit]
Requires=dev-disk-by\x2did-virtio\x2dsettings.device sys-subsystem-net-devices-eth0.device
After=dev-disk-by\x2did-virtio\x2dsettings.device sys-subsystem-net-devices-eth0.device
Before=ssh.service
[Service]
Type=oneshot
ExecStart=tar -xf /dev/disk/by-id/virtio-settings -C /
ExecStart=hostname --file /etc/hostname
ExecStart=ip address add 10.0.2.15/24 dev eth0
ExecStart=ip link set eth0 up
"""
_APPEND = "root=LABEL=root rw console=ttyAMA0 net.ifnames=0 systemd.firstboot=off quiet"


@dataclass(frozen=True)
class Machine:
    """One that is on. `ssh_config`: reaches it as root."""

    name: str
    ssh_config: Path

    def ssh(self, command: str, timeout: float = 120) -> str:
        """What a command prints; it has to succeed."""
        done = subprocess.run(
            ["ssh", "-F", str(self.ssh_config), self.name, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{self.name}: {command}: {done.stderr}"
        return done.stdout


@contextlib.contextmanager
def machine(directory: Path, name: str, debian: Path) -> Iterator[Machine]:
    """Switch one on, and off at the end. CannotEmulateError where it does not come up, with what its console said."""
    directory.mkdir()
    host, client, port = keys.generate(), keys.generate(), free_port()
    (directory / "key").write_text(client.private)
    (directory / "key").chmod(0o600)
    (directory / "known_hosts").write_text(f"[127.0.0.1]:{port} {host.public}\n")
    (directory / "ssh_config").write_text(
        f"Host {name}\n  HostName 127.0.0.1\n  Port {port}\n  User root\n  IdentityFile {directory}/key\n"
        f"  IdentitiesOnly yes\n  UserKnownHostsFile {directory}/known_hosts\n  LogLevel ERROR\n"
    )
    settings = {
        "etc/hostname": (f"{name}\n", 0o644),
        "etc/ssh/ssh_host_ed25519_key": (host.private, 0o600),
        "root/.ssh/authorized_keys": (f"{client.public}\n", 0o600),
    }
    (directory / "settings.tar").write_bytes(_tar(settings))
    console = directory / "console"
    with subprocess.Popen(_command(directory, debian, port), stdin=subprocess.DEVNULL) as running:
        try:
            _wait(running, port, console)
            yield Machine(name, directory / "ssh_config")
        finally:
            running.kill()


def _command(directory: Path, debian: Path, port: int) -> list[str]:
    kernel, initrd = (str(next((debian / "boot").glob(f"{name}-*"))) for name in ("vmlinuz", "initrd.img"))
    disks = (("root", f"{_disk(debian)},snapshot=on"), ("settings", f"{directory}/settings.tar,readonly=on"))
    return [
        *(program("qemu-system-aarch64"), "-machine", "virt", "-cpu", "cortex-a72", "-accel", "tcg,thread=multi"),
        *("-smp", "2", "-m", "2048", "-display", "none", "-monitor", "none", "-serial", f"file:{directory}/console"),
        *("-kernel", kernel, "-initrd", initrd, "-append", _APPEND, "-no-reboot"),
        *("-netdev", f"user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:22"),
        *("-device", "virtio-net-pci,netdev=net,romfile=", "-device", "virtio-rng-pci"),
        *(
            word
            for name, file in disks
            for word in (
                *("-drive", f"if=none,id={name},format=raw,file={file}"),
                *("-device", f"virtio-blk-pci,drive={name},serial={name}"),
            )
        ),
    ]


def _disk(debian: Path) -> Path:
    """The disk that is made from the root directory, beside it."""
    place = debian.with_name(f"{debian.name}-{hashlib.sha256(_SETTINGS.encode()).hexdigest()[:8]}.disk")
    with FileLock(f"{place}.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-") as work:
                root, disk = Path(work, "root"), Path(work, "disk")
                subprocess.run(["cp", "-a", "--reflink=auto", debian, root], check=True)
                _settle(root)
                make = [program("mkfs.ext4"), "-q", "-L", "root", "-d", str(root), str(disk), _SIZE]
                subprocess.run(make, stdout=subprocess.DEVNULL, check=True)
                disk.replace(place)
    return place


def _settle(root: Path) -> None:
    """What takes the settings at a boot; no keys but those in them."""
    units = root / "etc/systemd/system"
    (units / _UNIT).write_text(_SETTINGS)
    (units / "multi-user.target.wants").mkdir(exist_ok=True)
    (units / "multi-user.target.wants" / _UNIT).symlink_to(f"/etc/systemd/system/{_UNIT}")
    for file in (root / "etc/ssh").glob("ssh_host_*"):
        file.unlink()
    shutil.rmtree(root / "boot")


def _tar(files: dict[str, tuple[str, int]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for path, (text, mode) in files.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode = len(text.encode()), mode
            archive.addfile(entry, io.BytesIO(text.encode()))
    return stream.getvalue()


def _wait(running: subprocess.Popen[bytes], port: int, console: Path) -> None:
    """Until its sshd greets."""
    deadline = time.monotonic() + _READY_SECONDS
    while not _greets(port):
        if running.poll() is not None or time.monotonic() > deadline:
            said = console.read_text(errors="replace")[-2000:] if console.exists() else ""
            raise CannotEmulateError(f"the aarch64 machine does not come up: {said or 'its console says nothing'}")
        time.sleep(0.5)


def _greets(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.settimeout(5)
        probe.connect(("127.0.0.1", port))
        return probe.recv(4) == b"SSH-"
    return False
