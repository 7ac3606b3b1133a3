"""What gc, verify, repair and optimise share: which stores are meant, and what is shown meanwhile."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from reconciler.core.errors import UsageError

if TYPE_CHECKING:
    from reconciler.cli.output import Output
    from reconciler.fleet.upkeep import Heard

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Stores:
    """Whose stores are meant: those of `hosts`, or with `here` the controller's own."""

    hosts: str | None
    limit: str | None
    here: bool


def store_options(hosts_help: str) -> Callable[[F], F]:
    """Options that become one `Stores` (see `stores_of`)."""

    def decorate(function: F) -> F:
        for option in (
            click.option("--here", is_flag=True, help="This controller's own store, instead of hosts'."),
            click.option("-l", "--limit", metavar="PATTERN", help="Of those hosts, only these."),
            click.option("--hosts", metavar="PATTERN", help=hosts_help),
        ):
            function = option(function)
        return function

    return decorate


def stores_of(command: str, values: dict[str, Any]) -> Stores:
    """Take those options out of a command's arguments; UsageError unless exactly one kind of store is meant."""
    stores = Stores(*(values.pop(name) for name in ("hosts", "limit", "here")))
    if stores.here and (stores.hosts is not None or stores.limit is not None):
        raise UsageError("--here and --hosts exclude each other", "one command for each")
    if not stores.here and stores.hosts is None:
        raise UsageError(f"{command} needs --hosts PATTERN, or --here", f"{command} --help")
    return stores


def root_here() -> str:
    """Where the controller's own store stands."""
    from reconciler.fleet.project import own_store

    return own_store(os.environ)


@contextlib.contextmanager
def watched(output: Output) -> Iterator[Heard]:
    """Whoever shows the work: lines in place on a terminal; elsewhere only that another collection is waited for."""
    board = _Board(output)
    if not output.live:
        yield board.heard
        return
    from rich.live import Live
    from rich.text import Text

    with Live(
        get_renderable=lambda: Text(board.drawn(), no_wrap=True),
        console=output.console(),
        refresh_per_second=8,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield board.heard


class _Board:
    """The latest word of each host. Told from several threads."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._lock = threading.Lock()
        self._latest: dict[str, Mapping[str, Any]] = {}

    def heard(self, host: str, event: Mapping[str, Any]) -> None:
        from reconciler.cli.render.upkeep import waiting_text

        with self._lock:
            self._latest[host] = event
            if event["kind"] == "waiting" and event["count"] == 1:
                self._output.note(waiting_text(host))

    def drawn(self) -> str:
        from reconciler.cli.output import visible
        from reconciler.cli.render.upkeep import progress_text

        with self._lock:
            return visible("\n".join(progress_text(host, event) for host, event in list(self._latest.items())[-20:]))
