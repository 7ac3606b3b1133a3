"""`reconciler init`: start a project in an empty directory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import click

from reconciler.cli.app import Command
from reconciler.cli.options import OneOf
from reconciler.core.errors import ExitStatus, RefusedError, UsageError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# As the inventory allows host names; said here because an error is better before a file is written than after.
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
# What may lie in the directory already: a repository that was just made.
_WELCOME = frozenset({".git", ".gitignore", ".gitattributes", "README.md", "LICENSE"})

SETTINGS = """\
# The project's settings. All are optional; docs/inventory.md has them.
forks: 20                   # hosts at once
"""

LAB_HOSTS = """\
# Hosts, groups, and what they shall hold. Ansible's YAML inventory: all that reconciler reads stands under `desired`.
all:
  hosts:
    {first}:
{rest}  vars:
    # These hosts are throw-away ones on this machine: `reconciler lab up` makes them. For hosts of your own, name them
    # above and delete the next two lines; ~/.ssh/config, known_hosts and your ssh agent count, as they do for ssh.
    ansible_user: root
    ansible_ssh_common_args: "-F '{{{{ inventory_dir }}}}/.lab/ssh_config'"
    desired:
      packages: [greet]
"""

OWN_HOSTS = """\
# Hosts, groups, and what they shall hold. Ansible's YAML inventory: all that reconciler reads stands under `desired`.
all:
  hosts:
    {first}:
{rest}  vars:
    # ansible_user: deploy      # else whom ~/.ssh/config says
    # ansible_become: true      # sudo, where the login is not root's
    desired:
      packages: [greet]
      # users:
      #   deploy: {{packages: [greet]}}
"""

RECIPE = """\
# A package of this project: `packages: [greet]` in an inventory means this file. docs/recipes.md has every key.
version: 1.0
description: says who and where it is
toolchain: host             # built with this machine's compiler and shell: good for trying out
source: {path: greet}
build: |
  mkdir -p $out/bin
  cp $src/greet $out/bin/greet
  chmod +x $out/bin/greet
"""

SCRIPT = """\
#!/bin/sh
echo "greet 1.0: $(id -un) on $(uname -n)"
"""


@click.command("init", cls=Command)
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--inventory", "name", default="main", metavar="NAME", help="What to call the inventory (default: main).")
@click.option("-d", "--directory", default=".", metavar="DIR", help="Where (default: here).")
@click.option(
    "--login",
    type=OneOf(["lab", "ssh"], "lab|ssh"),
    help="Hosts of the lab (the default where no HOST is named) or of your own.",
)
def command(*, hosts: tuple[str, ...], name: str, directory: str, login: str | None) -> int:
    """Write a project that works as it stands: settings, an inventory with HOSTs (two lab hosts where none is named)
    and one example package. Refuses where there is something already."""
    from reconciler.cli.output import Output

    for what, pattern in ((name, _NAME), *((host, _HOST) for host in hosts)):
        if not pattern.fullmatch(what):
            raise UsageError(
                f"'{what}' cannot be a name here", "letters, digits and . _ - are allowed, no - at the front"
            )
    lab = login == "lab" or (login is None and not hosts)
    root = Path(directory)
    made = files(name, hosts or ("lab01", "lab02"), lab)
    write(root, made)
    output = Output()
    for path in made:
        output.note(f"wrote  {root / path}")
    output.note()
    go = f"cd {directory} && " if directory != "." else ""
    output.note(f"next   {go}{'reconciler lab up && ' if lab else ''}reconciler plan, then: deploy --hosts all")
    return int(ExitStatus.OK)


def files(name: str, hosts: Sequence[str], lab: bool) -> dict[str, str]:
    """What a new project consists of: contents by path."""
    first, *others = hosts
    template = LAB_HOSTS if lab else OWN_HOSTS
    return {
        "reconciler.yml": SETTINGS,
        f"inventories/{name}/hosts.yml": template.format(
            first=first, rest="".join(f"    {host}:\n" for host in others)
        ),
        "packages/greet.yml": RECIPE,
        "packages/greet/greet": SCRIPT,
        ".gitignore": ".lab/\n",
    }


def write(root: Path, made: dict[str, str]) -> None:
    """Write a new project; RefusedError when the directory holds anything that is not part of a bare repository."""
    root.mkdir(parents=True, exist_ok=True)
    found = sorted(path.name for path in root.iterdir() if path.name not in _WELCOME)
    if found:
        shown = ", ".join(found[:3]) + (", …" if len(found) > 3 else "")
        raise RefusedError(f"{root}: not empty ({shown})", "name another directory: reconciler init -d DIR")
    for path, contents in made.items():
        target = root / path
        if target.exists() or target.is_symlink():
            continue  # a .gitignore of the repository's own
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(contents)
    (root / "packages/greet/greet").chmod(0o755)
