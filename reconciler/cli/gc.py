"""`reconciler gc`: delete generations that need not be kept, and what nothing keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import Number, json_option, login_of, login_options, yes_option
from reconciler.cli.upkeep import Stores, root_here, store_options, stores_of, watched
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.core.profile.prune import Retention

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output
    from reconciler.fleet.upkeep import Cleaning


@click.command("gc", cls=Command)
@store_options("The hosts to clean.")
@click.option("--keep-generations", type=Number("a number of generations"), help="Keep the newest N of each profile.")
@click.option("--keep-days", type=Number("a number of days"), help="Keep what was active within the last N days.")
@click.option("-C", "--check", is_flag=True, help="Show what would go, and do nothing.")
@yes_option
@json_option
@login_options
def command(
    *,
    keep_generations: int | None,
    keep_days: int | None,
    check: bool,
    yes: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Delete generations beyond what `keep` says, then every store path that nothing keeps any more. What runs, what a
    deployment at work needs, and what a rollback of the latest deployment goes back to, stays."""
    from reconciler.cli.ask import Consent
    from reconciler.cli.output import Output

    login, consent, output = login_of(values), Consent.parse(yes), Output()
    stores = stores_of("gc", values)
    asked = None
    if keep_generations is not None or keep_days is not None:
        if stores.here:
            raise UsageError("this controller's store has no generations to keep", "gc --here, without --keep-…")
        asked = Retention(keep_generations, keep_days)
    with _prepared(stores, asked, login, output) as cleaning:
        return _run(cleaning, check, consent, as_json, output)


def _prepared(stores: Stores, asked: Retention | None, login: Login, output: Output) -> Cleaning:
    from reconciler.cli.context import project_of
    from reconciler.fleet import upkeep
    from reconciler.fleet.select import Selection

    if stores.hosts is None:
        with watched(output) as heard:
            return upkeep.prepare_gc_here(root_here(), heard)
    project = project_of(login, output)
    with watched(output) as heard:
        return upkeep.prepare_gc(project, Selection(stores.hosts, stores.limit), asked, login.forks, heard)


def _run(cleaning: Cleaning, check: bool, consent: Consent, as_json: bool, output: Output) -> int:
    from reconciler.cli.ask import Details, ask
    from reconciler.cli.render.gc import gc_json, gc_text
    from reconciler.fleet import logins, upkeep

    found = cleaning.hosts
    if not check:
        output.note(gc_text(found))
        details = Details(
            lambda: gc_text(cleaning.going, every_path=True), lambda: "\n".join(h.host for h in cleaning.going)
        )
        if not ask(cleaning.question, consent, output, details):
            output.note("Nothing was changed.")
            return int(ExitStatus.OK)
        with watched(output) as heard:
            found = upkeep.execute_gc(cleaning, heard)
    status = int(logins.status(found))
    if as_json:
        output.json(gc_json(found, status))
    else:
        output.data(gc_text(found))
    if check:
        output.note("Nothing was changed.")
    return status
