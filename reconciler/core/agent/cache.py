"""The agent's code kept on a host: the archive by its SHA-256, and what this Python compiled of it (see bootstrap.py).

Unless it is there, compiling takes longer than all the rest of a probe. A file is made whole or not at all; it need not
be durable, since its hash is checked before it is used.
"""

from __future__ import annotations

import hashlib
import io
import marshal
import os
import zipfile
from importlib.util import MAGIC_NUMBER

from reconciler.core import fs

# Archives kept besides the newest one: those of a colleague's older program, and of the one before an upgrade.
_OLD_ONES = 3


def keep(directory: str, sha256: str, archive: bytes | None) -> None:
    """Keep the archive and its compiled form, and forget all but a few older ones."""
    fs.ensure_directory(directory, 0o755)
    packed = os.path.join(directory, sha256 + ".zip")
    compiled = os.path.join(directory, f"{sha256}.{MAGIC_NUMBER.hex()}")
    if archive is None:
        return  # it ran from the compiled form: both are there
    if not _is(packed, sha256):
        fs.replace_file(packed, archive, 0o644, durable=False)
    fs.replace_file(compiled, compile_archive(archive), 0o644, durable=False)
    _prune(directory, sha256)


def compile_archive(archive: bytes) -> bytes:
    """The compiled file of an archive, for the Python that runs this (its form: bootstrap.py)."""
    modules = {}
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        for member in sorted(members.namelist()):
            name, package = _module(member)
            code = compile(members.read(member), "<agent>/" + member, "exec", dont_inherit=True, optimize=0)
            modules[name] = (package, marshal.dumps(code))
    data = marshal.dumps(modules)
    return hashlib.blake2b(data, digest_size=32).digest() + data


def _module(member: str) -> tuple[str, bool]:
    """`a/b.py` -> (a.b, not a package); `a/__init__.py` -> (a, a package)."""
    parts = member[: -len(".py")].split("/")
    package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if package else parts), package


def _is(path: str, sha256: str) -> bool:
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest() == sha256
    except OSError:
        return False


def _prune(directory: str, newest: str) -> None:
    kept = {}
    for name in os.listdir(directory):
        if name.endswith(".zip"):
            kept[name[: -len(".zip")]] = os.stat(os.path.join(directory, name)).st_mtime
    kept.pop(newest, None)
    old = sorted(kept, key=lambda name: kept[name], reverse=True)[:_OLD_ONES]
    for name in os.listdir(directory):
        if not name.startswith(".") and name.partition(".")[0] not in (newest, *old):
            os.unlink(os.path.join(directory, name))
