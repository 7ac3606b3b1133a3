"""Peers that are no agents: whatever a program says, spoken to as if it were a host."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from reconciler.inventory.desired import ConnectionSettings
from reconciler.transport.client import AgentClient
from reconciler.transport.connection import ConnectOptions
from reconciler.transport.elevation import Elevation
from reconciler.transport.local import LocalChannel, LocalConnection

SETTINGS = ConnectionSettings("web01", connection="local")

# What every hostile peer starts with: it has the protocol at hand, and no intention to keep to it.
PRELUDE = """
import os, sys, time, json, struct
MAGIC = b"\\0\\0reconciler-agent-1\\0"
def out(data):
    while data: data = data[os.write(1, data):]
def frame(kind, number=0, body=None, payload=b""):
    text = b"" if body is None else json.dumps(body).encode()
    return struct.pack(">BIII", kind, number, len(text), len(payload)) + text + payload
HELLO, REQUEST, REPLY, ERROR, DATA, END, EVENT, HEARTBEAT = range(1, 9)
def hello(): out(MAGIC + b"R" + frame(HELLO, 0, {"protocol": 1, "python": "3.11.0"}))
def asked():
    "The first request's number."
    head = b""
    while True:
        while len(head) < 13: head += os.read(0, 13 - len(head))
        kind, number, size, _ = struct.unpack(">BIII", head)
        body = b""
        while len(body) < size: body += os.read(0, size - len(body))
        if kind == REQUEST: return number
        head = b""
"""

STARTED: list[LocalChannel] = []


def end_all() -> None:
    """Kill every peer: most of them would sleep on."""
    while STARTED:
        channel = STARTED.pop()
        channel.kill()
        channel.close()


class Peer(LocalConnection):
    """Starts one program, whatever it is asked to start. `asked` are the command lines it was asked for."""

    def __init__(self, program: str, elevation: Elevation | None = None) -> None:
        super().__init__(SETTINGS, ConnectOptions())
        self.description = "ssh root@web01"
        self._program = program
        self._elevation = elevation
        self.asked: list[Sequence[str]] = []

    def start(self, argv: Sequence[str], as_root: bool) -> LocalChannel:
        self.asked.append(argv)
        channel = LocalChannel([sys.executable, "-c", PRELUDE + self._program], self._elevation)
        self._channels.append(channel)
        STARTED.append(channel)
        return channel


def start(program: str, elevation: Elevation | None = None, seconds: float = 20) -> AgentClient:
    """A client of such a peer."""
    return AgentClient.start(Peer(program, elevation), SETTINGS, seconds=seconds)
