"""`reconciler trust`: show host keys and enrol them in known_hosts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from reconciler.cli.app import Command
from reconciler.cli.options import inventory_option, json_option, yes_option
from reconciler.cli.output import Output
from reconciler.core.errors import ExitStatus, ReconcilerError, RefusedError, UsageError, worst

if TYPE_CHECKING:
    from reconciler.cli.ask import Consent
    from reconciler.cli.render.trust import Shown
    from reconciler.fleet.project import Project


@click.command("trust", cls=Command)
@click.argument("hosts", nargs=-1, required=True, metavar="HOST...")
@click.option("--replace", is_flag=True, help="Also enrol keys that have changed, instead of the ones known.")
@click.option("-u", "--user", metavar="NAME", help="Log in as NAME, whatever the inventory says.")
@yes_option
@json_option
@inventory_option
def command(
    *, hosts: tuple[str, ...], replace: bool, user: str | None, yes: str | None, inventory: str | None, as_json: bool
) -> int:
    """Show the key that each HOST (or pattern) identifies itself with, and enrol it in known_hosts after asking.

    Compare the fingerprint with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the host's console.
    """
    from reconciler.cli.ask import Consent
    from reconciler.cli.context import project_of
    from reconciler.cli.options import Login
    from reconciler.cli.render.trust import trust_json, trust_text

    output, consent = Output(), Consent.parse(yes)
    project = project_of(Login(inventory, user), output)
    names = dict.fromkeys(name for pattern in hosts for name in project.inventory.select(pattern))
    shown = [look(project, name) for name in names]
    if as_json:
        output.json(trust_json(shown))
    else:
        output.data(trust_text(shown))
    return enrol(shown, replace, consent, output)


def look(project: Project, host: str) -> Shown:
    """The key that a host shows, and what is known of it."""
    from reconciler.cli.render.trust import Shown, Standing
    from reconciler.transport import knownhosts
    from reconciler.transport.errors import HostKeyChanged, HostKeyError

    settings = project.inventory.connection(host)
    if settings.connection == "local":
        raise UsageError(f"{host} is this machine: it has no host key", "leave it out")
    try:
        names, key, file = knownhosts.scan(settings, project.connect)
    except ReconcilerError as error:
        return Shown(host, Standing.UNREACHABLE, error=error)
    try:
        knownhosts.load([file]).check(names, key, host)
    except HostKeyChanged as error:
        return Shown(host, Standing.CHANGED, names, key, file, error)
    except HostKeyError:
        return Shown(host, Standing.NEW, names, key, file)
    return Shown(host, Standing.KNOWN, names, key, file)


def enrol(shown: Sequence[Shown], replace: bool, consent: Consent, output: Output) -> int:
    """Ask, and write what may be written; the exit status."""
    from reconciler.cli.ask import Details, ask
    from reconciler.cli.render.trust import Standing, question, trust_text
    from reconciler.transport import knownhosts

    changed = [each for each in shown if each.standing is Standing.CHANGED]
    if changed and not replace:
        listed = " ".join(each.host for each in changed)
        raise RefusedError(
            f"the key of {listed} has changed; nothing was enrolled",
            f"when you know why it changed: reconciler trust --replace {listed}",
        )
    wanted = [each for each in shown if each.standing in (Standing.NEW, Standing.CHANGED)]
    if wanted:
        details = Details(lambda: trust_text(wanted), lambda: "\n".join(each.host for each in wanted))
        if not ask(question(wanted), consent, output, details):
            output.note("Nothing was enrolled.")
            return int(ExitStatus.OK)
    for each in wanted:
        if each.names is None or each.key is None:
            continue
        knownhosts.enrol(each.file, each.names, each.key)
        output.note(f"enrolled {each.host} as {each.names.name} in {each.file}")
    return int(worst(each.error.status for each in shown if each.standing is Standing.UNREACHABLE and each.error))
