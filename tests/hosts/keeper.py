"""The parent of one fleet's hosts: `python -m tests.hosts.keeper MOUNT`, one command a line, one JSON answer a line.

    start {"name": …}      -> {"pid": …} or {"error": …}
    stop NAME              -> {}

A process of its own since namespaces are made before the first thread. At the end of its input, thus also when pytest
is killed, it ends its hosts; when it is killed itself, the kernel ends them. Nothing can stay behind.

With a directory as MOUNT a tmpfs is mounted there, in this process's mount namespace: the way to it from outside is
/proc/PID/root, and it is gone with the process.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.errors import ReconcilerError
from reconciler.lab import linux, namespaces
from reconciler.lab.disk import furnish
from reconciler.lab.namespaces import Isolation, Started
from tests.hosts.image import HostOrder, root_of, supervise_sshd

_READY_SECONDS = 15.0


@dataclass
class Keeper:
    """The hosts that run."""

    hosts: dict[str, Started] = field(default_factory=dict)

    def start(self, order: HostOrder) -> dict[str, object]:
        root = root_of(order)
        furnish(root)
        _write_port(order)
        started = namespaces.start(root, Isolation.PLAIN, supervise_sshd(), Path(order.log), attached=True)
        self.hosts[order.name] = started
        try:
            started.wait()
            _wait_for_sshd(started.pid, order)
        except (ReconcilerError, TimeoutError) as error:
            self.stop(order.name)
            return {"error": str(error)}
        return {"pid": started.pid}

    def stop(self, name: str) -> dict[str, object]:
        started = self.hosts.pop(name, None)
        if started is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(started.pid, signal.SIGKILL)
            os.waitpid(started.outer, 0)
        return {}


def _write_port(order: HostOrder) -> None:
    """A host that starts again may have been given another port."""
    path = Path(order.disk, "etc/ssh/sshd_config")
    lines = [f"Port {order.port}" if line.startswith("Port ") else line for line in path.read_text().splitlines()]
    path.write_text("\n".join(lines) + "\n")


def _wait_for_sshd(pid: int, order: HostOrder) -> None:
    """sshd writes its number when it listens."""
    deadline = time.monotonic() + _READY_SECONDS
    while not os.path.exists(f"/proc/{pid}/root/run/sshd.pid"):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{order.name}: sshd does not listen: {Path(order.log).read_text()[-1000:]}")
        time.sleep(0.002)


def main() -> int:
    """Obey until the end of the input."""
    linux.unshare(linux.CLONE_NEWNS)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    if len(sys.argv) > 1:
        linux.mount("hosts", sys.argv[1], "tmpfs", linux.MS_NODEV, "mode=755")
    keeper = Keeper()
    for line in sys.stdin:
        verb, _, argument = line.strip().partition(" ")
        try:
            answer = keeper.start(HostOrder.from_json(argument)) if verb == "start" else keeper.stop(argument)
        except OSError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)
    for name in list(keeper.hosts):
        keeper.stop(name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
