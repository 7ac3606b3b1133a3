"""A terminal that somebody sits at: a command in a pty, what it shows, and what is typed into it."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_PATIENCE = 60.0
# Sequences that move a cursor or colour a word; what they drive is not judged here.
_SEQUENCE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\r")


class Terminal:
    """`with Terminal(argv, environment) as terminal`: type with `send`, wait with `expect`; `shown` is all of it."""

    def __init__(self, argv: Sequence[str], environment: Mapping[str, str], cwd: Path | None = None) -> None:
        self._master, slave = pty.openpty()
        self._text = ""
        self._seen = 0
        self.process = subprocess.Popen(
            # The pty shall be its controlling terminal, from which passwords are read and where Ctrl-C comes from.
            ["setsid", "--ctty", *argv],
            env={"TERM": "xterm", "PYTHONFAULTHANDLER": "1", **environment},
            cwd=cwd,
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    @property
    def shown(self) -> str:
        return _SEQUENCE.sub("", self._text)

    def send(self, text: str) -> None:
        """Type `text` and Enter."""
        os.write(self._master, f"{text}\n".encode())

    def interrupt(self) -> None:
        """Type Ctrl-C."""
        os.write(self._master, b"\x03")

    def expect(self, text: str, seconds: float = _PATIENCE) -> str:
        """Wait until `text` is shown, after what was expected before; what stands up to its end."""
        deadline = time.monotonic() + seconds
        while (place := self.shown.find(text, self._seen)) < 0:
            assert self._read(deadline), f"'{text}' was not shown:\n{self.shown}"
        start, self._seen = self._seen, place + len(text)
        return self.shown[start : self._seen]

    def end(self, status: int = 0, seconds: float = _PATIENCE) -> str:
        """Wait until the command ends, with `status`; all that it showed."""
        deadline = time.monotonic() + seconds
        while self._read(deadline):
            pass
        try:
            found = self.process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise AssertionError(f"did not end:\n{self._where_it_is()}") from None
        assert found == status, f"ended with {found}:\n{self.shown}"
        assert "Traceback" not in self.shown, self.shown
        return self.shown

    def _where_it_is(self) -> str:
        """All that was shown, and with it what every thread is doing."""
        self.process.send_signal(signal.SIGABRT)
        until = time.monotonic() + 5
        while self._read(until):
            pass
        return self.shown

    def _read(self, deadline: float) -> bool:
        """Take what is shown next; False when nothing more comes."""
        ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        with contextlib.suppress(OSError):  # how Linux says that nobody holds the other end any more
            data = os.read(self._master, 65536)
            self._text += data.decode(errors="replace")
            return bool(data)
        return False
