"""What a build left behind: is it fit for the store, what does it refer to, what is its hash?

All processes of the build are gone by now. Nothing of what they wrote is kept as it is: the store makes files of its
own from the archive, checked against the hash found here, so that no descriptor, hard link, mode bit or owner of the
build reaches it. What could only have been meant to survive that is refused: setuid and setgid files, files that
are linked from outside the output, files of another owner, devices, sockets and pipes.
"""

from __future__ import annotations

import collections
import hashlib
import os
import stat
from collections.abc import Iterable, Mapping

from reconciler.core import fs
from reconciler.core.build.references import Scanner
from reconciler.core.errors import BuildError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.path_info import PathInfo
from reconciler.core.values import replace, value

_MAX_DEPTH = 64


@value
class BuiltOutput:
    """An output that may go into the store: what to register, and where it lies now, or its archive."""

    info: PathInfo
    real: str
    archive: bytes = b""

    def chunks(self) -> Iterable[bytes]:
        """Its archive."""
        return (self.archive,) if self.archive else nar.dump(self.real)


def in_memory(path: StorePath, drv_path: StorePath, tree: nar.Node, inputs: Iterable[StorePath]) -> BuiltOutput:
    """An output that we made ourselves, of one of the builtins, and that no builder could touch."""
    archive = nar.encode(tree)
    info = _describe(path, drv_path, (archive,), {*inputs, path})
    return BuiltOutput(info, "", archive)


def collect(
    derivation: Derivation, drv_path: StorePath, directory: str, inputs: Iterable[StorePath], owner: int
) -> tuple[BuiltOutput, ...]:
    """The outputs that a build left in `directory`; BuildError for the first that is missing or unfit.

    `inputs` is all that the build could see, and so all that it can refer to; `owner` the uid that it ran as.
    """
    paths = derivation.output_paths()
    real = {name: os.path.join(directory, path.base_name) for name, path in paths.items()}
    for name, path in paths.items():
        if not os.path.lexists(real[name]):
            raise BuildError(f"the builder ended well, but did not make the output '{name}' ({path})")
    _require_room(directory, survey(real, owner))
    candidates = {*inputs, *paths.values()}
    fixed = derivation.fixed_output
    return tuple(
        BuiltOutput(_described(path, drv_path, real[name], candidates, fixed), real[name])
        for name, path in sorted(paths.items())
    )


def survey(outputs: Mapping[str, str], owner: int) -> int:
    """Refuse what is unfit, and make everything readable for us; the bytes of all files, holes included. `outputs`:
    physical paths by output name."""
    links: collections.Counter[tuple[int, int]] = collections.Counter()
    counts: dict[tuple[int, int], tuple[int, str]] = {}
    for name, real in outputs.items():
        parent = os.open(os.path.dirname(real), fs.OPEN_DIRECTORY)
        try:
            for status, where in _walk(parent, os.path.basename(real), f"${name}", owner, 0):
                links[status.st_dev, status.st_ino] += 1
                counts[status.st_dev, status.st_ino] = (status.st_nlink, where)
        finally:
            os.close(parent)
    for identity, (count, where) in counts.items():
        if count != links[identity]:
            raise BuildError(f"{where} is a hard link of a file outside the outputs")
    size = 0
    for name, real in outputs.items():
        parent = os.open(os.path.dirname(real), fs.OPEN_DIRECTORY)
        try:
            size += _make_readable(parent, os.path.basename(real), f"${name}")
        finally:
            os.close(parent)
    return size


def _require_room(directory: str, size: int) -> None:
    """An archive has no holes: a sparse file of a petabyte would be read, and written, to its end."""
    system = os.statvfs(directory)
    free = system.f_bavail * system.f_frsize
    if size > free:
        raise BuildError(
            f"the outputs hold {size} bytes, and {free} are free where they lie",
            "holes of sparse files count: an archive has none",
        )


