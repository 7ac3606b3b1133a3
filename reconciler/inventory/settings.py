"""The project's own settings, and where its inventory is.

reconciler.yml, at the project's root, all optional:

requires: ">=1.0,<2"     the versions of this program that may be used: == != >= <= > <, by commas
forks: N                 hosts worked on at once
sets: [SET, ...]         where packages come from, and in which order (sets.py)
caches: [CACHE, ...]     binary caches that are asked before anything is built (sets.py)
builders: [BUILDER, ...] hosts that build for the project (builders.py)
builds: {memory: 8G, processes: N, time: 2h, log: 64M}    what one build may use, wherever it is made
keep: {generations: N, days: N}    what `gc` keeps of each profile, where the inventory says nothing
python: REFERENCE        the package that `doctor --bring-python` brings to hosts that have Nix and no Python
"""

from __future__ import annotations

import operator
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler import __version__
from reconciler.core.build.events import BuildLimits
from reconciler.core.errors import UsageError
from reconciler.core.profile.prune import Retention
from reconciler.inventory.builders import CONTROLLER, BuilderSpec, read_builders
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import nearest
from reconciler.inventory.schema import KEEP_HINT, KEEP_KEYS, MOST_KEPT
from reconciler.inventory.sets import DEFAULT_SETS, CacheSpec, SetSpec, read_caches, read_sets
from reconciler.inventory.yaml import Entry, Node, Scalar, fail, load
from reconciler.inventory.yaml import Mapping as MappingNode

FILE = "reconciler.yml"
INVENTORIES = "inventories"
VARIABLE = "RECONCILER_INVENTORY"
DEFAULT_FORKS = 20
MAX_FORKS = 1000
DEFAULT_PYTHON = "python3"

EVERYTHING = Retention()
NO_OTHER_LIMITS = BuildLimits()
BUILDS_KEYS = ("memory", "processes", "time", "log")
BUILDS_HINT = "builds: {memory: 8G, processes: 8192, time: 6h, log: 64M}, or some of them"
_KEYS = ("requires", "forks", "sets", "caches", "keep", "builders", "builds", "python")
_SIZE = re.compile(r"([1-9][0-9]{0,11})([KMGT]?)")
_TIME = re.compile(r"([1-9][0-9]{0,8})(s|m|h|d)")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_CONDITION = re.compile(r"(?P<sign>==|!=|>=|<=|>|<)\s*(?P<version>[0-9]+(?:\.[0-9]+)*)")
_SIGNS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Settings:
    """What reconciler.yml says; without the file, the defaults. `controller`: what it says of this machine as a
    builder."""

    requires: str | None = None
    forks: int = DEFAULT_FORKS
    sets: tuple[SetSpec, ...] = DEFAULT_SETS
    caches: tuple[CacheSpec, ...] = ()
    keep: Retention = EVERYTHING
    builds: BuildLimits = NO_OTHER_LIMITS
    builders: tuple[BuilderSpec, ...] = ()
    controller: BuilderSpec | None = None
    python: str = DEFAULT_PYTHON

    def check_version(self, version: str) -> None:
        """UsageError when the project asks for another version of this program than `version`."""
        if self.requires is not None and not version_matches(version, self.requires):
            raise UsageError(
                f"this project needs reconciler {self.requires}; this is {version}", f"install it, or change {FILE}"
            )


def load_settings(directory: Path) -> Settings:
    """The settings of a project; Faults with everything wrong with them, UsageError when they want another version."""
    path = directory / FILE
    shown = os.path.relpath(path)
    if not path.exists():
        return Settings()
    log = FaultLog()
    settings = Settings()
    with log.catching():
        settings = _settings(load(path, str(path) if shown.startswith("..") else shown), log)
    log.check()
    settings.check_version(__version__)
    return settings


def find_inventory(option: str | None, environment: Mapping[str, str], cwd: Path) -> Path:
    """The inventory that is meant: what -i names, else $RECONCILER_INVENTORY, else the only one under inventories/."""
    for given, said_by in ((option, "-i"), (environment.get(VARIABLE), f"${VARIABLE}")):
        if given:
            if not (cwd / given).exists():
                raise UsageError(f"{said_by} {given}: no such inventory", _there_are(cwd))
            return Path(given)
    found = _inventories(cwd)
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path) for path in found)
        raise UsageError(f"which inventory? there are {len(found)}: {names}", f"-i {found[0]}, or ${VARIABLE}")
    raise UsageError(f"no inventory: nothing under {INVENTORIES}/", "-i PATH names one; reconciler init makes one")


def project_directory(inventory: Path, cwd: Path) -> Path:
    """The project's root: the nearest folder above the inventory that has reconciler.yml, else `inventories/`."""
    start = cwd / inventory
    above = [start, *start.parents] if start.is_dir() else list(start.parents)
    for directory in above:
        if (directory / FILE).is_file():
            return directory
    for directory in above:
        if directory.name == INVENTORIES:
            return directory.parent
    return cwd


