"""`reconciler rollback`: undo a deployment, exactly."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    Number,
    choice_of,
    choice_options,
    json_option,
    login_of,
    login_options,
    yes_option,
)
from reconciler.cli.output import Output
from reconciler.core.errors import ExitStatus, ReconcilerError

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.cli.render.rollback import RollbackView
    from reconciler.fleet.prepared import Prepared


@click.command("rollback", cls=Command)
@choice_options("The hosts to roll back; with --deployment, of its hosts only these.")
@click.option("--deployment", metavar="ID", help="The deployment to undo: its id, the end of it (k7), or last.")
@click.option(
    "--to", type=Number("a generation's number"), metavar="N", help="Go to generation N (the system's, unless --users)."
)
@click.option("-m", "--message", default="", help="Why; kept in the history.")
@click.option("-C", "--check", is_flag=True, help="Show what would be put back, and do nothing.")
@yes_option
@json_option
@login_options
def command(
    *, as_json: bool, check: bool, yes: str | None, deployment: str | None, to: int | None, message: str, **values: Any
) -> int:
    """Put back what each host had before a deployment: with --hosts alone, before the latest one that touched them.

    A generation is gone back to by its number and its store path. What else has changed the host since is not undone
    silently: such a host is refused.
    """
    from reconciler.cli.ask import Consent
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.progress import progress
    from reconciler.cli.render.plan import plan_json
    from reconciler.cli.render.rollback import rollback_text
    from reconciler.cli.runs import plan_view
    from reconciler.fleet import rollback

    login, choice, consent = login_of(values), choice_of(values), Consent.parse(yes)
    output = Output()
    chosen = choice.limit is not None or choice.system or choice.users is not None or choice.profiles is not None
    selection = selection_of(choice) if choice.hosts is not None or (chosen and deployment) else None
    request = rollback.RollbackRequest(selection, deployment, to, login.forks, message)
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        prepared = rollback.prepare(project, request, observer)
    with prepared:
        if check and as_json:
            output.json({**plan_json(plan_view(prepared, choice)), "undoes": prepared.facts.undoes})
            return int(ExitStatus.OK)
        text = rollback_text(view_of(prepared), nothing_changed=check)
        if check:
            output.data(text)
            return int(ExitStatus.OK)
        output.note(text)
        return _carry_out(prepared, consent, output, as_json=as_json, verbose=login.verbose)


def _carry_out(prepared: Prepared, consent: Consent, output: Output, *, as_json: bool, verbose: bool) -> int:
    from reconciler.cli.progress import progress
    from reconciler.cli.render.report import heading, report_text
    from reconciler.cli.runs import agreed, held, standing_still
    from reconciler.fleet import rollback

    if not agreed(prepared, consent, output):
        output.note("Nothing was changed.")
        return int(ExitStatus.OK)
    if prepared.plan.changing:
        output.note(f"\n{heading(prepared.id, prepared.facts.who, prepared.facts.message)}")
        with progress(output, verbose) as observer:
            report = rollback.execute(prepared, observer)
    else:
        report = standing_still(prepared)
    if as_json:
        output.json({"format": 1, **report.to_json()})
    else:
        output.note()
        output.data(report_text(report, prepared.pattern, held(prepared.plan)))
    return int(report.status)


def view_of(prepared: Prepared) -> RollbackView:
    """Everything that the text says. What this controller's journal lacks, the hosts' histories have."""
    from reconciler.cli.render.rollback import RollbackView
    from reconciler.fleet.journal import Journal

    undoes = prepared.facts.undoes
    known: dict[str, Any] = {}
    try:
        entry = Journal.of(prepared.project).find(undoes) if undoes else None
    except ReconcilerError:
        entry = None
    if entry is not None:
        known = {"who": entry.who, "when": entry.when, "message": entry.message, "revision": entry.revision}
    elif prepared.told is not None:
        known = {"who": prepared.told.who, "when": prepared.told.when, "message": prepared.told.message}
    return RollbackView(prepared.plan, undoes, nothing=prepared.nothing, now=time.time(), **known)
