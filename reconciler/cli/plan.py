"""`reconciler plan`: what would change; changes nothing."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    adopt_option,
    choice_of,
    choice_options,
    exit_code_option,
    json_option,
    locked_option,
    login_of,
    login_options,
)
from reconciler.core.errors import ExitStatus


@click.command("plan", cls=Command)
@choice_options("The hosts to look at (default: all).")
@click.option("-D", "--diff", is_flag=True, help="Also show the store paths that change.")
@locked_option
@json_option
@exit_code_option
@adopt_option
@login_options
def command(*, as_json: bool, exit_code: bool, diff: bool, adopt: bool, locked: bool, **values: Any) -> int:
    """Show what a deploy would change, grouped over the fleet. Nothing is changed, and nothing is left on a host that
    is not managed yet."""
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.output import Output
    from reconciler.cli.progress import progress
    from reconciler.cli.runs import show_plan
    from reconciler.fleet import deploy

    login, choice = login_of(values), choice_of(values)
    output = Output()
    project = project_of(login, output)
    request = deploy.DeployRequest(selection_of(choice), forks=login.forks, adopt=adopt, locked=locked)
    with progress(output, login.verbose) as observer:
        prepared = deploy.prepare(project, request, observer)
    with prepared:
        show_plan(prepared, choice, output, as_json=as_json, diff=diff)
        return int(prepared.plan.status) if exit_code else int(ExitStatus.OK)
