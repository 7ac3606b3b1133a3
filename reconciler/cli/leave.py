"""`reconciler leave`: undo the management of hosts."""

from __future__ import annotations

from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import host_options, json_option, login_of, login_options, yes_option
from reconciler.core.errors import ExitStatus


@click.command("leave", cls=Command)
@host_options("The hosts to leave.")
@click.option("-C", "--check", is_flag=True, help="Show what would go, and do nothing.")
@yes_option
@json_option
@login_options
def command(*, hosts: str, limit: str | None, check: bool, yes: str | None, as_json: bool, **values: Any) -> int:
    """Put hosts back to what they were before their first deployment: profiles, PATH files, our folders, and /nix where
    a deployment made it and nothing else uses it."""
    from reconciler.cli.ask import Consent, Details, ask
    from reconciler.cli.context import project_of
    from reconciler.cli.output import Output
    from reconciler.cli.progress import progress
    from reconciler.cli.render.leaving import leaving_json, leaving_text
    from reconciler.fleet import leaving, logins
    from reconciler.fleet.select import Selection

    login, consent, output = login_of(values), Consent.parse(yes), Output()
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        prepared = leaving.prepare(project, Selection(hosts, limit), login.forks, observer)
    with prepared:
        found = prepared.hosts
        if not check:
            output.note(leaving_text(found))
            details = Details(lambda: leaving_text(prepared.going), lambda: "\n".join(h.host for h in prepared.going))
            if not ask(prepared.question, consent, output, details):
                output.note("Nothing was changed.")
                return int(ExitStatus.OK)
            found = leaving.execute(prepared)
    status = logins.status(found)
    if as_json:
        output.json(leaving_json(found, int(status)))
    else:
        output.data(leaving_text(found))
    if check:
        output.note("Nothing was changed.")
    return int(status)
