"""`.links`: one name for each file that optimising has stored once, the base-32 sha256 of the file's archive.

An entry that is not what its name says is rotten: the next file with that hash would be replaced by it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import base32, nar
from reconciler.core.nix.hashes import Hash

if TYPE_CHECKING:
    from reconciler.core.store.store import Store

DIRECTORY = ".links"
_NAME = re.compile(f"[{base32.ALPHABET}]{{52}}")


def directory(store: Store) -> str:
    """Where the entries lie."""
    return os.path.join(store.store_dir, DIRECTORY)


def names(store: Store) -> Iterator[str]:
    """The name of every entry, as the directory gives them."""
    try:
        with os.scandir(directory(store)) as entries:
            for entry in entries:
                yield entry.name
    except FileNotFoundError:
        return


def fault(store: Store, name: str) -> str | None:
    """What is wrong with the entry `name`, in words; None when it is right, or not there."""
    path = os.path.join(directory(store), name)
    if _NAME.fullmatch(name) is None:
        return "its name is no hash" if os.path.lexists(path) else None
    if os.path.isdir(path) and not os.path.islink(path):
        return "it is a directory"
    try:
        found = nar.hash_path(path)[0]
    except FileNotFoundError:
        return None
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except (StoreError, FormatError) as error:
        return error.message
    return None if found.base32 == name else f"its hash is {found.base32}"


def of_file(store: Store, nar_hash: Hash) -> str:
    """Where the entry of a file lies whose archive has this hash."""
    return os.path.join(directory(store), nar_hash.base32)
