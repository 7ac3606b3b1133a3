"""The table of commands, loaded when they are named, and wrong command lines in our own voice."""

from __future__ import annotations

import importlib
import keyword
from typing import Any

import click

from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean

# Shown by --help in this order. The short text stands here so that --help imports no command.
COMMANDS = {
    "plan": "what would change, grouped over the fleet; changes nothing",
    "deploy": "make hosts hold what the inventory declares",
    "rollback": "undo a deployment, exactly",
    "status": "what hosts hold and run, beside what is wanted",
    "doctor": "whether hosts are fit to be deployed to",
    "generations": "the generations of hosts' profiles",
    "history": "past deployments",
    "why": "where an entry of a host's desired state comes from",
    "build": "make packages here",
    "packages": "what the package sets offer: search, show, tree",
    "lock": "pin what references mean; move pins",
    "cache": "fill a binary cache",
    "key": "make a key that signs what a cache holds",
    "gc": "delete old generations and what nothing keeps",
    "verify": "whether stores are what their databases say",
    "repair": "put right what is wrong with stores",
    "optimise": "store equal files once",
    "inventory": "hosts, groups and the merged desired state",
    "import": "print what hosts' profiles hold as YAML for the inventory",
    "leave": "undo the management of hosts",
    "trust": "show host keys and enrol them in known_hosts",
    "init": "start a project in an empty directory",
    "lab": "throw-away hosts on this machine, to try things on",
}


class Command(click.Command):
    """A command whose leftover arguments are told in our own words."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {"allow_extra_args": True, "help_option_names": ["-h", "--help"]})
        super().__init__(*args, **kwargs)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            raise UsageError(f"{ctx.command_path} takes no argument '{ctx.args[0]}'", self._about(ctx))
        return rest

    def _about(self, ctx: click.Context) -> str:
        if any(parameter.name == "hosts" for parameter in self.params):
            return f"did you mean {ctx.command_path} --hosts '{ctx.args[0]}'?"
        return f"{ctx.command_path} --help"


class Group(click.Group):
    """Finds each command in the module of its name, and imports that only when the command is meant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  (click's signature)
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return load(cmd_name) if cmd_name in COMMANDS else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name.startswith("-"):
            raise _before_the_command(name, ctx.command_path)
        if name not in COMMANDS:
            raise UsageError(f"no such command '{name}'", did_you_mean(name, COMMANDS) or f"{ctx.command_path} --help")
        return super().resolve_command(ctx, args)


def load(name: str) -> click.Command:
    """The command in the module of its name."""
    module = f"{name}_" if keyword.iskeyword(name) else name
    command: click.Command = importlib.import_module(f"reconciler.cli.{module}").command
    return command


@click.command(
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Data goes to stdout, everything else to stderr; every listing has --json."
    " Exit statuses: docs/exit-status.md.",
)
@click.option("--version", is_flag=True, help="Print the version.")
@click.pass_context
def app(context: click.Context, version: bool) -> int:
    """Make hosts hold the packages that an inventory declares for them: over SSH, atomically, with exact undo."""
    from reconciler.cli.output import Output

    if version:
        from reconciler import __version__

        Output().data(f"reconciler {__version__}")
    elif context.invoked_subcommand is None:
        Output().note(context.get_help())
        return int(ExitStatus.USAGE)
    return int(ExitStatus.OK)


def invoke(program: str, arguments: list[str]) -> int:
    """Run a command line; the exit status. Raises ReconcilerError for whatever ends it early."""
    command = app if program == "reconciler" else load(program)
    try:
        result = command.main(arguments, prog_name=program, standalone_mode=False)
    except click.exceptions.Abort:
        raise KeyboardInterrupt from None
    except click.UsageError as error:
        named = (
            [program, arguments[0]]
            if program == "reconciler" and arguments[:1] and arguments[0] in COMMANDS
            else [program]
        )
        raise in_our_words(error, " ".join(named)) from None
    except click.ClickException as error:
        raise UsageError(_sentence(error.format_message())) from None
    return int(result) if isinstance(result, int) else int(ExitStatus.OK)


def in_our_words(error: click.UsageError, path: str) -> UsageError:
    """What click found wrong with the command line of `path`, as we say it."""
    path = error.ctx.command_path if error.ctx else path
    if isinstance(error, click.NoSuchOption):
        if error.ctx and isinstance(error.ctx.command, click.Group):
            return _before_the_command(error.option_name, path)
        known = _options(error.ctx) if error.ctx else []
        hint = did_you_mean(error.option_name, known) or f"{path} --help"
        return UsageError(f"no such option '{error.option_name}' for {path}", hint)
    if isinstance(error, click.MissingParameter) and error.param is not None:
        return UsageError(f"{path} needs {_spelling(error.param, error.ctx)}", f"{path} --help")
    if isinstance(error, click.BadParameter) and error.param is not None:
        name = error.param.opts[-1] if isinstance(error.param, click.Option) else _spelling(error.param, error.ctx)
        return UsageError(f"{name}: {_sentence(error.message)}", f"{path} --help")
    return UsageError(_sentence(error.format_message()), f"{path} --help")


def _before_the_command(option: str, path: str) -> UsageError:
    """An option where a command was due; often one of the command's own."""
    commands = ("plan", "deploy")
    known = {name for command in commands for parameter in load(command).params for name in parameter.opts}
    hint = f"options stand behind the command: {path} plan {option} …" if option in known else f"{path} --help"
    return UsageError(f"no such option '{option}' for {path}", hint)


def _options(context: click.Context) -> list[str]:
    return [name for parameter in context.command.get_params(context) for name in parameter.opts if name[:2] == "--"]


def _spelling(parameter: click.Parameter, context: click.Context | None) -> str:
    if isinstance(parameter, click.Option) and context is not None:
        return f"{parameter.opts[-1]} {parameter.make_metavar(context)}"
    return parameter.metavar or (parameter.name or "").upper() if isinstance(parameter, click.Argument) else ""


def _sentence(text: str) -> str:
    text = text.strip().removesuffix(".")
    return text[:1].lower() + text[1:]
