"""`reconciler doctor`: whether hosts are fit to be deployed to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    choice_of,
    choice_options,
    json_option,
    locked_option,
    login_of,
    login_options,
    yes_option,
)
from reconciler.core.errors import UsageError, worst

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.cli.options import Choice, Login
    from reconciler.cli.output import Output
    from reconciler.fleet.doctor import Fitness


@click.command("doctor", cls=Command)
@choice_options("The hosts to look at (default: all).")
@click.option("--bring-python", is_flag=True, help="Copy a Python to hosts that have Nix and none that is fit.")
@yes_option
@locked_option
@json_option
@login_options
def command(*, bring_python: bool, yes: str | None, locked: bool, as_json: bool, **values: Any) -> int:
    """Say of each host whether it can be deployed to, and if not, what to do about it. Leaves nothing on the host, but
    for what --bring-python brings."""
    from reconciler.cli.ask import Consent
    from reconciler.cli.output import Output
    from reconciler.cli.render.status import doctor_json, doctor_text

    login, choice, consent = login_of(values), choice_of(values), Consent.parse(yes)
    output = Output()
    if not bring_python and (locked or yes is not None):
        raise UsageError("--yes and --locked are for --bring-python: doctor alone asks nothing", "doctor --help")
    found = _bring(login, choice, consent, output, locked=locked) if bring_python else _look(login, choice, output)
    if as_json:
        output.json(doctor_json(found))
    else:
        output.data(doctor_text(found))
    return int(worst(fitness.status for fitness in found))


def _look(login: Login, choice: Choice, output: Output) -> tuple[Fitness, ...]:
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.progress import progress
    from reconciler.fleet.doctor import doctor

    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        return doctor(project, selection_of(choice), login.forks, observer)


def _bring(login: Login, choice: Choice, consent: Consent, output: Output, *, locked: bool) -> tuple[Fitness, ...]:
    from reconciler.cli.ask import Details, ask
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.progress import progress
    from reconciler.cli.runs import lock_new
    from reconciler.fleet import bringing

    if choice.hosts is None:
        raise UsageError("--bring-python needs --hosts PATTERN", "--hosts all means every host")
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        prepared = bringing.prepare(project, selection_of(choice), login.forks, observer, locked=locked)
    listed = "\n".join(f"{host}  {package.output}" for host, package in prepared.packages.items())
    if not ask(prepared.question, consent, output, Details(lambda: listed, lambda: listed)):
        return prepared.found
    if prepared.packages:
        lock_new(project, output)
    with progress(output, login.verbose) as observer:
        return bringing.execute(prepared, observer)
