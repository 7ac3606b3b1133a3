"""What the blocks of an inventory say to one host: templates rendered, names known, everything checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.core.profile.prune import Retention
from reconciler.inventory.desired import Origin, PackageEntry
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.schema import (
    DEFAULT_PRIORITY,
    Block,
    ProfileBlock,
    Wanted,
    architecture_name,
    build_place,
    dropped_name,
    keep_number,
    nixos_system,
    package_name,
    place_name,
    priority_number,
    read_wanted,
    substitute_place,
    user_name,
)
from reconciler.inventory.templates import is_template
from reconciler.inventory.yaml import Node, Scalar
from reconciler.inventory.yaml import Sequence as SequenceNode

# Profiles are keyed by their user's name; the system's by nothing, one at a place by what no user can be called.
SYSTEM = ""
PLACE = "profiles:"

T = TypeVar("T")
Text = Callable[[Scalar], str]
Tree = Callable[[Node], Node]


@dataclass(frozen=True)
class Drop:
    """A name that a block drops, from the profile of `user` (a key as SYSTEM and PLACE say); the whole profile where
    `name` is empty."""

    user: str
    name: str
    origin: Origin


@dataclass(frozen=True)
class Kept:
    """What one `keep` says, whole, and where."""

    retention: Retention
    origin: Origin


@dataclass(frozen=True)
class Resolved:
    """A block as one host reads it: templates rendered, names known. `packages` has the profiles that it lists."""

    packages: Mapping[str, tuple[PackageEntry, ...]] = field(default_factory=dict)
    users: Mapping[str, Origin] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    architecture: Origin | None = None
    keep: Kept | None = None
    build_on: Origin | None = None
    substitute_on: Origin | None = None
    nixos: Origin | None = None


def resolve_fixed(block: Block, log: FaultLog) -> Resolved:
    """What a block says to every host alike: its templates are left out."""
    return _Resolver(block, lambda scalar: scalar.text, lambda node: node, log, None).resolved()


def resolve(block: Block, text: Text, tree: Tree, log: FaultLog, host: str) -> Resolved:
    """What a block says to one host; `text` and `tree` render its templates, whose faults are logged with `host`."""
    return _Resolver(block, text, tree, log, host).resolved()


class _Resolver:
    def __init__(self, block: Block, text: Text, tree: Tree, log: FaultLog, host: str | None) -> None:
        self._block = block
        self._text = text
        self._tree = tree
        self._log = log
        self._host = host
        self._packages: dict[str, list[PackageEntry]] = {}
        self._users: dict[str, Origin] = {}
        self._drops: list[Drop] = []

    def resolved(self) -> Resolved:
        self._profile(SYSTEM, self._block.system)
        for key, profile in self._block.users:
            for name in self._each(user_name, key):
                self._users.setdefault(name, self._origin(key, name))
                self._profile(name, profile)
        for key, profile in self._block.profiles:
            for name in self._each(place_name, key):
                self._users.setdefault(PLACE + name, self._origin(key, name))
                self._profile(PLACE + name, profile)
        for key in self._block.drop_users:
            for name in self._each(user_name, key):
                self._drops.append(Drop(name, "", self._origin(key, name)))
        for key in self._block.drop_profiles:
            for name in self._each(place_name, key):
                self._drops.append(Drop(PLACE + name, "", self._origin(key, name)))
        packages = {user: tuple(entries) for user, entries in self._packages.items()}
        return Resolved(
            packages,
            self._users,
            tuple(self._drops),
            self._architecture(),
            self._keep(),
            self._place(self._block.build_on, build_place),
            self._place(self._block.substitute_on, substitute_place),
            self._place(self._block.nixos, nixos_system),
        )

    def _profile(self, user: str, block: ProfileBlock) -> None:
        if block.packages is not None:
            entries = self._packages.setdefault(user, [])
            for wanted in self._wanted(block.packages):
                entries += self._entry(wanted)
        for key in block.drop_packages:
            for name in self._each(dropped_name, key):
                self._drops.append(Drop(user, name, self._origin(key, name)))

    def _each(self, parse: Callable[[str, Scalar], T], scalar: Scalar, *others: Scalar | None) -> list[T]:
        """What a scalar says: nothing where that is a fault, or a template that no host is there to render.

        `others` are scalars that `parse` reads too.
        """
        templated = any(one is not None and is_template(one) for one in (scalar, *others))
        if not templated or self._host is not None:
            with self._log.catching(self._host if templated else None):
                return [parse(self._text(scalar), scalar)]
        return []

    def _wanted(self, packages: tuple[Wanted, ...] | Scalar) -> tuple[Wanted, ...]:
        if not isinstance(packages, Scalar):
            return packages
        return next(iter(self._each(self._rendered, packages)), ())

    def _rendered(self, _: str, packages: Scalar) -> tuple[Wanted, ...]:
        value = self._tree(packages)
        if not isinstance(value, SequenceNode):
            raise InputError(packages.position, "packages is a template that gives no list")
        return tuple(read_wanted(item) for item in value.items)

    def _entry(self, wanted: Wanted) -> list[PackageEntry]:
        def entry(reference: str, scalar: Scalar) -> PackageEntry:
            name = package_name(reference, scalar)
            priority = DEFAULT_PRIORITY
            if wanted.priority is not None:
                priority = priority_number(self._text(wanted.priority), wanted.priority)
            place = ""
            if wanted.build_on is not None:
                place = build_place(self._text(wanted.build_on), wanted.build_on)
            return PackageEntry(name, reference, self._origin(scalar, reference), priority, place)

        return self._each(entry, wanted.reference, wanted.priority, wanted.build_on)

    def _architecture(self) -> Origin | None:
        scalar = self._block.architecture
        named = [] if scalar is None else self._each(architecture_name, scalar)
        return None if scalar is None or not named else self._origin(scalar, named[0])

    def _place(self, scalar: Scalar | None, parse: Callable[[str, Scalar], str]) -> Origin | None:
        named = [] if scalar is None else self._each(parse, scalar)
        return None if scalar is None or not named else self._origin(scalar, named[0])

    def _keep(self) -> Kept | None:
        block = self._block.keep
        if block is None:
            return None
        generations = [] if block.generations is None else self._each(keep_number, block.generations)
        days = [] if block.days is None else self._each(keep_number, block.days)
        if len(generations) + len(days) < len(block.scalars):
            return None
        retention = Retention(next(iter(generations), None), next(iter(days), None))
        text = ", ".join([*(f"generations: {n}" for n in generations), *(f"days: {n}" for n in days)])
        return Kept(retention, self._origin(block.scalars[0], text))

    def _origin(self, scalar: Scalar, text: str) -> Origin:
        return Origin(scalar.position, self._block.scope, text)
