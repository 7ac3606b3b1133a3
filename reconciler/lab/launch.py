"""Starts hosts: `python -m reconciler.lab.launch`, one JSON object on stdin, one line of JSON a host on stdout.

A process of its own, with one thread, since namespaces are made before the first thread; and so that what hosts share
with their parent is this module, not a whole command line.
"""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from reconciler.core.errors import ReconcilerError
from reconciler.lab import namespaces, state
from reconciler.lab.disk import add_accounts, furnish
from reconciler.lab.namespaces import Isolation, Started
from reconciler.lab.root import Account, Root
from reconciler.lab.server import HostServer, load_key, parse_public_key


@dataclass(frozen=True)
class HostOrder:
    """A host to start. `port` is the one it had before, or 0."""

    name: str
    directory: str
    port: int


@dataclass(frozen=True)
class Order:
    """What `lab` writes to our stdin: `hosts` are to be started, `running` ones only get the accounts they lack."""

    isolation: str
    authorized: str
    users: list[str]
    programs: list[str]
    python: str | None
    hosts: list[HostOrder]
    running: list[HostOrder]

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @staticmethod
    def from_json(data: bytes) -> Order:
        content = json.loads(data)
        for key in ("hosts", "running"):
            content[key] = [HostOrder(**host) for host in content[key]]
        return Order(**content)


@dataclass(frozen=True)
class Answer:
    """What became of one host; `error` is empty when it runs. Its state is on disk already."""

    name: str
    notes: tuple[str, ...] = ()
    error: str = ""


def accounts(users: list[str], isolation: Isolation) -> tuple[Account, ...]:
    """root, then each user: with an id of its own, or where only one id exists, as a name of that one."""
    own = [Account("root", 0, 0, "/root")]
    for number, user in enumerate(name for name in users if name != "root"):
        uid = 0 if isolation.has_one_id else 1000 + number
        own.append(Account(user, uid, uid, f"/home/{user}"))
    if not isolation.has_one_id:
        own.append(Account("nobody", 65534, 65534, "/nonexistent", "/usr/sbin/nologin"))
    return tuple(own)


def root_of(order: Order, host: HostOrder) -> Root:
    isolation = Isolation(order.isolation)
    return Root(
        name=host.name,
        disk=Path(host.directory, "disk"),
        accounts=accounts(order.users, isolation),
        programs=tuple(map(Path, order.programs)),
        python=Path(order.python) if order.python else None,
        shift=isolation.shift,
    )


def main() -> int:
    """Start every host of the order, side by side, and tell about each."""
    order = Order.from_json(sys.stdin.buffer.read())
    under_way = [(host, _start(order, host)) for host in order.hosts]
    answers = [_answer(host, started) for host, started in under_way]
    for answer in [*answers, *(_more_accounts(order, host) for host in order.running)]:
        print(json.dumps(asdict(answer)), flush=True)
    return 0


def _more_accounts(order: Order, host: HostOrder) -> Answer:
    try:
        added = add_accounts(root_of(order, host))
    except OSError as error:
        return Answer(host.name, error=str(error))
    return Answer(host.name, (f"{host.name} has new accounts: {', '.join(added)}",))


def _answer(host: HostOrder, started: Started | OSError) -> Answer:
    if isinstance(started, OSError):
        return Answer(host.name, error=str(started))
    try:
        return Answer(host.name, started.wait())
    except ReconcilerError as error:
        return Answer(host.name, error=error.message)


def _start(order: Order, host: HostOrder) -> Started | OSError:
    try:
        root = root_of(order, host)
        furnish(root)
        with _listen(host.port) as listener:
            serve = _server(order, host, root, listener)
            log = Path(host.directory, "log")
            started = namespaces.start(root, Isolation(order.isolation), serve, log, attached=False)
            _record(order, host, started.pid, listener.getsockname()[1])
            return started
    except OSError as error:
        return error


def _record(order: Order, host: HostOrder, pid: int, port: int) -> None:
    """At once, so that `lab down` finds the host also when nobody waits for our answer any more."""
    ticks = state.start_ticks(pid) if pid else None
    if ticks is not None:
        running = state.HostState(pid, ticks, state.boot_id(), port, order.isolation)
        state.write_host(Path(host.directory), running)


def _listen(port: int) -> socket.socket:
    """On the port that the host had before, when it is free."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError:
        listener.bind(("127.0.0.1", 0))
    listener.listen(128)
    return listener


def _server(order: Order, host: HostOrder, root: Root, listener: socket.socket) -> Callable[[], int]:
    """What the host's server process runs; everything of the machine that it needs is read now."""
    directory = Path(host.directory)
    return HostServer(
        listener=listener,
        host_key=load_key((directory / "host_key").read_text()),
        authorized=parse_public_key(order.authorized),
        path=root.path,
    ).serve


if __name__ == "__main__":
    sys.exit(main())
