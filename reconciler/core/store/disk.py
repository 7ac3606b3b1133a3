"""What a disk refuses, told as a store's own error."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from reconciler.core.errors import StoreError

_HINTS = {
    errno.ENOSPC: "the disk is full, or has no inodes left",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is mounted read-only",
}


@contextlib.contextmanager
def errors(where: object) -> Iterator[None]:
    """OSError as StoreError that says where."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{where}: {error.strerror or error}", _HINTS.get(error.errno or 0)) from error