def _walk(parent: int, name: str, where: str, owner: int, depth: int) -> list[tuple[os.stat_result, str]]:
    """Check one node and all below it; the regular files with more than one link."""
    status = os.lstat(name, dir_fd=parent)
    _check_node(status, where, owner)
    if stat.S_ISREG(status.st_mode):
        return [(status, where)] if status.st_nlink > 1 else []
    if not stat.S_ISDIR(status.st_mode):
        return []
    if depth >= _MAX_DEPTH - 1:
        raise BuildError(f"{where} lies in more than {_MAX_DEPTH - 1} directories, which no archive may hold")
    if status.st_mode & 0o500 != 0o500:
        # Every process that could swap this directory for something else is dead.
        os.chmod(name, stat.S_IMODE(status.st_mode) | 0o500, dir_fd=parent)
    fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=parent)
    try:
        found = []
        for entry in os.listdir(fd):
            found += _walk(fd, entry, f"{where}/{entry}", owner, depth + 1)
        return found
    finally:
        os.close(fd)


def _check_node(status: os.stat_result, where: str, owner: int) -> None:
    mode = status.st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
        raise BuildError(f"{where} is neither a file nor a directory nor a link")
    if status.st_uid != owner:
        raise BuildError(f"{where} belongs to uid {status.st_uid}, not to the build")
    if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
        kind = "setuid" if mode & stat.S_ISUID else "setgid"
        hint = f"take the bit away in the build script: chmod a-s {where}"
        raise BuildError(f"{where} is {kind}, which the store cannot hold", hint)


def _make_readable(parent: int, name: str, where: str) -> int:
    """Give us, the owner or root, the right to read every file; the bytes of all of them. Only after `survey` has seen
    all hard links."""
    status = os.lstat(name, dir_fd=parent)
    if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o400:
        os.chmod(name, stat.S_IMODE(status.st_mode) | 0o400, dir_fd=parent)
    if not stat.S_ISDIR(status.st_mode):
        return status.st_size
    fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=parent)
    try:
        return sum(_make_readable(fd, entry, where) for entry in os.listdir(fd))
    finally:
        os.close(fd)


# --- hashes and references --------------------------------------------------------------------------------------------


def _described(
    path: StorePath, drv_path: StorePath, real: str, candidates: Iterable[StorePath], fixed: Output | None
) -> PathInfo:
    info = _describe(path, drv_path, nar.dump(real), candidates)
    if fixed is None:
        return info
    ca = _check_fixed(path, real, fixed)
    if info.references:
        raise BuildError(f"{path} has a fixed hash, and so may not refer to {info.references[0]}")
    return replace(info, ca=ca)


def _describe(
    path: StorePath, drv_path: StorePath, archive: Iterable[bytes], candidates: Iterable[StorePath]
) -> PathInfo:
    scanner = Scanner(candidates)
    digest = hashlib.sha256()
    size = 0
    for chunk in archive:
        digest.update(chunk)
        scanner.feed(chunk)
        size += len(chunk)
    return PathInfo(
        path=path,
        nar_hash=Hash("sha256", digest.digest()),
        nar_size=size,
        references=scanner.found,
        deriver=drv_path,
        ultimate=True,
    )


def _check_fixed(path: StorePath, real: str, fixed: Output) -> str:
    """The `ca` field of a fixed output; BuildError, with both hashes, when its content is not the one wanted."""
    wanted = fixed.content_hash
    if not fixed.recursive:
        status = os.lstat(real)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & stat.S_IXUSR:
            raise BuildError(f"{path} has a flat hash, and so must be a regular file that is not executable")
    found = _content_hash(real, wanted.algorithm, fixed.recursive)
    if found != wanted:
        raise wrong_hash(f"{path}", wanted, found)
    return f"fixed:{'r:' if fixed.recursive else ''}{found.nix}"


def _content_hash(real: str, algorithm: str, recursive: bool) -> Hash:
    state = hashlib.new(algorithm)
    if recursive:
        for chunk in nar.dump(real):
            state.update(chunk)
    else:
        with open(real, "rb") as file:
            for chunk in iter(lambda: file.read(nar.CHUNK), b""):
                state.update(chunk)
    return Hash(algorithm, state.digest())


def wrong_hash(what: str, wanted: Hash, found: Hash) -> BuildError:
    """The error of a content that differs from its pinned hash."""
    return BuildError(
        f"{what} is not what its hash says\n  wanted  {wanted.hex_prefixed}\n  found   {found.hex_prefixed}",
        hint=f"where the new content is right, accept it: write  {found.algorithm}: {found.base16}  in the recipe",
    )
