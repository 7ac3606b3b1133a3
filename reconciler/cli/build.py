"""`reconciler build`: make packages, here or on a host that builds, in the controller's store."""

from __future__ import annotations

import click

from reconciler.cli.app import Command
from reconciler.cli.options import Number, System, inventory_option, json_option
from reconciler.core.errors import ExitStatus, UsageError


@click.command("build", cls=Command)
@click.argument("references", nargs=-1, metavar="PACKAGE...")
@click.option("--check", is_flag=True, help="Build a second time, in another place, and compare.")
@click.option("--keep-failed", is_flag=True, help="Leave the directory of a build that fails, and name it.")
@click.option("--system", type=System(), help="For this system (default: this machine's).")
@click.option("--build-on", metavar="PLACE", default="", help="controller, builders, or a host of the inventory.")
@click.option("-j", "--jobs", type=Number("a number of jobs", 1024), help="Builds at a time (default: one a CPU).")
@click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password on the builder beforehand.")
@click.option("-u", "--user", metavar="NAME", help="Log in to the builder as NAME, whatever the inventory says.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: what builds print.")
@json_option
@inventory_option
def command(
    *,
    references: tuple[str, ...],
    check: bool,
    keep_failed: bool,
    system: str | None,
    jobs: int | None,
    build_on: str,
    ask_become_pass: bool,
    user: str | None,
    verbose: bool,
    as_json: bool,
    inventory: str | None,
) -> int:
    """Make packages in the controller's store, and print their store paths. Talks to no host but one that builds;
    what profiles of hosts want is made by `deploy --action build`."""
    from reconciler.cli.context import project_of
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output
    from reconciler.cli.progress import progress
    from reconciler.cli.render.build import build_json, build_text
    from reconciler.core.build.toolchain import host_system
    from reconciler.fleet.building import BuildRequest, build

    if not references:
        raise UsageError("build needs PACKAGE", "reconciler packages search WORD finds some")
    output = Output()
    project = project_of(Login(inventory, user, ask_become_pass=ask_become_pass), output)
    request = BuildRequest(
        references, system or host_system(), jobs, keep_failed=keep_failed, check=check, build_on=build_on
    )
    with progress(output, verbose) as observer:
        built = build(project, request, observer)
    if as_json:
        output.json(build_json(built, project.store_root))
    else:
        output.data(build_text(built, project.store_root))
    return int(ExitStatus.FAILED if any(one.differences for one in built) else ExitStatus.OK)
