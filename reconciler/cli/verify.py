"""`reconciler verify`: whether stores are what their databases say."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import json_option, login_of, login_options
from reconciler.cli.upkeep import root_here, store_options, stores_of, watched


@click.command("verify", cls=Command)
@store_options("The hosts to look at.")
@click.option("--links-only", "--shallow", "shallow", is_flag=True, help="Only what is there; read no file.")
@json_option
@login_options
def command(*, shallow: bool, as_json: bool, **values: Any) -> int:
    """Look for what is wrong with stores: files that have changed or are gone, wrong modes and owners, a damaged
    database. Changes nothing. Ends with 0 when there is nothing, with 9 when there is."""
    from reconciler.cli.context import project_of
    from reconciler.cli.output import Output
    from reconciler.cli.render.upkeep import verify_json, verify_text
    from reconciler.fleet import upkeep
    from reconciler.fleet.select import Selection

    login, output = login_of(values), Output()
    stores = stores_of("verify", values)
    if stores.hosts is None:
        with watched(output) as heard:
            found = upkeep.verify_here(root_here(), not shallow, heard)
    else:
        project = project_of(login, output)
        with watched(output) as heard:
            selection = Selection(stores.hosts, stores.limit)
            found = upkeep.verify_hosts(project, selection, not shallow, login.forks, heard)
    status = int(upkeep.verify_status(found))
    if as_json:
        output.json(verify_json(found, status))
    else:
        output.data(verify_text(found, not shallow))
    return status
