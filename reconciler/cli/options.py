"""The options that commands share, spelled once; each group of them becomes one frozen value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from reconciler.inventory.names import did_you_mean

F = TypeVar("F", bound=Callable[..., Any])


class OneOf(click.ParamType[str]):
    """One of a few words, with the nearest one named when it is another."""

    def __init__(self, words: Sequence[str], metavar: str) -> None:
        self.words = tuple(words)
        self.name = metavar

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in self.words:
            return str(value)
        near = did_you_mean(str(value), self.words)
        return self.fail(f"'{value}' is not one of {', '.join(self.words)}{f'; {near}' if near else ''}", param, ctx)


class System(click.ParamType[str]):
    """A system, in Nix's words."""

    name = "SYSTEM"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        from reconciler.inventory.schema import ARCHITECTURES, architecture_hint

        if value in ARCHITECTURES:
            return str(value)
        return self.fail(f"'{value}' is not a system; {architecture_hint(value)}", param, ctx)


class Number(click.ParamType[int]):
    """A whole number from 1; `what` says of what, in the error."""

    name = "N"

    def __init__(self, what: str, most: int | None = None) -> None:
        self._what = what if most is None else f"{what} from 1 to {most}"
        self._most = most

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):  # the default
            return value
        if value.isascii() and value.isdigit() and 1 <= int(value) <= (self._most or int(value)):
            return int(value)
        return self.fail(f"'{value}' is not {self._what}", param, ctx)


@dataclass(frozen=True)
class Login:
    """-i, -u, -K, -f and -v: which inventory, and how hosts are logged in to."""

    inventory: str | None = None
    user: str | None = None
    ask_become_pass: bool = False
    forks: int | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Profiles:
    """--system, --users and --profiles; none of them is every profile."""

    system: bool = False
    users: str | None = None
    profiles: str | None = None


@dataclass(frozen=True)
class Choice:
    """--hosts, -l, --system, --users and --profiles."""

    hosts: str | None = None
    limit: str | None = None
    system: bool = False
    users: str | None = None
    profiles: str | None = None


def inventory_option(function: F) -> F:
    return click.option(
        "-i",
        "--inventory",
        metavar="PATH",
        help="The inventory; else $RECONCILER_INVENTORY, else the only one under inventories/.",
    )(function)


def login_options(function: F) -> F:
    """Options that become one `login: Login` (see `gathered`)."""
    for option in (
        click.option("-v", "--verbose", is_flag=True, help="Say more: what builds print, each host's details."),
        click.option("-f", "--forks", type=Number("a number of hosts", 10_000), help="How many hosts at once."),
        click.option("-K", "--ask-become-pass", is_flag=True, help="Ask for sudo's password, once, before anything."),
        click.option("-u", "--user", metavar="NAME", help="Log in as NAME, whatever the inventory says."),
    ):
        function = option(function)
    return inventory_option(function)


def profile_options(function: F) -> F:
    """Options that become one `Profiles` (see `profiles_of`)."""
    for option in (
        click.option("--profiles", metavar="PATTERN", help="Only these of `profiles:`, e.g. 'default,/opt/*'."),
        click.option("--users", metavar="PATTERN", help="Only these users' profiles, e.g. 'dep*,alice'."),
        click.option("--system", is_flag=True, help="Only the system's profile (with --users: also it)."),
    ):
        function = option(function)
    return function


def choice_options(hosts_help: str, required: bool = False) -> Callable[[F], F]:
    """Options that become one `choice: Choice` (see `gathered`)."""

    def decorate(function: F) -> F:
        function = profile_options(function)
        for option in (
            click.option("-l", "--limit", metavar="PATTERN", help="Of those hosts, only these."),
            click.option("--hosts", metavar="PATTERN", required=required, help=hosts_help),
        ):
            function = option(function)
        return function

    return decorate


def host_options(hosts_help: str) -> Callable[[F], F]:
    """`hosts` and `limit`, for a command that means whole hosts."""

    def decorate(function: F) -> F:
        for option in (
            click.option("-l", "--limit", metavar="PATTERN", help="Of those hosts, only these."),
            click.option("--hosts", metavar="PATTERN", required=True, help=hosts_help),
        ):
            function = option(function)
        return function

    return decorate


def adopt_option(function: F) -> F:
    return click.option(
        "--adopt", is_flag=True, help="Replace profiles that something else made; rollback brings back."
    )(function)


def locked_option(function: F) -> F:
    return click.option("--locked", is_flag=True, help="Refuse references that reconciler.lock does not have.")(
        function
    )


def json_option(function: F) -> F:
    return click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout (docs/json.md).")(function)


def yes_option(function: F) -> F:
    return click.option(
        "--yes",
        is_flag=False,
        flag_value="",
        metavar="[=N]",
        help="Answer the question beforehand; --yes=N where the number of hosts is asked for.",
    )(function)


def exit_code_option(function: F) -> F:
    return click.option(
        "--exit-code", is_flag=True, help="Let the exit status tell: 9 for changes or drift, 5 for unreachable, ..."
    )(function)


def login_of(values: dict[str, Any]) -> Login:
    """Take the login options out of a command's arguments."""
    names = ("inventory", "user", "ask_become_pass", "forks", "verbose")
    return Login(**{name: values.pop(name) for name in names})


def profiles_of(values: dict[str, Any]) -> Profiles:
    """Take the options that choose profiles out of a command's arguments."""
    return Profiles(**{name: values.pop(name) for name in ("system", "users", "profiles")})


def choice_of(values: dict[str, Any]) -> Choice:
    """Take the choosing options out of a command's arguments."""
    return Choice(**{name: values.pop(name) for name in ("hosts", "limit", "system", "users", "profiles")})
