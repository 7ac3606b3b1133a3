"""`reconciler inventory`: hosts, groups and the merged desired state."""

from __future__ import annotations

import os
from pathlib import Path

import click

from reconciler.cli.app import Command
from reconciler.cli.options import inventory_option, json_option
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean


@click.command("inventory", cls=Command)
@click.option("--hosts", default="all", metavar="PATTERN", help="Only these hosts (default: all).")
@click.option("--host", "host_name", metavar="HOST", help="All that is known of one host.")
@json_option
@inventory_option
def command(*, hosts: str, host_name: str | None, inventory: str | None, as_json: bool) -> int:
    """Show hosts, groups, and what is desired of each host, merged. Talks to no host.

    --json is what `ansible-inventory --list` prints, with each host's `desired` as it is merged; with --host, what
    `ansible-inventory --host` prints.
    """
    from reconciler.cli.output import Output
    from reconciler.cli.render.inventory import host_json, host_text, list_json, list_text
    from reconciler.inventory.inventory import load
    from reconciler.inventory.settings import find_inventory

    output = Output()
    loaded = load(find_inventory(inventory, os.environ, Path.cwd()))
    if host_name is not None:
        if host_name not in loaded.hosts:
            near = did_you_mean(host_name, loaded.hosts)
            raise UsageError(f"the inventory has no host '{host_name}'", near or "reconciler inventory")
        if as_json:
            output.json(host_json(loaded, host_name))
        else:
            output.data(host_text(loaded, host_name))
        return int(ExitStatus.OK)
    chosen = loaded.select(hosts)
    if as_json:
        output.json(list_json(loaded, chosen))
    else:
        output.data(list_text(loaded, chosen))
    return int(ExitStatus.OK)
