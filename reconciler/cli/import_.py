"""`reconciler import`: what hosts' profiles hold, for an inventory."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import choice_of, choice_options, json_option, login_of, login_options
from reconciler.core.errors import worst


@click.command("import", cls=Command)
@choice_options("The hosts to read.", required=True)
@click.option("--copy", is_flag=True, help="Also copy the packages into this controller's store, to deploy them from.")
@json_option
@login_options
def command(*, as_json: bool, copy: bool, **values: Any) -> int:
    """Print what the profiles of hosts hold, whoever made them, as YAML for the inventory. Changes no host."""
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.main import error_text
    from reconciler.cli.output import Output
    from reconciler.cli.render.imported import imported_json, imported_yaml
    from reconciler.cli.render.words import count
    from reconciler.fleet.importing import holdings

    login, choice = login_of(values), choice_of(values)
    output = Output()
    found = holdings(project_of(login, output), selection_of(choice), login.forks, copy)
    if as_json:
        output.json(imported_json(found))
    else:
        output.data(imported_yaml(found))
    for host in found:
        if host.error is not None:
            output.note(error_text(host.error).rstrip("\n"))
        elif host.copied:
            output.note(f"{host.host}: {count(host.copied, 'store path')} copied into this controller's store")
    if not copy and any(holding.packages for host in found for holding in host.profiles):
        output.note(
            "hint:  a deploy takes store paths from this controller's store: reconciler import --copy brings them"
        )
    return int(worst(host.error.status for host in found if host.error))
