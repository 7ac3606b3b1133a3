"""`deploy`: make hosts hold what the inventory declares."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    Choice,
    Login,
    OneOf,
    adopt_option,
    choice_of,
    choice_options,
    exit_code_option,
    json_option,
    locked_option,
    login_of,
    login_options,
    yes_option,
)
from reconciler.cli.output import Output
from reconciler.core.agent.action import Action
from reconciler.core.errors import ExitStatus

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.fleet.deploy import DeployRequest
    from reconciler.fleet.prepared import Prepared


@click.command("deploy", cls=Command)
@choice_options("The hosts to deploy to: a pattern as Ansible's.", required=True)
@click.option(
    "--action",
    type=OneOf([action.value for action in Action], "ACTION"),
    default=Action.SWITCH.value,
    help="switch (default), boot, test, stage or build.",
)
@click.option(
    "--build-on",
    metavar="PLACE",
    default="",
    help="Where to build what is missing: controller, target, builders or a host (default: as the inventory says).",
)
@click.option(
    "--substitute-on",
    type=OneOf(["controller", "target"], "PLACE"),
    help="Who fetches from binary caches: controller or target (default: as the inventory says, else controller).",
)
@click.option("-m", "--message", default="", help="Why; kept in the history.")
@click.option("--again", is_flag=True, help="Bring back what was rolled back.")
@adopt_option
@locked_option
@click.option("--all-or-nothing", is_flag=True, help="One host that cannot take part keeps all as they are.")
@click.option("-C", "--check", is_flag=True, help="Show the plan only, as `reconciler plan` does.")
@click.option("-D", "--diff", is_flag=True, help="Also show the store paths that change.")
@yes_option
@json_option
@exit_code_option
@login_options
def command(*, as_json: bool, check: bool, diff: bool, yes: str | None, exit_code: bool, **values: Any) -> int:
    """Make hosts hold what the inventory declares: build, copy what each host lacks, then switch all of them."""
    from reconciler.cli.ask import Consent
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.progress import progress
    from reconciler.cli.runs import show_plan
    from reconciler.fleet import deploy

    login, choice, consent = login_of(values), choice_of(values), Consent.parse(yes)
    again, substitute_on = values.pop("again"), values.pop("substitute_on") or ""
    output = Output()
    request = deploy.DeployRequest(
        selection_of(choice),
        action=Action(values.pop("action")),
        forks=login.forks,
        substitute_on=substitute_on,
        **values,
    )
    project = project_of(login, output)
    with progress(output, login.verbose) as observer:
        prepared = deploy.prepare(project, request, observer)
    with prepared:
        if check:
            show_plan(prepared, choice, output, as_json=as_json, diff=diff)
            return int(prepared.plan.status) if exit_code else int(ExitStatus.OK)
        return _carry_out(prepared, request, (login, choice, consent), output, again=again, as_json=as_json, diff=diff)


def _carry_out(
    prepared: Prepared,
    request: DeployRequest,
    asked: tuple[Login, Choice, Consent],
    output: Output,
    *,
    again: bool,
    as_json: bool,
    diff: bool,
) -> int:
    """Show the plan, ask, run, report."""
    from reconciler.cli.progress import progress
    from reconciler.cli.render.plan import diff_text, plan_text
    from reconciler.cli.render.report import heading, report_text
    from reconciler.cli.runs import agreed, held, lock_new, plan_view, standing_still
    from reconciler.fleet import deploy

    login, choice, consent = asked
    output.note(plan_text(plan_view(prepared, choice), nothing_changed=False))
    if diff and prepared.plan.changing:
        output.note("\n" + diff_text(prepared.plan))
    if not agreed(prepared, consent, output, again=again):
        output.note("Nothing was changed.")
        return int(ExitStatus.OK)
    lock_new(prepared.project, output)
    if prepared.plan.changing:
        output.note(f"\n{heading(prepared.id, prepared.facts.who, request.message)}")
        with progress(output, login.verbose) as observer:
            report = deploy.execute(prepared, observer)
    else:
        report = standing_still(prepared)
    if as_json:
        output.json({"format": 1, **report.to_json()})
    else:
        output.note()
        output.data(report_text(report, prepared.pattern, held(prepared.plan)))
    return int(report.status)
