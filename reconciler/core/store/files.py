"""The files of a path, read as they lie in a store, whoever keeps its database."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath

MAX_DERIVATION = 64 * 1024 * 1024  # bytes of a .drv file; those of nixpkgs have a few thousand


def archive(real: str, path: StorePath) -> Iterator[bytes]:
    """The archive of `path`, which lies at `real`, in chunks of at most 256 KiB; StoreError when it cannot be read."""
    try:
        yield from nar.dump(real)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}") from error


def derivation(file: str, path: StorePath) -> Derivation:
    """The derivation `path`, which lies at `file`; StoreError or FormatError when that is not it.

    The path of a derivation is a hash of its text, so no registration need vouch for what was read."""
    if not path.is_derivation:
        raise StoreError(f"{path} is not a derivation")
    try:
        drv = Derivation.parse(_contents(file, path))
    except FormatError as error:
        raise FormatError(f"{path}: {error.message}", error.hint) from error
    if drv.path(name_of(path)) != path:
        raise StoreError(f"{path}: its text has been changed")
    return drv


def _contents(file: str, path: StorePath) -> bytes:
    try:
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(fd, "rb") as opened:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise StoreError(f"{path}: a derivation is a file, and it is none")
            if (size := status.st_size) > MAX_DERIVATION:
                raise StoreError(f"{path}: a derivation of {size} bytes; {MAX_DERIVATION} are read at most")
            return opened.read(size + 1)  # what is asked for is allocated, however little there is
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror}") from error


def name_of(path: StorePath) -> str:
    """The name of what a derivation makes."""
    return path.name[: -len(".drv")]
