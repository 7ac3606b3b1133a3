"""`reconciler repair`: put right what is wrong with stores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import json_option, login_of, login_options
from reconciler.cli.upkeep import root_here, store_options, stores_of, watched

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Caches


@click.command("repair", cls=Command)
@store_options("The hosts to repair.")
@click.option("--cache", "urls", multiple=True, metavar="URL", help="Also take contents from this binary cache.")
@click.option("--key", "keys", multiple=True, metavar="NAME:KEY", help="A public key that is trusted with them.")
@json_option
@login_options
def command(*, urls: Sequence[str], keys: Sequence[str], as_json: bool, **values: Any) -> int:
    """Verify stores, and put right what is wrong: forms in place, contents from this controller's store, from other
    hosts, or from the caches given. No path is absent meanwhile."""
    from reconciler.cli.context import project_of
    from reconciler.cli.output import Output
    from reconciler.cli.render.upkeep import repair_json, repair_text
    from reconciler.fleet import repairing
    from reconciler.fleet.select import Selection

    login, output = login_of(values), Output()
    stores = stores_of("repair", values)
    caches = [given] if (given := _caches(urls, keys)) is not None else []
    if stores.hosts is None:
        with watched(output) as heard:
            found = repairing.repair_here(root_here(), caches, heard)
    else:
        project = project_of(login, output)
        caches += [project.resolver.caches] if project.resolver.caches else []
        with watched(output) as heard:
            selection = Selection(stores.hosts, stores.limit)
            found = repairing.repair_hosts(project, selection, caches, login.forks, heard)
    status = int(repairing.status(found))
    if as_json:
        output.json(repair_json(found, status))
    else:
        output.data(repair_text(found))
    return status


def _caches(urls: Sequence[str], keys: Sequence[str]) -> Caches | None:
    """What was given on the command line; UsageError for what is no URL, or no key."""
    from reconciler.core.errors import FormatError, UsageError
    from reconciler.core.nix.signature import PublicKey
    from reconciler.core.store.binary_cache import BinaryCache, Caches

    if not urls:
        if keys:
            raise UsageError("--key is for a cache, and none is given", "--cache URL")
        return None
    try:
        trusted = [PublicKey.parse(key) for key in keys]
    except FormatError as error:
        raise UsageError(
            f"--key: {error.message}", error.hint or "NAME:BASE64, as the cache's owner gives it"
        ) from None
    return Caches([BinaryCache(url, trusted) for url in urls])
