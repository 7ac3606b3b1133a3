"""`reconciler why`: where an entry of a host's desired state comes from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import inventory_option, json_option
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean

if TYPE_CHECKING:
    from reconciler.cli.render.why import Reason
    from reconciler.fleet.project import Project


@click.command("why", cls=Command)
@click.argument("host", metavar="HOST")
@click.argument("name", metavar="NAME")
@json_option
@inventory_option
def command(*, host: str, name: str, inventory: str | None, as_json: bool) -> int:
    """Say why HOST holds, or does not hold, the package NAME: the file and line of the entry, and what it replaced.
    Talks to no host."""
    from reconciler.cli.context import project_of
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output
    from reconciler.cli.render.why import why_json, why_text

    output = Output()
    project = project_of(Login(inventory), output)
    reasons = reasons_of(project, host, name.partition("@")[0])
    if as_json:
        output.json(why_json(host, reasons))
    else:
        output.data(why_text(reasons))
    return int(ExitStatus.OK)


def reasons_of(project: Project, host: str, name: str) -> tuple[Reason, ...]:
    """Every entry of that name on the host, and every one that was dropped; UsageError when there is neither."""
    from reconciler.cli.render.why import Reason
    from reconciler.inventory.merge import profile_id

    known = project.inventory.hosts
    if host not in known:
        raise UsageError(f"the inventory has no host '{host}'", did_you_mean(host, known) or "reconciler inventory")
    desired = project.inventory.desired(host)
    found: list[Reason] = []
    for profile, spec in desired.profiles.items():
        if name in spec.packages:
            entry = spec.packages[name]
            package = project.resolver.resolve(entry.reference, desired.architecture, entry.origin.position)
            pin = project.resolver.pin_of(entry.reference, desired.architecture)
            found.append(Reason(name, profile, entry.origin, package.version, str(package.output), lock=pin))
    for dropped in project.inventory.dropped(host):
        if dropped.entry.name == name:
            found.append(Reason(name, profile_id(dropped.user), dropped.entry.origin, dropped_by=dropped.by))
    if not found:
        raise _nothing(project, host, name, desired)
    return tuple(found)


def _nothing(project: Project, host: str, name: str, desired: Any) -> UsageError:
    wanted = {package for spec in desired.profiles.values() for package in spec.packages}
    wanted |= {dropped.entry.name for dropped in project.inventory.dropped(host)}
    near = did_you_mean(name, sorted(wanted))
    return UsageError(f"nothing declares '{name}' for {host}", near or f"reconciler inventory --host {host}")
