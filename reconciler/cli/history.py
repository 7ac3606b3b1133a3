"""`reconciler history`: past deployments, from this controller's journal or from the hosts themselves."""

from __future__ import annotations

import time
from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import Number, choice_of, choice_options, json_option, login_of, login_options
from reconciler.core.errors import ExitStatus, UsageError, worst


@click.command("history", cls=Command)
@click.argument("deployment", required=False, metavar="[ID]")
@click.option("--host", "host_name", metavar="HOST", help="The same as --hosts HOST.")
@choice_options("Read the histories that stand on these hosts, instead of this controller's journal.")
@click.option(
    "-n",
    "--limit-to",
    "most",
    type=Number("a number of lines", 10_000),
    default=30,
    metavar="N",
    help="At most N deployments, or lines of each host (default 30).",
)
@json_option
@login_options
def command(*, deployment: str | None, host_name: str | None, most: int, as_json: bool, **values: Any) -> int:
    """List the deployments made from this controller, the newest first; with ID, one of them host by host.

    With --host or --hosts: what the hosts themselves remember, whoever deployed to them.
    """
    from reconciler.cli.output import Output

    login, choice = login_of(values), choice_of(values)
    output = Output()
    hosts = host_name if choice.hosts is None else choice.hosts
    if deployment and hosts is not None:
        raise UsageError("history takes a deployment or hosts, not both", "leave one of them out")
    if hosts is None:
        return _journal(login.inventory, deployment, most, output, as_json)
    from reconciler.cli.context import project_of
    from reconciler.cli.render.past import host_history_json, host_history_text
    from reconciler.fleet.look import history
    from reconciler.fleet.select import Selection

    selection = Selection(hosts, choice.limit, choice.system, choice.users, choice.profiles)
    found = history(project_of(login, output), selection, login.forks, most)
    if as_json:
        output.json(host_history_json(found))
    else:
        output.data(host_history_text(found, time.time()))
    return int(worst(host.error.status for host in found if host.error))


def _journal(inventory: str | None, deployment: str | None, most: int, output: Any, as_json: bool) -> int:
    import os
    from pathlib import Path

    from reconciler.cli.render.past import entry_text, history_json, history_text
    from reconciler.fleet.journal import Journal
    from reconciler.fleet.project import state_directory
    from reconciler.inventory.settings import find_inventory

    # The inventory is not read: its history is there to be looked at also when it has faults.
    where = find_inventory(inventory, os.environ, Path.cwd())
    journal = Journal(state_directory(os.environ), os.path.abspath(where if where.is_dir() else where.parent))
    entries = (journal.find(deployment),) if deployment else journal.entries()[-most:]
    if as_json:
        output.json(history_json(entries))
    elif deployment:
        output.data(entry_text(entries[0], time.time()))
    else:
        output.data(history_text(entries, time.time()))
    return int(ExitStatus.OK)
