"""From a started program to an agent that says HELLO: noise, sudo's prompt, an old Python, the archive, then frames."""

from __future__ import annotations

import re
import time

from reconciler.core.agent.archive import Archive
from reconciler.core.agent.frames import MAGIC, MAX_NOISE, PROTOCOL, Frame, FrameDecoder, Kind
from reconciler.core.errors import FormatError, LinkLostError, ReconcilerError
from reconciler.transport.connection import Channel, Stream
from reconciler.transport.errors import NotFit, PythonError
from reconciler.transport.text import Tail, printable

NEEDED_PYTHON = "3.9"


class Handshake:
    """Brings one channel to its first frame. `run` once; then `decoder` and `frames` go on where it stopped."""

    def __init__(self, channel: Channel, archive: Archive, python: str, description: str, seconds: float) -> None:
        self._channel = channel
        self._archive = archive
        self._python = python
        self._description = description
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._noise = bytearray()
        self.stderr = Tail()
        self.decoder = FrameDecoder()
        self.frames: list[Frame] = []

    def run(self) -> Frame:
        """The agent's HELLO. NotFit, or a subclass, when the host cannot run it; LinkLostError when it fell silent."""
        state, rest = self._find_magic()
        if state == b"V":
            raise self._too_old(rest)
        if state == b"S":
            packed = self._archive.packed()
            self._write(len(packed).to_bytes(4, "big") + packed)
        elif state != b"R":
            raise FormatError(f"{self._description}: the agent began with {state!r}")
        self.frames += self.decoder.feed(rest)
        while not self.frames:
            self.frames += self.decoder.feed(self._read_out())
        hello = self.frames.pop(0)
        if hello.kind is not Kind.HELLO or hello.body.get("protocol") != PROTOCOL:
            raise FormatError(f"{self._description}: the agent did not say hello")
        return hello

    def _find_magic(self) -> tuple[bytes, bytes]:
        while True:
            place = self._noise.find(MAGIC)
            if place >= 0 and len(self._noise) > place + len(MAGIC):
                after = place + len(MAGIC)
                return bytes(self._noise[after : after + 1]), bytes(self._noise[after + 1 :])
            if len(self._noise) > MAX_NOISE:
                raise NotFit(
                    f"the login shell printed {MAX_NOISE // 1024} KiB and no agent started",
                    "let its start-up files print nothing when they are not interactive",
                )
            self._noise += self._read_out()

    def _read_out(self) -> bytes:
        """The next piece of stdout. sudo is answered on the way."""
        while True:
            item = self._channel.read(self._left())
            if item is None:
                raise LinkLostError(f"{self._description}: the agent did not start within {self._seconds:.0f} s")
            stream, data = item
            if stream is Stream.OUT:
                return data
            if stream is Stream.END:
                raise self._ended()
            self.stderr.add(data)
            answer = self._channel.elevation.answer(self.stderr.text) if self._channel.elevation else None
            if answer is not None:
                self._write(answer)

    def _write(self, data: bytes) -> None:
        try:
            self._channel.write(data, self._left())
        except LinkLostError:
            self._left()  # nobody took it in time
            raise

    def _left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise LinkLostError(f"{self._description}: the agent did not start within {self._seconds:.0f} s")
        return left

    def _not_found(self, stderr: str) -> bool:
        """csh and sudo end with 1 where other shells say 127."""
        name = re.escape(self._python)
        return bool(re.search(rf"{name}\W*:? .*([Nn]o such file|not found)|[Uu]nknown command:? \W?{name}", stderr))

    def _too_old(self, rest: bytes) -> PythonError:
        text = bytearray(rest)
        while len(text) < MAX_NOISE:
            item = self._channel.read(self._left())
            if item is None or item[0] is Stream.END:
                break
            if item[0] is Stream.OUT:
                text += item[1]
        version, _, release = text.decode(errors="replace").partition("\n")
        return too_old(printable(version)[:40], release)

    def _ended(self) -> ReconcilerError:
        """Why it ended before it began."""
        stderr = self.stderr.text
        elevation = self._channel.elevation
        if elevation is not None:
            explained = elevation.explain(stderr)
            if explained is not None:
                return explained
            self.stderr = Tail()
            self.stderr.add(elevation.visible(stderr).encode())
        status = self._channel.exit_status(2.0)
        if status is None:
            return LinkLostError(f"{self._description}: the connection broke before the agent started")
        if re.search(r"[Uu]nknown option:? -I", stderr):
            return too_old("2 or 3.3", "")
        if status == 127 or self._not_found(stderr):
            return PythonError(
                f"there is no {self._python}: needs Python {NEEDED_PYTHON}",
                f"install it, or name one: ansible_python_interpreter: /usr/bin/python{NEEDED_PYTHON}",
            )
        said = self.stderr.last_lines() or _last_lines(self._noise)
        return NotFit(
            f"the agent did not start (exit status {status}): {said or 'nothing was printed'}",
            "ssh to the host and try: python3 -I -S -c pass",
        )


def _last_lines(noise: bytes | bytearray) -> str:
    tail = Tail()
    tail.add(bytes(noise))
    return tail.last_lines()


def too_old(version: str, release: str) -> PythonError:
    """`Python 3.6 (RHEL 8): needs 3.9`, and what to do about it there."""
    fields: dict[str, str] = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release, re.MULTILINE))
    family = {"rhel", "centos", "rocky", "almalinux", "ol"} & {fields.get("ID", ""), *fields.get("ID_LIKE", "").split()}
    short = ".".join(version.split(".")[:2])
    system = ""
    if fields.get("ID"):
        name = "RHEL" if fields["ID"] == "rhel" else fields.get("NAME", fields["ID"])
        system = f" ({printable(name)[:40]} {printable(fields.get('VERSION_ID', ''))[:20].partition('.')[0]})".replace(
            " )", ")"
        )
    install = "dnf install python39" if family else "install a newer Python"
    return PythonError(
        f"Python {short}{system}: needs {NEEDED_PYTHON}",
        f"{install}; ansible_python_interpreter: /usr/bin/python{NEEDED_PYTHON}",
    )
