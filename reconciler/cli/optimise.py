"""`reconciler optimise`: store equal files once."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import json_option, login_of, login_options
from reconciler.cli.upkeep import root_here, store_options, stores_of, watched


@click.command("optimise", cls=Command)
@store_options("The hosts whose stores are to become smaller.")
@json_option
@login_options
def command(*, as_json: bool, **values: Any) -> int:
    """Replace equal files in a store by hard links of one, exactly as `nix-store --optimise` does. Contents stay."""
    from reconciler.cli.context import project_of
    from reconciler.cli.output import Output
    from reconciler.cli.render.upkeep import optimise_json, optimise_text
    from reconciler.fleet import logins, upkeep
    from reconciler.fleet.select import Selection

    login, output = login_of(values), Output()
    stores = stores_of("optimise", values)
    if stores.hosts is None:
        with watched(output) as heard:
            found = upkeep.optimise_here(root_here(), heard)
    else:
        project = project_of(login, output)
        with watched(output) as heard:
            found = upkeep.optimise_hosts(project, Selection(stores.hosts, stores.limit), login.forks, heard)
    status = int(logins.status(found))
    if as_json:
        output.json(optimise_json(found, status))
    else:
        output.data(optimise_text(found))
    return status
