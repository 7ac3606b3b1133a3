"""`reconciler cache push`: fill a binary cache."""

from __future__ import annotations

import contextlib
import os
import time
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import (
    Choice,
    Login,
    Number,
    OneOf,
    choice_of,
    choice_options,
    inventory_option,
    json_option,
)
from reconciler.core.errors import ExitStatus, FormatError, UsageError
from reconciler.core.nix.store_path import STORE_DIR, StorePath
from reconciler.core.store.compression import SUFFIXES
from reconciler.inventory.names import did_you_mean
from reconciler.packages.key_file import KEY_FILE

if TYPE_CHECKING:
    from reconciler.cli.output import Output
    from reconciler.core.store.store import Store
    from reconciler.packages.cache import PushEvent
    from reconciler.packages.keys import SecretKey

VERBS = ("push",)


@dataclass(frozen=True)
class Wanted:
    """What shall be pushed, as it was typed."""

    paths: tuple[StorePath, ...]
    references: tuple[str, ...]
    choice: Choice

    @property
    def needs_project(self) -> bool:
        return bool(self.references) or self.choice.hosts is not None


@click.command("cache", cls=Command)
@click.argument("verb", metavar="push")
@click.argument("what", nargs=-1, metavar="[STORE-PATH|PACKAGE]...")
@click.option("--to", "place", metavar="DIR", help="The cache: a directory, or its file:// URL; made when it is new.")
@click.option("--key", metavar="FILE", help=f"The secret key to sign with; else ${KEY_FILE}.")
@click.option("--unsigned", is_flag=True, help="Do not sign.")
@click.option(
    "--compression",
    type=OneOf(tuple(SUFFIXES), "METHOD"),
    default="xz",
    help=f"{', '.join(SUFFIXES)} (default: xz).",
)
@click.option("-j", "--jobs", type=Number("a number of jobs", 1024), help="Paths at a time (default: one a CPU).")
@choice_options("Push what the profiles of these hosts hold, built when missing.")
@click.option("-v", "--verbose", is_flag=True, help="Say more: what builds print.")
@json_option
@inventory_option
def command(*, verb: str, what: tuple[str, ...], as_json: bool, verbose: bool, **values: Any) -> int:
    """Put store paths, packages, or all that hosts' profiles want, with all that they refer to, into a binary cache:
    a directory that any web server can serve, and that Nix substitutes from. What is there already is skipped."""
    from reconciler.cli.output import Output
    from reconciler.cli.render.cache import push_json, push_text
    from reconciler.packages import cache

    if verb not in VERBS:
        raise UsageError(f"cache {verb}: not one of {', '.join(VERBS)}", did_you_mean(verb, VERBS) or "cache --help")
    output = Output()
    wanted = wanted_of(what, choice_of(values))
    directory = directory_of(values["place"])
    key = key_of(values["key"], values["unsigned"])
    with (
        _gathered(wanted, Login(values["inventory"], verbose=verbose), output) as (store, paths),
        _told(output) as tell,
    ):
        began = time.monotonic()
        result = cache.push(
            store, paths, directory, key, compression=values["compression"], jobs=values["jobs"], heard=tell
        )
    if as_json:
        output.json(push_json(result, directory, key.public if key else None))
    else:
        output.data(push_text(result, directory, key.public if key else None, time.monotonic() - began))
    return int(ExitStatus.OK)


# --- what was typed ---------------------------------------------------------------------------------------------------


def wanted_of(what: tuple[str, ...], choice: Choice) -> Wanted:
    """Store paths and references told apart; UsageError when nothing is asked for."""
    narrowed = choice.limit or choice.system or choice.users or choice.profiles
    if choice.hosts is None and narrowed:
        raise UsageError("--limit, --system, --users and --profiles narrow what --hosts means", "--hosts PATTERN")
    if not what and choice.hosts is None:
        raise UsageError("cache push needs STORE-PATH, PACKAGE or --hosts PATTERN", "cache push --help")
    paths, references = [], []
    for each in what:
        if not each.startswith("/"):
            references.append(each)
            continue
        try:
            paths.append(StorePath.parse(each.rstrip("/")))
        except FormatError as error:
            raise UsageError(error.message, error.hint or f"a path in {STORE_DIR}, or the name of a package") from None
    return Wanted(tuple(paths), tuple(references), choice)


def directory_of(place: str | None) -> str:
    """The directory that --to names."""
    if not place:
        raise UsageError("cache push needs --to DIR", "cache push --help")
    if "://" not in place:
        return os.path.abspath(place)
    parts = urllib.parse.urlsplit(place)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost") or parts.query:
        shown = f"{parts.scheme}://…"
        raise UsageError(
            f"--to {shown}: a cache is pushed to a directory of this machine",
            "push to a directory, and copy it to the server: docs/caches.md",
        )
    return urllib.parse.unquote(parts.path)


def key_of(file: str | None, unsigned: bool) -> SecretKey | None:
    """The key to sign with; None only where that was asked for."""
    from reconciler.packages.keys import SecretKey

    file = file or (None if unsigned else os.environ.get(KEY_FILE))
    if file and unsigned:
        raise UsageError("--key and --unsigned exclude each other", "leave one out")
    if not file and not unsigned:
        raise UsageError(
            f"there is no key to sign with: --key FILE, or ${KEY_FILE}",
            "reconciler key generate NAME makes one; --unsigned pushes without (nobody will trust it by a key)",
        )
    return SecretKey.load(file) if file else None


@contextlib.contextmanager
def _gathered(wanted: Wanted, login: Login, output: Output) -> Iterator[tuple[Store, tuple[StorePath, ...]]]:
    """The controller's store, and what in it is to be pushed. Without packages or hosts, no project is needed."""
    from reconciler.core.store.store import Store
    from reconciler.fleet.project import own_store

    if not wanted.needs_project:
        with Store.open(own_store(os.environ)) as store:
            yield store, wanted.paths
        return
    from reconciler.cli.context import project_of, selection_of
    from reconciler.cli.progress import progress
    from reconciler.fleet import pushing

    project = project_of(login, output)
    with project.open_store() as store:
        with progress(output, login.verbose) as observer:
            paths = [*wanted.paths, *pushing.packages(project, wanted.references, store, observer)]
            if wanted.choice.hosts is not None:
                paths += pushing.profiles(project, selection_of(wanted.choice), store, observer)
        yield store, tuple(paths)


# --- while it goes on -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _told(output: Output) -> Iterator[Callable[[PushEvent], None]]:
    """Whoever shows the push: a line in place on a terminal, else one for each path."""
    from reconciler.cli.render.cache import event_text, progress_text

    if not output.live:
        yield lambda event: output.note(event_text(event)) if event.path is not None else None
        return
    from rich.live import Live
    from rich.text import Text

    latest: list[PushEvent] = []
    drawn = lambda: Text(progress_text(latest[0]) if latest else "", no_wrap=True)  # noqa: E731

    def heard(event: PushEvent) -> None:
        latest[:] = [event]

    with Live(
        get_renderable=drawn,
        console=output.console(),
        refresh_per_second=8,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    ):
        yield heard
