"""Random sets of packages, made to meet in their files: what `test_environments` gives to Nix and to us."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element
from reconciler.core.store.batch import Batch
from tests.core.profile.packages import tree

DIRECTORIES = ("bin", "lib", "share", "share/man", "share/man/man1", "share/doc", "etc", "share/info", "nix-support")
SHARED = ("one", "two", "three", "doc", "man", "dir", "log")  # few names, so that packages meet in them
LEFT_OUT = (".hidden", "log", "manifest.nix", "manifest.json", "propagated-build-inputs", "perllocal.pod")


def package_set(chance: random.Random, batch: Batch, number: int) -> list[Element]:
    """One set, its packages added to a store: one to seven, some of them with priorities, some brought along."""
    made: list[StorePath] = []
    for index in range(chance.randint(1, 7)):
        name = f"{chance.choice('abc')}{number}-{index}.{chance.randint(0, 9)}"
        content, references = _package(chance, f"{number}-{index}", made)
        made.append(batch.add_tree(name, tree(content), sorted(references)))
    wanted = chance.sample(made, chance.randint(1, len(made)))
    priorities = (4, 5, 5, 5, 6) if number % 4 else (5,)
    return [Element(path, chance.choice(priorities)) for path in wanted]


def _package(chance: random.Random, own: str, others: Sequence[StorePath]) -> tuple[Any, set[StorePath]]:
    """A package's content as `tests.core.profile.packages.tree` takes it, and the packages that it refers to."""
    references: set[StorePath] = set()
    kind = chance.random()
    if kind < 0.04:
        return f"only a file {own}", references
    if kind < 0.08 and others:
        target = chance.choice(others)
        return (str(target),), {target}
    top: dict[str, Any] = {}
    for _ in range(chance.randint(1, 6)):
        directory = _descend(top, chance.choice(DIRECTORIES))
        for _ in range(chance.randint(0, 3)):
            # Mostly names of its own: if every set clashed, only the refusals would be compared.
            name = chance.choice(SHARED) if chance.random() < 0.15 else f"f{own}-{chance.randrange(9)}"
            directory.setdefault(name, _entry(chance, own, others, references))
    if chance.random() < 0.3:
        top.setdefault(chance.choice(LEFT_OUT), "not shown")
    top["data"] = {"file": "d", "other": {}} if chance.random() < 0.1 else {f"d{own}": "d"}
    if chance.random() < 0.2:
        top.setdefault("sbin", ("data",))
    if chance.random() < 0.1:
        top.setdefault("self", (".",))  # without end, where two packages have it
    if chance.random() < 0.35 and others:
        _descend(top, "nix-support")["propagated-user-env-packages"] = _listing(chance, others, references)
    return top, references


def _descend(top: dict[str, Any], path: str) -> dict[str, Any]:
    directory = top
    for name in path.split("/"):
        below = directory.get(name)
        if not isinstance(below, dict):
            below = directory[name] = {}
        directory = below
    return directory


def _entry(chance: random.Random, own: str, others: Sequence[StorePath], references: set[StorePath]) -> Any:
    kind = chance.random()
    if kind < 0.6:
        return f"of {own}"
    if kind < 0.7:
        return {f"x{own}": "x", chance.choice(("x", f"y{own}", ".z")): "y"} if kind < 0.68 else {}
    if kind < 0.75 and others:
        target = chance.choice(others)
        references.add(target)
        return (f"{target}/{chance.choice((*DIRECTORIES, 'bin/one'))}",)
    return (
        chance.choice(("nowhere", "/opt/nowhere/x", f"f{own}-{chance.randrange(9)}", "../data", "../../data/file")),
    )


def _listing(chance: random.Random, others: Sequence[StorePath], references: set[StorePath]) -> str:
    listed = chance.sample(others, chance.randint(0, min(3, len(others))))
    references.update(listed)
    return "".join(f"{path}{chance.choice((' ', chr(10), '  ', ' ' + chr(10)))}" for path in listed)