def version_matches(version: str, requires: str) -> bool:
    """Whether a version meets every condition of a list; numbers only, missing ones count as 0."""
    conditions = [_CONDITION.fullmatch(part.strip()) for part in requires.split(",")]
    return all(
        condition is not None and _SIGNS[condition["sign"]](_numbers(version), _numbers(condition["version"]))
        for condition in conditions
    )


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"[0-9]+(?:\.[0-9]+)*", version)
    numbers = [int(part) for part in leading[0].split(".")] if leading else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _inventories(cwd: Path) -> list[Path]:
    """What lies under inventories/, named from where the command is typed."""
    for directory in (cwd, *cwd.parents):
        folder = directory / INVENTORIES
        if folder.is_dir():
            found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
            return [Path(os.path.relpath(path, cwd)) for path in found]
    return []


def _there_are(cwd: Path) -> str | None:
    found = _inventories(cwd)
    return f"there is {', '.join(str(path) for path in found)}" if found else None


def _settings(node: Node, log: FaultLog) -> Settings:
    entries = _entries(node, _KEYS, FILE, log)
    settings = Settings()
    builders = read_builders(entries["builders"].value, log) if "builders" in entries else ()
    return Settings(
        requires=_requires(entries["requires"].value, log) if "requires" in entries else None,
        forks=_number(entries["forks"], 1, MAX_FORKS, log) or settings.forks if "forks" in entries else settings.forks,
        sets=read_sets(entries["sets"].value, log) if "sets" in entries else settings.sets,
        caches=read_caches(entries["caches"].value, log) if "caches" in entries else settings.caches,
        keep=_keep(entries["keep"].value, log) if "keep" in entries else settings.keep,
        python=_reference(entries["python"].value, log) if "python" in entries else settings.python,
        builders=tuple(each for each in builders if each.host != CONTROLLER),
        controller=next((each for each in builders if each.host == CONTROLLER), None),
        builds=_builds(entries["builds"].value, log) if "builds" in entries else settings.builds,
    )


def _entries(node: Node, known: tuple[str, ...], where: str, log: FaultLog) -> dict[str, Entry]:
    if isinstance(node, Scalar) and node.is_null:
        return {}
    if not isinstance(node, MappingNode):
        fail(node.position, f"{where} is a mapping: {', '.join(known)}")
    for name, entry in node.entries.items():
        if name not in known:
            meant = nearest(name, known)
            advice = f"did you mean '{meant}'?" if meant else f"known keys: {', '.join(sorted(known))}"
            log.add(InputError(entry.key.position, f"unknown key '{name}' in {where}; {advice}"))
    return {name: entry for name, entry in node.entries.items() if name in known}


def _keep(node: Node, log: FaultLog) -> Retention:
    entries = _entries(node, KEEP_KEYS, "keep", log)
    if not isinstance(node, MappingNode) or not node.entries:
        log.add(InputError(node.position, "keep says nothing", KEEP_HINT))
    numbers = {name: _number(entry, 1, MOST_KEPT, log) for name, entry in entries.items()}
    return Retention(numbers.get("generations"), numbers.get("days"))


def _builds(node: Node, log: FaultLog) -> BuildLimits:
    entries = _entries(node, BUILDS_KEYS, "builds", log)
    found: dict[str, Any] = {}
    for name, entry in entries.items():
        with log.catching():
            if name == "processes":
                found["max_processes"] = _number(entry, 10, 1_000_000, log) or NO_OTHER_LIMITS.max_processes
            elif name == "time":
                found["timeout"] = float(_seconds(entry.value))
            else:
                found[f"max_{name}"] = _bytes(entry.value)
    return BuildLimits(**found)


def _bytes(node: Node) -> int:
    match = _SIZE.fullmatch(node.text) if isinstance(node, Scalar) else None
    if match is None:
        fail(node.position, "a size is a number with K, M, G or T behind it", BUILDS_HINT)
    return int(match[1]) << 10 * " KMGT".index(match[2] or " ")


def _seconds(node: Node) -> int:
    match = _TIME.fullmatch(node.text) if isinstance(node, Scalar) else None
    if match is None:
        fail(node.position, "a time is a number with s, m, h or d behind it", BUILDS_HINT)
    return int(match[1]) * _SECONDS[match[2]]


def _reference(node: Node, log: FaultLog) -> str:
    text = node.text if isinstance(node, Scalar) else ""
    if text and not text.isspace():
        return text
    log.add(InputError(node.position, "python is not a package", "write `python: python3`, say"))
    return DEFAULT_PYTHON


def _requires(node: Node, log: FaultLog) -> str | None:
    text = node.text if isinstance(node, Scalar) else ""
    if all(_CONDITION.fullmatch(part.strip()) for part in text.split(",")):
        return text
    log.add(InputError(node.position, "requires is not a list of conditions", 'write ">=1.0,<2"'))
    return None


def _number(entry: Entry, least: int, most: int, log: FaultLog) -> int | None:
    text = entry.value.text if isinstance(entry.value, Scalar) else ""
    if text.isascii() and text.isdecimal() and least <= int(text) <= most:
        return int(text)
    log.add(InputError(entry.value.position, f"{entry.key.text} is not a number from {least} to {most}"))
    return None
