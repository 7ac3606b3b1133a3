"""`reconciler lock`: pin what every reference of the inventory means, and move pins."""

from __future__ import annotations

import click

from reconciler.cli.app import Command
from reconciler.cli.options import inventory_option, json_option
from reconciler.core.errors import ExitStatus, UsageError


@click.command("lock", cls=Command)
@click.option("--update", "names", multiple=True, metavar="NAME", help="Move this package's pins; may be repeated.")
@click.option("--update-all", is_flag=True, help="Move every pin.")
@click.option("--check", is_flag=True, help="Write nothing; status 9 when the lock is not complete.")
@click.option("--outdated", is_flag=True, help="Write nothing; list the pins that --update-all would move.")
@json_option
@inventory_option
def command(
    *, names: tuple[str, ...], update_all: bool, check: bool, outdated: bool, as_json: bool, inventory: str | None
) -> int:
    """Pin what the inventory's references mean (reconciler.lock): add what is new, take out what nothing names any
    more; with --update, move what is pinned. Talks to no host."""
    from reconciler.cli.context import project_of
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output
    from reconciler.cli.render.lock import changes_text, moves_json, outdated_text
    from reconciler.cli.runs import lock_name
    from reconciler.fleet import locking

    if (bool(names) + update_all + outdated) > 1 or (outdated and check):
        raise UsageError("--update, --update-all, --outdated: only one of them", "reconciler lock --help")
    output = Output()
    project = project_of(Login(inventory), output)
    if outdated:
        moves = locking.outdated(project)
        output.json(moves_json(moves)) if as_json else output.data(outdated_text(moves, lock_name(project)))
        return int(ExitStatus.OK)
    changes = locking.update(project, names) if names or update_all else locking.complete(project)
    if not check:
        locking.write(project, changes)
    if as_json:
        output.json(moves_json(changes.moves))
    else:
        output.data(changes_text(changes.moves, lock_name(project), written=not check))
    return int(ExitStatus.PENDING if check and changes else ExitStatus.OK)
