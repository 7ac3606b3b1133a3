"""`reconciler gc`: delete generations that need not be kept, and what nothing keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    Number,
    Profiles,
    json_option,
    login_of,
    login_options,
    profile_options,
    profiles_of,
    yes_option,
)
from reconciler.cli.upkeep import Stores, root_here, store_options, stores_of, watched
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.core.profile.prune import Form, Retention

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output
    from reconciler.fleet.select import Selection
    from reconciler.fleet.upkeep import Cleaning


@click.command("gc", cls=Command)
@store_options("The hosts to clean.")
@click.option("--keep-generations", type=Number("a number of generations"), help="Keep the newest N of each profile.")
@click.option("--keep-days", type=Number("a number of days"), help="Keep what was active within the last N days.")
@click.option(
    "--delete-generations",
    metavar="FORM",
    help="Delete these instead: old, 30d, +5, or numbers ('3,5'), as nix-env's option of that name knows them.",
)
@profile_options
@click.option("-C", "--check", is_flag=True, help="Show what would go, and do nothing.")
@yes_option
@json_option
@login_options
def command(
    *,
    keep_generations: int | None,
    keep_days: int | None,
    delete_generations: str | None,
    check: bool,
    yes: str | None,
    as_json: bool,
    **values: Any,
) -> int:
    """Delete generations beyond what `keep` says, or those that are named, then every store path that nothing keeps any
    more. What runs, what a deployment at work needs, and what a rollback of the latest deployment goes back to, stays.
    """
    from reconciler.cli.ask import Consent
    from reconciler.cli.output import Output

    login, consent, output = login_of(values), Consent.parse(yes), Output()
    stores, profiles = stores_of("gc", values), profiles_of(values)
    asked = _asked(keep_generations, keep_days, delete_generations)
    selection = _selection(stores, profiles, asked)
    with _prepared(selection, asked, login, output) as cleaning:
        return _run(cleaning, check, consent, as_json, output)


def _asked(keep_generations: int | None, keep_days: int | None, delete: str | None) -> Retention | Form | None:
    """What the options say of generations; None where they leave it to the inventory."""
    kept = None if keep_generations is None and keep_days is None else Retention(keep_generations, keep_days)
    if delete is None:
        return kept
    if kept is not None:
        raise UsageError("--keep-… and --delete-generations exclude each other", "say what stays, or what goes")
    try:
        return Form.parse(delete.replace(",", " ").split())
    except UsageError as error:
        raise UsageError(f"--delete-generations: {error.message}", error.hint) from None


def _selection(stores: Stores, profiles: Profiles, asked: Retention | Form | None) -> Selection | None:
    """Of which profiles generations go; None for this controller's own store, which has none."""
    from reconciler.fleet.select import Selection

    if stores.hosts is None:
        if asked is not None or profiles != Profiles():
            raise UsageError(
                "this controller's store has no generations of hosts", "gc --here, without options on them"
            )
        return None
    selection = Selection(stores.hosts, stores.limit, profiles.system, profiles.users, profiles.profiles)
    if isinstance(asked, Form) and asked.by_number and not selection.single:
        raise UsageError(
            "the number of a generation means another one in each profile",
            "name the profile: --system, --users NAME or --profiles NAME",
        )
    return selection


def _prepared(selection: Selection | None, asked: Retention | Form | None, login: Login, output: Output) -> Cleaning:
    from reconciler.cli.context import project_of
    from reconciler.fleet import upkeep

    if selection is None:
        with watched(output) as heard:
            return upkeep.prepare_gc_here(root_here(), heard)
    project = project_of(login, output)
    with watched(output) as heard:
        return upkeep.prepare_gc(project, selection, asked, login.forks, heard)


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
