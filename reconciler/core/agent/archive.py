"""The agent's code as one file: a zip of core, the same bytes for the same code, named by its SHA-256.

Entries are stored, not deflated: deflate's output differs between zlib versions, and the name must not. What goes over
a slow line is compressed around it (`packed`). Dates, modes and the order of entries are fixed.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
import zlib
from functools import lru_cache

from reconciler.core.values import value

_DATE = (1980, 1, 1, 0, 0, 0)


@value
class Archive:
    """The zip, and its name."""

    contents: bytes
    sha256: str

    @lru_cache(maxsize=1)  # noqa: B019  # there is one archive
    def packed(self) -> bytes:
        """The form that travels (zlib). Made when the first host lacks the archive, and most have it."""
        return zlib.compress(self.contents, 9)


@lru_cache(maxsize=1)
def build() -> Archive:
    """The archive of the core that this process runs; made once a process."""
    import reconciler.core

    core = os.path.dirname(os.path.abspath(reconciler.core.__file__))
    sources = {"reconciler/__init__.py": _read(os.path.join(os.path.dirname(core), "__init__.py"))}
    for directory, names, files in os.walk(core):
        names[:] = sorted(name for name in names if name != "__pycache__")
        for name in files:
            if name.endswith(".py"):
                path = os.path.join(directory, name)
                sources["reconciler/core/" + os.path.relpath(path, core).replace(os.sep, "/")] = _read(path)
    return pack(sources)


def pack(sources: dict[str, bytes]) -> Archive:
    """An archive of these files. `__main__.py` is the agent's start module once more, under the name that starts."""
    start = sources.get("reconciler/core/agent/start.py")
    if start is not None:
        sources = {**sources, "__main__.py": start}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, sources[name])
    contents = buffer.getvalue()
    return Archive(contents, hashlib.sha256(contents).hexdigest())


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
