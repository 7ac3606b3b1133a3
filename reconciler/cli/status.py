"""`reconciler status`: what hosts hold and run, beside what is wanted."""

from __future__ import annotations

import time
from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import choice_of, choice_options, exit_code_option, json_option, login_of, login_options
from reconciler.core.errors import ExitStatus


@click.command("status", cls=Command)
@choice_options("The hosts to look at (default: all).")
@json_option
@exit_code_option
@login_options
def command(*, as_json: bool, exit_code: bool, **values: Any) -> int:
    """Show desired, profile and running side by side, and what was changed from outside. Changes nothing."""
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.output import Output
    from reconciler.cli.progress import progress
    from reconciler.cli.render.status import status_json, status_text
    from reconciler.cli.runs import inventory_name, revision_of
    from reconciler.fleet.status import status

    login, choice = login_of(values), choice_of(values)
    output = Output()
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        report = status(project, selection_of(choice), login.forks, observer)
    name, revision = inventory_name(project), revision_of(project)
    if as_json:
        output.json(status_json(report, name, revision))
    else:
        output.data(status_text(report, name, revision, time.time(), exit_code))
    return int(report.status) if exit_code else int(ExitStatus.OK)
