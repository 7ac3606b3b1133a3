"""`reconciler key generate`: keys that sign what a cache holds."""

from __future__ import annotations

import os

import click

from reconciler.cli.app import Command
from reconciler.cli.options import json_option
from reconciler.core import fs
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean

VERBS = ("generate",)


@click.command("key", cls=Command)
@click.argument("verb", metavar="generate")
@click.argument("name", metavar="NAME")
@click.option("--out", "directory", metavar="DIR", default=".", help="Where the two files go (default: here).")
@json_option
def command(*, verb: str, name: str, directory: str, as_json: bool) -> int:
    """Make a key that signs store paths: NAME.secret, which only you can read, and NAME.public. NAME stands in every
    signature; a host name and a number (cache.example.org-1) says whose it is. Files that exist are never replaced."""
    from reconciler.cli.output import Output
    from reconciler.packages import keys

    if verb not in VERBS:
        raise UsageError(f"key {verb}: not one of {', '.join(VERBS)}", did_you_mean(verb, VERBS) or "key --help")
    if "/" in name or name.startswith((".", "-")):
        raise UsageError(f"'{name}' cannot name a key's files", "letters, digits, dots and dashes: cache.example.org-1")
    secret, public = keys.generate(name)
    files = _write(directory, {f"{name}.secret": (secret, 0o600), f"{name}.public": (public, 0o644)})
    output = Output()
    if as_json:
        output.json({"format": 1, "name": name, "public": public, "secret_file": files[0], "public_file": files[1]})
        return int(ExitStatus.OK)
    output.data(public)
    output.note(
        f"secret   {files[0]}   who has it can sign as {name}: keep it from others, and keep a copy\n"
        f"public   {files[1]}\n"
        "next     in the nix.conf of every machine that shall trust it, beside the keys that stand there:\n"
        f"         extra-trusted-public-keys = {public}\n"
        f"         reconciler cache push --to DIR --key {files[0]} …"
    )
    return int(ExitStatus.OK)


def _write(directory: str, contents: dict[str, tuple[str, int]]) -> list[str]:
    """New files, durable; UsageError, and nothing written, when one of them exists."""
    files = [os.path.join(directory, name) for name in contents]
    if not os.path.isdir(directory):
        raise UsageError(f"{directory}: there is no such directory", f"mkdir {directory}")
    for file in files:
        if os.path.lexists(file):
            raise UsageError(f"{file} exists, and a key is never replaced", "another NAME, or another --out DIR")
    for file, (text, mode) in zip(files, contents.values(), strict=True):
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask is
            fs.write_all(fd, text.encode())
            os.fsync(fd)
        finally:
            os.close(fd)
    fs.fsync_directory(directory)
    return files
