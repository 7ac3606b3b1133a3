"""Where text goes: data to stdout, everything else to stderr, and nothing that a host says drives the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

# C0 and C1 controls but for tab and newline, and the signs that turn the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """`text` with its control characters spelled out, so that data can neither move the cursor nor hide anything."""
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


class Output:
    """The command's two streams. A reader that went away is no error: a deploy that is piped into `head` is seen
    through, and its exit status is its own."""

    def __init__(self, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.out = out or sys.stdout
        self.err = err or sys.stderr
        self._gone: set[TextIO] = set()

    def data(self, text: str) -> None:
        """What the command was asked for."""
        self._write(self.out, text)

    def note(self, text: str = "") -> None:
        """Everything else."""
        self._write(self.err, text)

    def json(self, value: Any) -> None:
        """One JSON document on stdout."""
        self._write(self.out, json.dumps(value, indent=2, ensure_ascii=False))

    def prompt(self, text: str) -> str:
        """Ask on stderr and read a line from stdin; EOFError at its end. Only `ask` calls this."""
        self.err.write(visible(text))
        self.err.flush()
        _wait_for_line()
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.strip()

    @property
    def interactive(self) -> bool:
        """Whether somebody sits there who can be asked."""
        return is_terminal(sys.stdin) and is_terminal(self.err)

    @property
    def live(self) -> bool:
        """Whether progress may be rewritten in place."""
        return is_terminal(self.err) and os.environ.get("TERM", "dumb") != "dumb"

    def console(self) -> Console:
        """A rich console on stderr, for live progress."""
        from rich.console import Console

        return Console(file=self.err, highlight=False, soft_wrap=True)

    def _write(self, stream: TextIO, text: str) -> None:
        if stream in self._gone:
            return
        text = visible(text)
        if colours(stream):
            from reconciler.cli.render.colour import painted

            text = painted(text)
        try:
            stream.write(text + "\n")
            stream.flush()
        except BrokenPipeError:
            self._gone.add(stream)
            abandon(stream)


def abandon(stream: TextIO) -> None:
    """Nobody reads this stream any more: what is still buffered for it goes nowhere, silently, also at exit."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def colours(stream: TextIO) -> bool:
    """Whether `stream` takes colour: a terminal that is no dumb one, and https://no-color.org."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"


def _wait_for_line() -> None:
    """Until there is something to read, or a signal has been dealt with. One that comes just before a read blocks would
    be noticed after the answer, which nobody types any more who has typed Ctrl-C."""
    try:
        terminal = sys.stdin.fileno()
    except OSError:  # an object that only reads like a file
        return
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    before = signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    try:
        waiting = select.poll()  # unlike select, it takes any descriptor: a large fleet's logins have the low ones
        waiting.register(terminal, select.POLLIN)
        waiting.register(woken, select.POLLIN)
        while terminal not in dict(waiting.poll()):
            os.read(woken, 1)
    finally:
        signal.set_wakeup_fd(before)
        os.close(woken)
        os.close(wake)
