"""The merge rule: entries keyed by name, from far to near.

A layer holds the blocks that are equally near to a host. In each layer, from the farthest: what it drops goes, which
must be there; then what it declares comes, in the place of an entry of the same name. Two blocks of one layer may say
the same; when they say different things of one name, or one drops what the other declares, that is a fault. The order
of the blocks within a layer, and so of the files, makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TypeVar

from reconciler.inventory.desired import Origin, PackageEntry
from reconciler.inventory.faults import FaultLog, InputError, short_places
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import (
    DEFAULT_ARCHITECTURE,
    DEFAULT_PRIORITY,
    Block,
    ProfileBlock,
    Wanted,
    architecture_name,
    dropped_name,
    package_name,
    priority_number,
    read_wanted,
    user_name,
)
from reconciler.inventory.templates import is_template
from reconciler.inventory.yaml import Node, Scalar
from reconciler.inventory.yaml import Sequence as SequenceNode

SYSTEM = ""  # the system's key among users' names
CONFLICT_HINT = "say it in a nearer group or host, or set ansible_group_priority"
CONFLICT_TAIL = "      on {}"

T = TypeVar("T")
Text = Callable[[Scalar], str]
Tree = Callable[[Node], Node]


@dataclass(frozen=True)
class Drop:
    """A name that a block drops, from the profile of `user`; a whole user where `name` is empty."""

    user: str
    name: str
    origin: Origin


@dataclass(frozen=True)
class Dropped:
    """An entry that was dropped on its way to a host, and by what."""

    entry: PackageEntry
    user: str
    by: Origin


@dataclass(frozen=True)
class Resolved:
    """A block as one host reads it: templates rendered, names known. `packages` has the profiles that it lists."""

    packages: Mapping[str, tuple[PackageEntry, ...]] = field(default_factory=dict)
    users: Mapping[str, Origin] = field(default_factory=dict)
    drops: tuple[Drop, ...] = ()
    architecture: Origin | None = None


@dataclass(frozen=True)
class Merged:
    """All layers on one another. `packages` has the profiles that some layer gives a list for."""

    architecture: str
    packages: Mapping[str, Mapping[str, PackageEntry]]
    dropped: tuple[Dropped, ...]
    faults: tuple[tuple[InputError, bool], ...]  # and whether the hosts go onto the message's last line


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
        for key in self._block.drop_users:
            for name in self._each(user_name, key):
                self._drops.append(Drop(name, "", self._origin(key, name)))
        packages = {user: tuple(entries) for user, entries in self._packages.items()}
        return Resolved(packages, self._users, tuple(self._drops), self._architecture())

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
            return PackageEntry(name, reference, self._origin(scalar, reference), priority)

        return self._each(entry, wanted.reference, wanted.priority)

    def _architecture(self) -> Origin | None:
        scalar = self._block.architecture
        named = [] if scalar is None else self._each(architecture_name, scalar)
        return None if scalar is None or not named else self._origin(scalar, named[0])

    def _origin(self, scalar: Scalar, text: str) -> Origin:
        return Origin(scalar.position, self._block.scope, text)


def merge(layers: Iterable[Sequence[Resolved]]) -> Merged:
    """One host's desired state from its layers, the farthest first. Its faults are in it: hosts share a result."""
    merger = _Merger()
    for layer in layers:
        merger.add(layer)
    return merger.merged()


