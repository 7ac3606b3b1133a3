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
from reconciler.core.values import value

_MAX_DEPTH = 64


@value
class BuiltOutput:
    """An output that may go into the store: what to register, and where it lies now."""

    info: PathInfo
    real: str


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
    survey(real, owner)
    candidates = {*inputs, *paths.values()}
    fixed = derivation.fixed_output
    return tuple(
        BuiltOutput(_describe(path, drv_path, real[name], candidates, fixed), real[name])
        for name, path in sorted(paths.items())
    )


def survey(outputs: Mapping[str, str], owner: int) -> None:
    """Refuse what is unfit, and make everything readable for us. `outputs`: physical paths by output name."""
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
    for name, real in outputs.items():
        parent = os.open(os.path.dirname(real), fs.OPEN_DIRECTORY)
        try:
            _make_readable(parent, os.path.basename(real), f"${name}")
        finally:
            os.close(parent)


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


def _make_readable(parent: int, name: str, where: str) -> None:
    """Give us, the owner or root, the right to read every file. Only after `survey` has seen all hard links."""
    status = os.lstat(name, dir_fd=parent)
    if stat.S_ISREG(status.st_mode) and not status.st_mode & 0o400:
        os.chmod(name, stat.S_IMODE(status.st_mode) | 0o400, dir_fd=parent)
    if not stat.S_ISDIR(status.st_mode):
        return
    fd = os.open(name, fs.OPEN_DIRECTORY, dir_fd=parent)
    try:
        for entry in os.listdir(fd):
            _make_readable(fd, entry, where)
    finally:
        os.close(fd)


# --- hashes and references --------------------------------------------------------------------------------------------


def _describe(
    path: StorePath, drv_path: StorePath, real: str, candidates: Iterable[StorePath], fixed: Output | None
) -> PathInfo:
    scanner = Scanner(candidates)
    digest = hashlib.sha256()
    size = 0
    for chunk in nar.dump(real):
        digest.update(chunk)
        scanner.feed(chunk)
        size += len(chunk)
    ca = ""
    if fixed is not None:
        ca = _check_fixed(path, real, fixed)
        if scanner.found:
            raise BuildError(f"{path} has a fixed hash, and so may not refer to {scanner.found[0]}")
    return PathInfo(
        path=path,
        nar_hash=Hash("sha256", digest.digest()),
        nar_size=size,
        references=scanner.found,
        deriver=drv_path,
        ca=ca,
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
