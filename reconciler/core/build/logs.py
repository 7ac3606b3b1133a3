"""Build logs, where Nix keeps them: /nix/var/log/nix/drvs/<first 2 characters>/<rest>.drv.bz2 of the .drv's name.

Where Python lacks bz2, the log is kept as it is, without `.bz2`: Nix reads both.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
from types import TracebackType
from typing import Any, Callable

from reconciler.core.build.events import LOG_LINES_IN_ERROR
from reconciler.core.fs import ensure_directory
from reconciler.core.nix.store_path import StorePath

MAX_LINE = 4096
_MODE = 0o755
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def log_path(state_dir: str, derivation: StorePath) -> str:
    """Where the log of a derivation lies, physically; `state_dir` is the store's /nix/var/nix."""
    base = derivation.base_name
    return os.path.join(os.path.dirname(state_dir), "log", "nix", "drvs", base[:2], base[2:] + ".bz2")


def read_log(state_dir: str, derivation: StorePath) -> str:
    """The kept log; empty when none is."""
    path = log_path(state_dir, derivation)
    for name, compressed in ((path, True), (path[: -len(".bz2")], False)):
        with contextlib.suppress(FileNotFoundError), open(name, "rb") as file:
            data = file.read()
            if compressed:
                import bz2

                data = _decompress(bz2.BZ2Decompressor(), data)
            return data.decode(errors="replace")
    return ""


def _decompress(decompressor: Any, data: bytes) -> bytes:
    """Also what an interrupted build left: everything up to where the file ends or breaks."""
    with contextlib.suppress(OSError, EOFError):
        return bytes(decompressor.decompress(data))
    return b""


def printable(line: bytes) -> str:
    """One line for a terminal: whatever could move a cursor is replaced, and it ends somewhere."""
    text = line[:MAX_LINE].decode(errors="replace").rstrip("\r\n")
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def _make_directory(path: str) -> None:
    """Most logs are the first of their directory, which need be no more durable than they are themselves."""
    if not os.path.isdir(path):
        ensure_directory(os.path.dirname(path))
        with contextlib.suppress(FileExistsError):
            os.mkdir(path)
            os.chmod(path, _MODE)


class BuildLog:
    """The log of one build while it is written. `on_line` is told of each line, made printable."""

    def __init__(self, path: str, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._tail: collections.deque[str] = collections.deque(maxlen=LOG_LINES_IN_ERROR)
        self._partial = b""
        _make_directory(os.path.dirname(path))
        self._compressor: Any = None
        try:
            import bz2
        except ImportError:
            path = path[: -len(".bz2")]
        else:
            self._compressor = bz2.BZ2Compressor()
        self.path = path
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> None:
        """Take some of the build's output."""
        self._keep(data if self._compressor is None else self._compressor.compress(data))
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            self._line(line)
        if len(self._partial) > MAX_LINE:
            self._line(self._partial)
            self._partial = b""

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self._tail)

    @property
    def show_command(self) -> str:
        """What an operator types to see it all."""
        return f"{'cat' if self._compressor is None else 'bzcat'} {self.path}"

    def _line(self, line: bytes) -> None:
        text = printable(line)
        self._tail.append(text)
        self._on_line(text)

    def _keep(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]

    def flush(self) -> None:
        """Count what was printed without a newline at its end as a line."""
        if self._partial:
            self._line(self._partial)
            self._partial = b""

    def close(self) -> None:
        self.flush()
        if self._compressor is not None:
            self._keep(self._compressor.flush())
        os.close(self._fd)

    def __enter__(self) -> BuildLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
