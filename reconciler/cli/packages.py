"""`reconciler packages`: what the package sets offer."""

from __future__ import annotations

import os
from typing import Any

import click

from reconciler.cli.app import Command
from reconciler.cli.options import System, inventory_option, json_option
from reconciler.core.errors import ExitStatus, UsageError
from reconciler.inventory.names import did_you_mean

VERBS = ("search", "show", "tree", "new", "toolchain")


@click.command("packages", cls=Command)
@click.argument("verb", metavar="|".join(VERBS))
@click.argument("name", metavar="NAME")
@click.argument("source", metavar="[SOURCE]", required=False)
@click.option("--set", "only", metavar="SET", help="search: only this set of reconciler.yml.")
@click.option("--system", type=System(), help="tree: for this system (default: this machine's).")
@json_option
@inventory_option
def command(
    *,
    verb: str,
    name: str,
    source: str | None,
    only: str | None,
    system: str | None,
    as_json: bool,
    inventory: str | None,
) -> int:
    """`search` finds packages whose name holds NAME, `show` tells versions, systems and outputs of one, `tree` what it
    refers to; `new` writes a first recipe, from a URL, pypi:PROJECT, a file beside the recipes, or a sample;
    `toolchain` pins the Debian packages of a toolchain to what this machine's mirrors have now. Talks to no host."""
    from reconciler.cli.context import project_of
    from reconciler.cli.options import Login
    from reconciler.cli.output import Output

    if verb not in VERBS:
        raise UsageError(
            f"packages {verb}: not one of {', '.join(VERBS)}", did_you_mean(verb, VERBS) or "packages --help"
        )
    if source is not None and verb != "new":
        raise UsageError(f"packages {verb} takes one NAME", "packages --help")
    output = Output()
    project = project_of(Login(inventory), output)
    if verb == "new":
        return _new(project, name, source, output)
    if verb == "toolchain":
        return _toolchain(project, name, output)
    text, document = {"search": _search, "show": _show, "tree": _tree}[verb](project, name, only, system)
    if as_json:
        output.json(document)
    else:
        output.data(text)
    return int(ExitStatus.OK)


def _search(project: Any, name: str, only: str | None, _: str | None) -> tuple[str, dict[str, Any]]:
    from reconciler.cli.render.packages import search_json, search_text
    from reconciler.fleet import catalogue

    found = catalogue.search(project, name, only)
    return search_text(found, name), search_json(found)


def _show(project: Any, name: str, _: str | None, __: str | None) -> tuple[str, dict[str, Any]]:
    from reconciler.cli.render.packages import show_json, show_text
    from reconciler.fleet import catalogue

    found = catalogue.show(project, name)
    return show_text(found), show_json(found)


def _tree(project: Any, name: str, _: str | None, system: str | None) -> tuple[str, dict[str, Any]]:
    from reconciler.cli.render.packages import tree_json, tree_text
    from reconciler.core.build.toolchain import host_system
    from reconciler.fleet import catalogue

    found = catalogue.tree(project, name, system or host_system())
    return tree_text(found), tree_json(found)


def _toolchain(project: Any, name: str, output: Any) -> int:
    """Write the definition of a toolchain, over one that is there: what is written by hand in it stays."""
    from reconciler.packages.toolchain_pins import renew

    renewed = renew(name, project.resolver.toolchains, project.recipe_folder)
    renewed.file.parent.mkdir(parents=True, exist_ok=True)
    renewed.file.write_text(renewed.text, encoding="utf-8")
    for system, lines in renewed.moved.items():
        for line in lines:
            output.note(f"{system}  {line}")
    output.data(os.path.relpath(renewed.file))
    return int(ExitStatus.OK)


def _new(project: Any, name: str, source: str | None, output: Any) -> int:
    """Write a recipe, and never over one."""
    from pathlib import Path

    from reconciler.packages.scaffold import scaffold

    folder: Path = project.recipe_folder
    recipe = folder / f"{name}.yml"
    if recipe.exists():
        raise UsageError(f"{recipe} is there already", "another name, or edit it")
    made = scaffold(name, source, folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = [recipe]
    for file, text in made.beside:
        if not (folder / file).exists():
            (folder / file).write_text(text, encoding="utf-8")
            written.append(folder / file)
    recipe.write_text(made.recipe, encoding="utf-8")
    for path in written:
        output.data(os.path.relpath(path))
    for each, origin in made.needs:
        if not (folder / f"{each}.yml").exists():
            output.note(f"next     reconciler packages new {each} {origin}".rstrip())
    output.note(f"next     reconciler build {name}")
    return int(ExitStatus.OK)
