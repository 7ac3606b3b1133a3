"""What keeps the paths of a store, as Nix finds it.

    gcroots/, profiles/    searched through real directories: links into the store; links to a link into the store
                           (one step: indirect roots); regular files named as a path of the store is
    /proc                  what a running process has open, mapped, as its program or directory, or in its environment;
                           and the programs that the kernel starts itself
    temproots/             a file a process, `path NUL` each, held locked while the process lives

Without root only the processes of one's own can be read; the others are passed over, as Nix does. /proc shows the
processes of its own PID namespace: what runs in another one from the same store must be kept by other roots.
Links count as they are written, in the store's logical paths (/nix/store). Of processes the physical paths count as
well, where a store lies below another root: Nix would not see those.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix.store_path import STORE_DIR, StorePath

if TYPE_CHECKING:
    from reconciler.core.store.store import Store

# What cannot be read is no root: it has vanished, or is somebody else's.
_UNREADABLE = (errno.EACCES, errno.ENOENT, errno.ENOTDIR)
# A directory deeper than a path can be long has no name that could be read; whoever stands in one must not be able to
# stop every collection.
_UNREADABLE_PROCESS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ESRCH, errno.ENAMETOOLONG)
_KERNEL_PROGRAMS = ("modprobe", "fbsplash", "poweroff_cmd")
# Address, permissions, offset, device, inode, then a file's name without blanks.
_MAPPED = re.compile(rb"^\s*\S+\s+\S+\s+\S+\s+\S+\s+\S+\s+(/\S+)\s*$", re.MULTILINE)
_IN_TEXT = rb"/[0-9a-z]+[0-9a-zA-Z+\-._?=]*"


class Roots:
    """Names of roots, by the base name of the path that each keeps."""

    def __init__(self) -> None:
        self.names: dict[str, set[str]] = {}

    def add(self, base_name: str, name: str) -> None:
        self.names.setdefault(base_name, set()).add(name)

    def update(self, other: Roots) -> None:
        for base_name, names in other.names.items():
            self.names.setdefault(base_name, set()).update(names)


def find_roots(store: Store) -> dict[str, StorePath]:
    """Every root by its name, with the path that it keeps.

    A name is the link itself (of an indirect root, the link outside of gcroots/), `{temp:PID}`, or what of a process
    names the path (`/proc/PID/exe`). One process can keep many paths: all but the first have ` #2`, ` #3`, … behind the
    name. Temporary roots may be of paths that are not valid; all others are of valid ones. Changes nothing.
    """
    valid = {path[len(STORE_DIR) + 1 :] for _, path, *_ in store.graph().paths}
    roots = permanent(store, valid)
    roots.update(of_processes(store, valid))
    roots.update(temporary(store))
    found: dict[str, StorePath] = {}
    for base_name in sorted(roots.names):
        with contextlib.suppress(FormatError):
            path = StorePath.from_base_name(base_name)
            found.update((_free(name, found), path) for name in sorted(roots.names[base_name]))
    return found


def _free(name: str, taken: Container[str]) -> str:
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name} #{number}"
    return free


def _below(path: str, directory: str) -> str | None:
    """The first component of `path` below `directory`; None when it does not lie there."""
    if not path.startswith(f"{directory}/"):
        return None
    return path[len(directory) + 1 :].partition("/")[0]


# --- links ------------------------------------------------------------------------------------------------------------


def permanent(store: Store, valid: Container[str], clean: bool = False) -> Roots:
    """The roots below gcroots/ and profiles/. With `clean`, dangling links in gcroots/auto are removed."""
    roots = Roots()
    auto = os.path.join(store.state_dir, "gcroots/auto") if clean else None
    todo = [os.path.join(store.state_dir, name) for name in ("profiles", "gcroots")]
    while todo:
        path = todo.pop()
        try:
            with os.scandir(path) as entries:
                for entry in list(entries):
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    elif entry.is_symlink():
                        _link(entry.path, valid, auto, roots)
                    elif entry.is_file(follow_symlinks=False) and entry.name in valid:
                        roots.add(entry.name, entry.path)
        except OSError as error:
            if error.errno not in _UNREADABLE:
                raise
    return roots


def _link(link: str, valid: Container[str], auto: str | None, roots: Roots) -> None:
    """One link: a root, an indirect root, or none. What it points at is resolved by text, as Nix does."""
    try:
        target = os.readlink(link)
        base_name = _below(target, STORE_DIR)
        if base_name is None:
            link, last = os.path.normpath(os.path.join(os.path.dirname(link), target)), link
            try:
                target = os.readlink(link)
            except (FileNotFoundError, NotADirectoryError):
                if auto is not None and _below(last, auto) is not None:
                    os.unlink(last)
                return
            base_name = _below(target, STORE_DIR)
    except OSError as error:
        if error.errno not in (*_UNREADABLE, errno.EINVAL):  # EINVAL: no link
            raise
        return
    if base_name is not None and base_name in valid:
        roots.add(base_name, link)


# --- processes --------------------------------------------------------------------------------------------------------


def of_processes(store: Store, valid: Container[str]) -> Roots:
    """What the processes that /proc shows, and the kernel, use of the store."""
    roots = Roots()
    directories = {STORE_DIR, store.store_dir}
    pattern = re.compile(b"(?:%s)%s" % (b"|".join(re.escape(os.fsencode(each)) for each in directories), _IN_TEXT))
    for used, name in _used(pattern):
        for directory in directories:
            base_name = _below(used, directory)
            if base_name is not None and base_name in valid:
                roots.add(base_name, name)
    return roots


def _used(pattern: re.Pattern[bytes]) -> Iterator[tuple[str, str]]:
    """File names that are in use somewhere, each with where."""
    with contextlib.suppress(FileNotFoundError):  # a host without /proc
        for number in os.listdir("/proc"):
            if number.isdecimal():
                yield from _used_by(f"/proc/{number}", pattern)
    for program in _KERNEL_PROGRAMS:
        file = f"/proc/sys/kernel/{program}"
        yield _read(file).decode(errors="surrogateescape").strip(), file


def _used_by(process: str, pattern: re.Pattern[bytes]) -> Iterator[tuple[str, str]]:
    links = [f"{process}/exe", f"{process}/cwd"]
    with _readable():
        links += [f"{process}/fd/{number}" for number in os.listdir(f"{process}/fd")]
    for link in links:
        with _readable():
            yield os.readlink(link), link
    for name in _MAPPED.findall(_read(f"{process}/maps")):
        yield os.fsdecode(name), f"{process}/maps"
    for name in pattern.findall(_read(f"{process}/environ")):
        yield os.fsdecode(name), f"{process}/environ"


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _UNREADABLE_PROCESS:
            raise


def _read(file: str) -> bytes:
    with _readable(), open(file, "rb") as opened:
        return opened.read()
    return b""


# --- temporary roots --------------------------------------------------------------------------------------------------


def temporary(store: Store, clean: bool = False) -> Roots:
    """The temporary roots of living processes, of valid paths and others. With `clean`, files whose process has ended
    are removed; gc.lock must then be held exclusively."""
    roots = Roots()
    directory = os.path.join(store.state_dir, "temproots")
    for name in _names(directory):
        with contextlib.suppress(FileNotFoundError):
            contents = _roots_of(os.path.join(directory, name), clean)
            # Ours may be named <pid>.<n>, where several PID namespaces share a store.
            shown = f"{{temp:{name.partition('.')[0]}}}"
            for text in contents.split(b"\0")[:-1]:
                base_name = _below(os.fsdecode(text), STORE_DIR)
                if base_name is not None:
                    roots.add(base_name, shown)
    return roots


def _names(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory) if not name.startswith(".")]
    except FileNotFoundError:
        return []


def _roots_of(file: str, clean: bool) -> bytes:
    """What a file of temporary roots holds; nothing when its process has ended. StoreError when it cannot be asked."""
    try:
        fd = os.open(file, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except PermissionError as error:
        raise StoreError(f"{file}: {error.strerror}", "temporary roots are read by the owner of the store") from None
    with open(fd, "rb+", buffering=0) as opened:
        if not fs.flock(fd, exclusive=True, wait=False):
            return opened.read()
        if clean:
            os.unlink(file)
            # Whoever opened it before and gets the lock after us sees that it counts no more, and begins again.
            opened.write(b"d")
        return b""
