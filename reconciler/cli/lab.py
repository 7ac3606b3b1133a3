"""`reconciler lab`: throw-away hosts on this machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import inventory_option, json_option
from reconciler.cli.output import Output
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean

if TYPE_CHECKING:
    from reconciler.inventory.inventory import Inventory
    from reconciler.lab.lab import LabHost

VERBS = ("up", "down", "list", "stop", "start")


@click.command("lab", cls=Command)
@click.argument("verb", metavar="up|down|list|stop|start")
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("-d", "--directory", metavar="DIR", help="Where the lab is kept (default: .lab beside the inventory).")
@json_option
@inventory_option
def command(*, verb: str, hosts: tuple[str, ...], directory: str | None, inventory: str | None, as_json: bool) -> int:
    """Throw-away hosts for trying things out: `up` starts one for each host of the inventory (or those named), `stop`
    and `start` switch hosts off and on again, `down` ends the lab and leaves nothing behind.

    A lab host has this machine's programs and a disk of its own. Its SSH server is not OpenSSH and it has no systemd:
    the lab is for trying and for quick tests, and proves nothing about a real host.
    """
    output = Output()
    if verb not in VERBS:
        raise UsageError(f"lab {verb}: not one of {', '.join(VERBS)}", did_you_mean(verb, VERBS) or "lab --help")
    if verb in ("stop", "start") and not hosts:
        raise UsageError(f"lab {verb} needs HOST", "reconciler lab list")
    if verb in ("down", "list") and hosts:
        raise UsageError(f"lab {verb} takes no hosts", f"lab stop {' '.join(hosts)} switches them off")
    listed = _VERBS[verb](Asked(hosts, directory, inventory, output))
    if as_json:
        output.json({"format": 1, "hosts": [_json(host) for host in listed]})
    elif verb == "list":
        output.data(lab_text(listed))
    return int(ExitStatus.OK)


@dataclass(frozen=True)
class Asked:
    """What the command line says of the lab."""

    hosts: tuple[str, ...]
    directory: str | None
    inventory: str | None
    output: Output

    def find_inventory(self) -> Path:
        from reconciler.inventory.settings import find_inventory

        return find_inventory(self.inventory, os.environ, Path.cwd())

    @property
    def place(self) -> Path:
        """Where the lab is; the inventory need not be free of faults to end a lab."""
        if self.directory:
            return Path(self.directory)
        where = self.find_inventory()
        return (where if where.is_dir() else where.parent) / ".lab"


def _up(asked: Asked) -> tuple[LabHost, ...]:
    from reconciler.inventory.inventory import load
    from reconciler.lab import lab

    loaded = load(asked.find_inventory())
    for name in asked.hosts:
        if name not in loaded.hosts:
            near = did_you_mean(name, loaded.hosts)
            raise UsageError(f"the inventory has no host '{name}'", near or "reconciler inventory lists them")
    made = lab.up(asked.hosts or tuple(loaded.hosts), asked.place, users=_users(loaded))
    for note in made.notes:
        asked.output.note(f"note: {note}")
    running = [host.name for host in made.hosts if host.running]
    asked.output.note(f"{len(made.started)} started, {len(running)} running: {' '.join(running)}")
    if running:
        asked.output.note(f"next   ssh -F {os.path.relpath(made.ssh_config)} {running[0]}")
    return made.hosts


def _users(inventory: Inventory) -> tuple[str, ...]:
    """The users that the desired states and the logins name."""
    found: dict[str, None] = {}
    for host in inventory.hosts:
        found |= dict.fromkeys(inventory.desired(host).users)
        login = inventory.connection(host).user
        found |= {login: None} if login else {}
    return tuple(name for name in found if name != "root")


def _down(asked: Asked) -> tuple[LabHost, ...]:
    from reconciler.lab import lab

    names = lab.down(asked.place)
    asked.output.note(f"the lab is gone: {' '.join(names)}" if names else "there was no lab")
    return ()


def _list(asked: Asked) -> tuple[LabHost, ...]:
    from reconciler.lab import lab

    return lab.hosts(asked.place)


def _stop(asked: Asked) -> tuple[LabHost, ...]:
    from reconciler.lab import lab

    stopped = lab.stop(asked.hosts, asked.place)
    asked.output.note(f"switched off: {' '.join(asked.hosts)}")
    return stopped.hosts


def _start(asked: Asked) -> tuple[LabHost, ...]:
    from reconciler.lab import lab

    started = lab.start(asked.hosts, asked.place)
    asked.output.note(f"switched on: {' '.join(asked.hosts)}")
    return started.hosts


_VERBS = {"up": _up, "down": _down, "list": _list, "stop": _stop, "start": _start}


def lab_text(hosts: tuple[LabHost, ...]) -> str:
    """A line for each host of the lab."""
    from reconciler.cli.render.words import columns

    if not hosts:
        return "no lab hosts; reconciler lab up starts them"
    rows = [(h.name, "running" if h.running else "stopped", f"port {h.port}", str(h.disk)) for h in hosts]
    return "\n".join(columns([("host", "state", "ssh", "disk"), *rows]))


def _json(host: LabHost) -> dict[str, Any]:
    return {"host": host.name, "running": host.running, "port": host.port, "pid": host.pid, "disk": str(host.disk)}
