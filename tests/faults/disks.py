"""Where a host's root lies while it is tried: a directory that is copied, or an ext4 disk whose power can be cut.

The disk is a file behind a loop device. It is to be mounted in a mount namespace of its own (see `NAMESPACES`), so that
nothing of it outlives the processes in there.
"""

from __future__ import annotations

import enum
import fcntl
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

SIZE = 48 * 1024 * 1024
_SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of linux/fs.h: _IOR('X', 125, __u32)
_MAKE_EXT4 = shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") or "mkfs.ext4"
_ROOM = 512 * 1024 * 1024


# Puts a command where it may mount and nobody sees it, and where the only processes are its own: a collector looks for
# roots in every process there is, and some of a whole machine's come and go, or have links too long to be read.
NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")


class Power(enum.Enum):
    """How the power goes: what was in memory is gone, or the journal was still written. Values are the ioctl's."""

    NOTHING_FLUSHED = 2
    JOURNAL_FLUSHED = 1

    @property
    def label(self) -> str:
        return self.name.lower().replace("_", " ")


class Room(enum.Enum):
    """What a disk can run out of. Values are for tables."""

    SPACE = "no space left"
    INODES = "no inodes left"


class Ground(Protocol):
    """Where `root` is made anew for each case."""

    root: Path

    def renew(self) -> None: ...

    def close(self) -> None: ...


def scratch_directory() -> str | None:
    """Memory where there is enough of it, since a sweep makes thousands of trees; else None, for the usual place."""
    memory = Path("/dev/shm")
    if memory.is_dir() and shutil.disk_usage(memory).free > _ROOM:
        return str(memory)
    return None


class Copies:
    """A directory, and for each case a copy of it at the same place."""

    def __init__(self, directory: Path, prepare: Callable[[Path], None]) -> None:
        self.root = directory / "root"
        self._base = directory / "base"
        self.root.mkdir(mode=0o755)
        prepare(self.root)
        self.root.rename(self._base)

    def renew(self) -> None:
        self.close()
        subprocess.run(["cp", "-a", str(self._base), str(self.root)], check=True)

    def close(self) -> None:
        if self.root.exists():
            shutil.rmtree(self.root)


class Memory(Copies):
    """A tmpfs, whose room can be cut to what is used and a little more."""

    def __init__(self, directory: Path, prepare: Callable[[Path], None]) -> None:
        super().__init__(directory, prepare)
        self.root.mkdir(mode=0o755)

    def renew(self) -> None:
        self.close()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(self.root)], check=True)
        subprocess.run(["cp", "-a", f"{self._base}/.", str(self.root)], check=True)

    def leave(self, room: Room, amount: int) -> None:
        """Leave so many pages, or inodes, that are not used yet."""
        found = os.statvfs(self.root)
        if room is Room.SPACE:
            self._remount(f"size={(found.f_blocks - found.f_bfree + amount) * found.f_frsize}")
        else:
            self._remount(f"nr_inodes={found.f_files - found.f_ffree + amount}")

    def leave_plenty(self) -> None:
        self._remount(f"size={SIZE * 4},nr_inodes={1 << 20}")

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.root)], check=True)

    def close(self) -> None:
        if os.path.ismount(self.root):
            subprocess.run(["umount", str(self.root)], check=True)


class Disk:
    """An ext4 file system, and for each case a copy of it as it was after `prepare`, written out."""

    def __init__(self, directory: Path, prepare: Callable[[Path], None]) -> None:
        self.root = directory / "root"
        self._image = directory / "disk.img"
        self._base = directory / "base.img"
        self.root.mkdir(mode=0o755)
        with open(self._image, "wb") as file:
            file.truncate(SIZE)
        options = ["-J", "size=4", "-m", "0", "-E", "lazy_itable_init=0,lazy_journal_init=0"]
        subprocess.run([_MAKE_EXT4, "-q", "-F", *options, str(self._image)], check=True)
        self.mount()
        (self.root / "lost+found").rmdir()
        prepare(self.root)
        self.unmount()
        self._image.rename(self._base)

    def renew(self) -> None:
        self.close()
        # A new file: what the kernel still holds of the old one must not be written into it.
        self._image.unlink(missing_ok=True)
        subprocess.run(["cp", "--sparse=always", str(self._base), str(self._image)], check=True)
        self.mount()

    def close(self) -> None:
        if os.path.ismount(self.root):
            self.unmount()

    def mount(self) -> None:
        # A device of its own each time: `mount -o loop` takes up one that is still there for this file, and with it a
        # file system that was shut down, where its last user has not quite gone. Detached at once, it goes when it is
        # unmounted. No commit of the journal but for those that are asked for: what only a timer made durable must not
        # count.
        attached = subprocess.run(
            ["losetup", "--find", "--show", str(self._image)], check=True, capture_output=True, text=True
        )
        device = attached.stdout.strip()
        try:
            subprocess.run(["mount", "-t", "ext4", "-o", "commit=3600", device, str(self.root)], check=True)
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.root)], check=True)

    def lose_power(self, power: Power) -> None:
        """Cut it now, then start again: the file system recovers from its journal."""
        fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", power.value))
        finally:
            os.close(fd)
        self.unmount()
        self.mount()