class _Merger:
    def __init__(self) -> None:
        self._architecture = DEFAULT_ARCHITECTURE
        self._packages: dict[str, dict[str, PackageEntry]] = {}
        self._users: dict[str, Origin] = {}
        self._dropped: list[Dropped] = []
        self._faults: list[tuple[InputError, bool]] = []

    def merged(self) -> Merged:
        return Merged(self._architecture, self._packages, tuple(self._dropped), tuple(self._faults))

    def add(self, layer: Sequence[Resolved]) -> None:
        declared = _by_name(layer)
        said = sorted((pair for block in layer for pair in block.users.items()), key=lambda pair: pair[1].position)
        users = dict(reversed(said))
        for drop in _drops(layer):
            if drop.name:
                self._drop_package(drop, declared)
            else:
                self._drop_user(drop, users)
        self._users.update(users)
        for block in layer:
            for user in block.packages:
                self._packages.setdefault(user, {})
        for (user, name), same in declared.items():
            self._put(user, name, same)
        self._set_architecture(sorted((b.architecture for b in layer if b.architecture), key=lambda o: o.position))

    def _drop_package(self, drop: Drop, declared: Mapping[tuple[str, str], list[PackageEntry]]) -> None:
        held = self._packages.get(drop.user, {})
        against = declared.get((drop.user, drop.name))
        if against:
            self._contradiction(drop, against[0].origin)
        elif drop.name not in held:
            text = f"nothing to drop: no package '{drop.name}'{_of(drop.user)} comes from farther away"
            self._faults.append((InputError(drop.origin.position, text, did_you_mean(drop.name, held)), False))
        else:
            self._dropped.append(Dropped(held.pop(drop.name), drop.user, drop.origin))

    def _drop_user(self, drop: Drop, declared: Mapping[str, Origin]) -> None:
        if drop.user in declared:
            self._contradiction(drop, declared[drop.user])
        elif drop.user not in self._users:
            text = f"nothing to drop: no user '{drop.user}' comes from farther away"
            self._faults.append((InputError(drop.origin.position, text, did_you_mean(drop.user, self._users)), False))
        else:
            del self._users[drop.user]
            for entry in self._packages.pop(drop.user, {}).values():
                self._dropped.append(Dropped(entry, drop.user, drop.origin))

    def _contradiction(self, drop: Drop, declared: Origin) -> None:
        what = f"'{drop.name}'{_of(drop.user)}" if drop.name else f"user '{drop.user}'"
        lines = _table([(drop.origin, "drop"), (declared, declared.text)])
        text = f"{what} is dropped and declared at the same distance\n{lines}"
        self._faults.append((InputError(drop.origin.position, text, _way_out([drop.origin, declared])), True))

    def _put(self, user: str, name: str, entries: list[PackageEntry]) -> None:
        # Equal entries are one: the first place that says it is its origin.
        distinct = {(entry.reference, entry.priority): entry for entry in reversed(entries)}
        if len(distinct) > 1:
            self._faults.append((_declared_twice(f"'{name}'{_of(user)}", _described(entries)), True))
        before = self._packages[user].get(name)
        chosen = entries[0]
        if before is not None:
            older = (replace(before.origin, replaces=()), *before.origin.replaces)
            chosen = replace(chosen, origin=replace(chosen.origin, replaces=older))
        self._packages[user][name] = chosen

    def _set_architecture(self, said: Sequence[Origin]) -> None:
        if len({origin.text for origin in said}) > 1:
            self._faults.append((_declared_twice("'system'", [(origin, origin.text) for origin in said]), True))
        if said:
            self._architecture = said[0].text


def _by_name(layer: Sequence[Resolved]) -> dict[tuple[str, str], list[PackageEntry]]:
    """The entries of a layer by user and name, those of one name in the order of their positions."""
    found: dict[tuple[str, str], list[PackageEntry]] = {}
    for block in layer:
        for user, entries in block.packages.items():
            for entry in entries:
                found.setdefault((user, entry.name), []).append(entry)
    for same in found.values():
        same.sort(key=lambda entry: entry.origin.position)
    return found


def _drops(layer: Sequence[Resolved]) -> list[Drop]:
    """The drops of a layer, each name once, whole users last: what a user loses by itself is lost first."""
    ordered = sorted(
        (drop for block in layer for drop in block.drops),
        key=lambda drop: (not drop.name, drop.user, drop.name, drop.origin.position),
    )
    return [next(same) for _, same in groupby(ordered, key=lambda drop: (drop.user, drop.name))]


def _of(user: str) -> str:
    return f" of user {user}" if user else ""


def _described(entries: Sequence[PackageEntry]) -> list[tuple[Origin, str]]:
    plain = len({entry.reference for entry in entries}) > 1
    return [(e.origin, e.reference if plain else f"{e.reference} (priority {e.priority})") for e in entries]


def _declared_twice(what: str, said: Sequence[tuple[Origin, str]]) -> InputError:
    text = f"{what} is declared twice at the same distance\n{_table(said)}"
    return InputError(said[0][0].position, text, _way_out([origin for origin, _ in said]))


def _way_out(said: Sequence[Origin]) -> str:
    return "keep one of them" if len({origin.scope for origin in said}) == 1 else CONFLICT_HINT


def _table(said: Sequence[tuple[Origin, str]]) -> str:
    """One line for each place: where, what, and in whose name."""
    places = short_places([origin.position for origin, _ in said])
    width, text_width = max(map(len, places)) + 5, max(len(text) for _, text in said) + 3
    return "\n".join(
        f"{place:<{width}}{text:<{text_width}}({origin.scope})"
        for place, (origin, text) in zip(places, said, strict=True)
    )
