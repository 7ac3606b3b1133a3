"""`reconciler doctor`: whether hosts are fit to be deployed to."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import choice_of, choice_options, json_option, login_of, login_options
from reconciler.core.errors import worst


@click.command("doctor", cls=Command)
@choice_options("The hosts to look at (default: all).")
@json_option
@login_options
def command(*, as_json: bool, **values: Any) -> int:
    """Say of each host whether it can be deployed to, and if not, what to do about it. Leaves nothing on the host."""
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.output import Output
    from reconciler.cli.progress import progress
    from reconciler.cli.render.status import doctor_json, doctor_text
    from reconciler.fleet.doctor import doctor

    login, choice = login_of(values), choice_of(values)
    output = Output()
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        found = doctor(project, selection_of(choice), login.forks, observer)
    if as_json:
        output.json(doctor_json(found))
    else:
        output.data(doctor_text(found))
    return int(worst(fitness.status for fitness in found))
