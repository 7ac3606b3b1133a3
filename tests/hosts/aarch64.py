"""Debian 12 for arm64 as a root directory, and programs of aarch64 on a machine that is none.

    needs root, qemu-user-static, qemu-system-arm, mmdebstrap, debian-archive-keyring (`.ci/setup soak` installs them
    on Debian and Ubuntu) and Debian's mirror

The root is made once, which takes ten minutes of emulation, and kept under the cache directory; with another list of
packages it is made anew. The kernel is told of qemu only as long as `emulation()` lasts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from reconciler.core.fs import FileLock
from reconciler.lab import linux
from reconciler.packages.downloads import cache_directory

ARCHITECTURE = "arm64"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = (
    *("python3-minimal", "libpython3-stdlib"),
    *("openssh-server", "openssh-sftp-server", "sudo", "util-linux", "procps", "xz-utils", "nix-bin"),
    *("systemd-sysv", "udev", "iproute2", "initramfs-tools", "linux-image-cloud-arm64"),
)
_NOT_UNPACKED = ("man", "doc", "locale", "info")
_BINFMT = Path("/proc/sys/fs/binfmt_misc")

# 64 bits, little endian, an executable or a shared object (ET_EXEC, ET_DYN), EM_AARCH64; elf(5). What the mask leaves
# out may be anything: the ABI.
_MAGIC = bytes.fromhex("7f454c460201010000000000000000000200b700")
_MASK = bytes.fromhex("ffffffffffffff00fffffffffffffffffeffffff")


class CannotEmulateError(AssertionError):
    """What this machine lacks, and how to have it."""


def debian() -> Path:
    """The root directory, with a kernel in /boot. CannotEmulateError where it cannot be made."""
    chosen = hashlib.sha256("\n".join((SUITE, *PACKAGES, *_NOT_UNPACKED)).encode()).hexdigest()[:16]
    place = cache_directory() / "test-systems" / f"debian-12-{ARCHITECTURE}-{chosen}"
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{place}.lock"):
        if not place.exists():
            with tempfile.TemporaryDirectory(dir=place.parent, prefix="making-", ignore_cleanup_errors=True) as work:
                with emulation():
                    _make(Path(work, "root"))
                Path(work, "root").replace(place)
    return place


def _make(root: Path) -> None:
    """In a mount namespace: what is mounted for it is gone with it, whatever happens. `--skip`: mmdebstrap looks for
    qemu by the name that Debian's own package gives the kernel."""
    unwanted = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _NOT_UNPACKED]
    done = subprocess.run(
        [
            *("unshare", "--mount", program("mmdebstrap"), "--quiet", "--mode=root"),
            *("--variant=minbase", "--format=directory"),
            *(f"--architectures={ARCHITECTURE}", "--skip=check/qemu", f"--include={','.join(PACKAGES)}"),
            *('--aptopt=Apt::Install-Recommends "false"', *unwanted, SUITE, str(root), MIRROR),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CannotEmulateError(f"Debian for {ARCHITECTURE} cannot be unpacked: {done.stderr[-4000:]}")


@contextlib.contextmanager
def emulation() -> Iterator[None]:
    """The kernel runs programs of aarch64 by qemu, also in a root of its own that has no qemu, as long as this lasts.

    CannotEmulateError where it cannot: by the name of what is missing. Others who have told it the same are not in
    the way, nor we in theirs.
    """
    qemu = program("qemu-aarch64-static")
    name = f"reconciler-test-aarch64-{os.getpid()}"
    try:
        if not (_BINFMT / "register").exists():
            linux.mount("binfmt_misc", str(_BINFMT), "binfmt_misc")
        # P: the name that a program is called by is handed on. F: qemu is opened now, and is found in every root.
        (_BINFMT / "register").write_bytes(f":{name}:M::{_escaped(_MAGIC)}:{_escaped(_MASK)}:{qemu}:POF".encode())
    except OSError as error:
        raise CannotEmulateError(f"the kernel takes no emulator (binfmt_misc): {error}") from None
    try:
        yield
    finally:
        (_BINFMT / name).write_text("-1")


def _escaped(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def program(name: str) -> str:
    """Where a program is; CannotEmulateError where it is not."""
    found = shutil.which(name)
    if found is None:
        raise CannotEmulateError(f"no {name} here: `.ci/setup soak` installs it on Debian and Ubuntu")
    return found
