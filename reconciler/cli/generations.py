"""`reconciler generations`: the generations of hosts' profiles."""

from __future__ import annotations

import time
from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import choice_of, choice_options, json_option, login_of, login_options
from reconciler.core.errors import worst


@click.command("generations", cls=Command)
@choice_options("The hosts to look at (default: all).")
@json_option
@login_options
def command(*, as_json: bool, **values: Any) -> int:
    """List the generations of each profile, the newest first, as the hosts have them."""
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.output import Output
    from reconciler.cli.render.past import generations_json, generations_text
    from reconciler.fleet.look import generations

    login, choice = login_of(values), choice_of(values)
    output = Output()
    found = generations(project_of(login, output), selection_of(choice), login.forks)
    if as_json:
        output.json(generations_json(found))
    else:
        output.data(generations_text(found, time.time()))
    return int(worst(host.error.status for host in found if host.error))
