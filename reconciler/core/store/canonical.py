"""The one form that files in a store have: 0444 or 0555, mtime 1, one owner, no extended attributes.

On descriptors, following nothing. An inode that other names outside of the tree share is not touched, unless it has
the form already: what looks like ours may be somebody else's file.
"""

from __future__ import annotations

import errno
import os
import stat

from reconciler.core import fs
from reconciler.core.errors import StoreError
from reconciler.core.nix.nar_files import STORE_MTIME_NS
from reconciler.core.values import field, value

# Nix leaves these alone: they are set by the system, not by whoever made the file.
IGNORED_ATTRIBUTES = ("security.csm", "security.selinux", "system.nfs4_acl")
_NOT_SUPPORTED = (errno.ENOTSUP, errno.ENODATA, errno.EOPNOTSUPP)


def canonicalise(path: str, uid: int | None = None, gid: int | None = None) -> None:
    """Give the tree at `path` the canonical form, owned by `uid` and `gid` (those of this process when None).

    StoreError for a device, fifo or socket, for a file of which another name exists outside of the tree, and for
    whatever the kernel refuses, naming the file.
    """
    owner = (os.geteuid() if uid is None else uid, os.getegid() if gid is None else gid)
    walk = _Walk(path, *owner)
    parent, name = os.path.split(os.path.abspath(path))
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        walk.tree(name, parent_fd)
    finally:
        os.close(parent_fd)
    walk.check_links()


@value(frozen=False)
class _Walk:
    top: str
    uid: int
    gid: int
    # By inode: names met in the tree, and how many the inode has; for files that had to be changed.
    met: dict[tuple[int, int], int] = field(default_factory=dict)
    linked: dict[tuple[int, int], tuple[int, str]] = field(default_factory=dict)
    waiting: list[tuple[int, str]] = field(default_factory=list)

    def tree(self, name: str, parent_fd: int) -> None:
        """Depth first: a directory gets its form, in which it cannot be written to, after what it holds."""
        levels: list[tuple[int, list[str]]] = []
        try:
            self._enter(name, parent_fd, levels)
            while levels:
                fd, names = levels[-1]
                if names:
                    self._enter(names.pop(), fd, levels)
                    continue
                levels.pop()
                try:
                    self._directory(fd)
                finally:
                    os.close(fd)
        finally:
            for fd, _ in levels:
                os.close(fd)

    def _enter(self, name: str, dir_fd: int, levels: list[tuple[int, list[str]]]) -> None:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
        try:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode):
                if status.st_mode & 0o500 != 0o500:
                    os.chmod(f"/proc/self/fd/{handle}", 0o700)
                fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=handle)
                levels.append((fd, os.listdir(fd)))
            elif stat.S_ISLNK(status.st_mode):
                self._link(name, dir_fd, status)
            elif stat.S_ISREG(status.st_mode):
                self._file(name, handle, status)
            else:
                raise StoreError(f"{self.top}: '{name}' is neither file, link nor directory")
        finally:
            os.close(handle)

    def _directory(self, fd: int) -> None:
        status = os.fstat(fd)
        _strip_attributes(fd)
        if (status.st_uid, status.st_gid) != (self.uid, self.gid):
            os.fchown(fd, self.uid, self.gid)
        if stat.S_IMODE(status.st_mode) != 0o555:
            os.fchmod(fd, 0o555)
        if status.st_mtime_ns != STORE_MTIME_NS:
            os.utime(fd, ns=(status.st_atime_ns, STORE_MTIME_NS))

    def _link(self, name: str, dir_fd: int, status: os.stat_result) -> None:
        if (status.st_uid, status.st_gid) != (self.uid, self.gid):
            os.chown(name, self.uid, self.gid, dir_fd=dir_fd, follow_symlinks=False)
        if status.st_mtime_ns != STORE_MTIME_NS:
            os.utime(name, ns=(status.st_atime_ns, STORE_MTIME_NS), dir_fd=dir_fd, follow_symlinks=False)

    def _file(self, name: str, handle: int, status: os.stat_result) -> None:
        mode = 0o555 if status.st_mode & stat.S_IXUSR else 0o444
        proc = f"/proc/self/fd/{handle}"
        right = (
            stat.S_IMODE(status.st_mode) == mode
            and (status.st_uid, status.st_gid) == (self.uid, self.gid)
            and status.st_mtime_ns == STORE_MTIME_NS
        )
        inode = (status.st_dev, status.st_ino)
        self.met[inode] = self.met.get(inode, 0) + 1
        if not right and status.st_nlink > 1:
            # Its other names may all lie in this tree; that is known only at the end, and until then it is left alone.
            self.linked.setdefault(inode, (status.st_nlink, name))
            self.waiting.append((os.dup(handle), name))
            return
        _strip_attributes(proc)
        if not right:
            self._change(proc, mode, status)

    def _change(self, proc: str, mode: int, status: os.stat_result) -> None:
        if (status.st_uid, status.st_gid) != (self.uid, self.gid):
            os.chown(proc, self.uid, self.gid)
        # After chown, which drops set-user-id bits on its own.
        os.chmod(proc, mode)
        os.utime(proc, ns=(status.st_atime_ns, STORE_MTIME_NS))

    def check_links(self) -> None:
        """Change the files that have several names, all of them in the tree."""
        waiting, self.waiting = self.waiting, []
        try:
            for inode, (links, name) in self.linked.items():
                if self.met.get(inode, 0) < links:
                    raise StoreError(f"{self.top}: '{name}' is also a file outside of it (a hard link)")
            for handle, _ in waiting:
                status = os.fstat(handle)
                proc = f"/proc/self/fd/{handle}"
                _strip_attributes(proc)
                self._change(proc, 0o555 if status.st_mode & stat.S_IXUSR else 0o444, status)
        finally:
            for handle, _ in waiting:
                os.close(handle)


def _strip_attributes(file: int | str) -> None:
    try:
        names = os.listxattr(file)
    except OSError as error:
        if error.errno in _NOT_SUPPORTED:
            return
        raise
    for name in names:
        if name not in IGNORED_ATTRIBUTES:
            _remove_attribute(file, name)


def _remove_attribute(file: int | str, name: str) -> None:
    try:
        os.removexattr(file, name)
    except PermissionError:  # who is not root must be allowed to write a file to take attributes off it
        mode = stat.S_IMODE(os.stat(file).st_mode)
        os.chmod(file, mode | stat.S_IWUSR)
        try:
            os.removexattr(file, name)
        finally:
            os.chmod(file, mode)


def inherits_attributes(store_dir: str) -> bool:
    """Whether new files in a store get access lists of their own from its directory."""
    try:
        return "system.posix_acl_default" in os.listxattr(store_dir)
    except OSError:
        return False


def remove(real_path: str) -> bool:
    """Remove a store path's files, or what is left of them; whether there were any."""
    parent, name = os.path.split(real_path)
    parent_fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return fs.remove_tree(name, parent_fd)
    finally:
        os.close(parent_fd)
