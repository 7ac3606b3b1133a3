"""The agent's code kept on a host: the archive by its SHA-256, and what this Python compiled of it (see bootstrap.py).

Unless it is there, compiling takes longer than all the rest of a probe. A file is made whole or not at all; it need not
be durable, since its hash is checked before it is used.
"""

from __future__ import annotations

import _sre  # type: ignore[import-not-found]  # in no stubs
import hashlib
import io
import marshal
import os
import sys
import zipfile
from typing import Any

from reconciler.core import fs
from reconciler.core.agent.start import ENGINE, PATTERNS, engine

# Archives kept besides the newest one: those of a colleague's older program, and of the one before an upgrade.
_OLD_ONES = 3

# What a probe imports, so that its patterns can be compiled beforehand.
_PROBE = (
    "reconciler.core.agent.observe",
    "reconciler.core.profile.environment",
    "reconciler.core.profile.manifest",
    "reconciler.core.store.store",
)


def keep(directory: str, sha256: str, archive: bytes | None) -> None:
    """Keep the archive and its compiled form, and forget all but a few older ones."""
    fs.ensure_directory(directory, 0o755)
    packed = os.path.join(directory, sha256 + ".zip")
    compiled = os.path.join(directory, f"{sha256}.{sys.implementation.cache_tag}")
    if archive is None:
        return  # it ran from the compiled form: both are there
    if not _is(packed, sha256):
        fs.replace_file(packed, archive, 0o644, durable=False)
    fs.replace_file(compiled, compile_archive(archive), 0o644, durable=False)
    _prune(directory, sha256)


def compile_archive(archive: bytes) -> bytes:
    """The compiled file of an archive, for the Python that runs this (its form: start.py)."""
    blobs: dict[str, tuple[bool, bytes]] = {PATTERNS: (False, marshal.dumps(compile_patterns(_patterns()), 2))}
    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        for member in sorted(members.namelist()):
            name, package = _module(member)
            code = compile(members.read(member), "<agent>/" + member, "exec", dont_inherit=True, optimize=0)
            blobs[name] = (package, marshal.dumps(code))
    index = {}
    offset = 0
    for name, (package, blob) in blobs.items():
        index[name] = (package, offset, len(blob), _hash(blob))
        offset += len(blob)
    head = _dump(index, 36 + len(_dump(index, 0)))
    parts = [_hash(head), len(head).to_bytes(4, "big"), head, *(blob for _, blob in blobs.values())]
    return b"".join(parts)


def _hash(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32).digest()


def _patterns() -> list[tuple[str, int]]:
    """The patterns of the modules that a probe loads."""
    from reconciler.core.agent import lean

    for name in _PROBE:
        __import__(name)
    found: list[tuple[str, int]] = lean.seen_patterns
    return found


def compile_patterns(patterns: list[tuple[str, int]]) -> dict[tuple[str, int], Any]:
    """What re passes to the matching engine for each: with it, an engine of the same version needs no re."""
    recorder = _Recorder()
    compiler: Any = __import__("re._compiler" if sys.version_info >= (3, 11) else "sre_compile", fromlist=["compile"])
    real: Any = compiler._sre
    compiler._sre = recorder
    try:
        found = {}
        for pattern, flags in patterns:
            compiler.compile(pattern, flags)
            found[pattern, flags] = recorder.arguments
        return found
    finally:
        compiler._sre = real


class _Recorder:
    """Stands before the engine and keeps what it is given."""

    arguments: tuple[Any, ...] = ()

    def __getattr__(self, name: str) -> Any:
        return getattr(_sre, name)

    def compile(self, *arguments: Any) -> Any:
        pattern, flags, code, groups, names, indices = arguments
        # Plain values: marshal knows no subclass of int, which the compiler's opcodes and flags are.
        self.arguments = (pattern, int(flags), [int(one) for one in code], groups, dict(names), tuple(indices))
        return _sre.compile(*arguments)


def _dump(index: dict[str, tuple[bool, int, int, bytes]], start: int) -> bytes:
    # Offsets have one width in marshal whatever their value, so that moving them does not change the index's size.
    moved: dict[str, Any] = {
        name: (package, start + offset, size, digest) for name, (package, offset, size, digest) in index.items()
    }
    moved[ENGINE] = engine()  # type: ignore[no-untyped-call]
    return marshal.dumps(moved, 2)


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
