"""The merge rule: entries keyed by name, from far to near.

A layer holds the blocks that are equally near to a host. In each layer, from the farthest: what it drops goes, which
must be there; then what it declares comes, in the place of an entry of the same name. Two blocks of one layer may say
the same; when they say different things of one name, or one drops what the other declares, that is a fault. The order
of the blocks within a layer, and so of the files, makes no difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from reconciler.core.profile.names import DEFAULT, ProfileId
from reconciler.inventory.desired import Origin, PackageEntry
from reconciler.inventory.faults import InputError, short_places
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.resolved import PLACE, SYSTEM, Drop, Kept, Resolved

CONFLICT_HINT = "say it in a nearer group or host, or set ansible_group_priority"
CONFLICT_TAIL = "      on {}"


@dataclass(frozen=True)
class Dropped:
    """An entry that was dropped on its way to a host, and by what."""

    entry: PackageEntry
    user: str
    by: Origin


@dataclass(frozen=True)
class Merged:
    """All layers on one another. `packages` has the profiles that some layer gives a list for."""

    architecture: Origin | None
    packages: Mapping[str, Mapping[str, PackageEntry]]
    dropped: tuple[Dropped, ...]
    faults: tuple[tuple[InputError, bool], ...]  # and whether the hosts go onto the message's last line
    keep: Kept | None = None
    build_on: Origin | None = None
    substitute_on: Origin | None = None
    nixos: Origin | None = None


def merge(layers: Iterable[Sequence[Resolved]]) -> Merged:
    """One host's desired state from its layers, the farthest first. Its faults are in it: hosts share a result."""
    merger = _Merger()
    for layer in layers:
        merger.add(layer)
    return merger.merged()


class _Merger:
    def __init__(self) -> None:
        self._architecture: Origin | None = None
        self._packages: dict[str, dict[str, PackageEntry]] = {}
        self._users: dict[str, Origin] = {}
        self._dropped: list[Dropped] = []
        self._faults: list[tuple[InputError, bool]] = []
        self._keep: Kept | None = None
        self._build_on: Origin | None = None
        self._substitute_on: Origin | None = None
        self._nixos: Origin | None = None

    def merged(self) -> Merged:
        packages = self._packages if self._nixos is None else self._with_default(self._nixos)
        return Merged(
            self._architecture,
            packages,
            tuple(self._dropped),
            tuple(self._faults),
            self._keep,
            self._build_on,
            self._substitute_on,
            self._nixos,
        )

    def _with_default(self, nixos: Origin) -> dict[str, dict[str, PackageEntry]]:
        """The profiles of a NixOS host: its system's packages are those of its `default` profile."""
        packages = dict(self._packages)
        default = PLACE + DEFAULT
        if SYSTEM not in packages:
            return packages
        if packages.get(default):
            first = min((entry.origin for entry in packages[default].values()), key=lambda origin: origin.position)
            text = "the packages of a NixOS host are those of its default profile, which has packages of its own here"
            told = _table([(nixos, "nixos"), (first, first.text)])
            hint = f"say them all under `packages`, or all under `profiles: {{{DEFAULT}: ...}}`"
            self._faults.append((InputError(first.position, f"{text}\n{told}", hint), True))
        packages[default] = packages.pop(SYSTEM)
        return packages

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
        self._set_keep(sorted((b.keep for b in layer if b.keep), key=lambda kept: kept.origin.position))
        self._build_on = self._place("build_on", [block.build_on for block in layer]) or self._build_on
        self._nixos = self._place("nixos", [block.nixos for block in layer]) or self._nixos
        fetched = self._place("substitute_on", [block.substitute_on for block in layer])
        self._substitute_on = fetched or self._substitute_on

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
            kind, name = _kind_and_name(drop.user)
            text = f"nothing to drop: no {kind} '{name}' comes from farther away"
            others = [other for which, other in map(_kind_and_name, self._users) if which == kind]
            self._faults.append((InputError(drop.origin.position, text, did_you_mean(name, others)), False))
        else:
            del self._users[drop.user]
            for entry in self._packages.pop(drop.user, {}).values():
                self._dropped.append(Dropped(entry, drop.user, drop.origin))

    def _contradiction(self, drop: Drop, declared: Origin) -> None:
        kind, name = _kind_and_name(drop.user)
        what = f"'{drop.name}'{_of(drop.user)}" if drop.name else f"{kind} '{name}'"
        lines = _table([(drop.origin, "drop"), (declared, declared.text)])
        text = f"{what} is dropped and declared at the same distance\n{lines}"
        self._faults.append((InputError(drop.origin.position, text, _way_out([drop.origin, declared])), True))

    def _put(self, user: str, name: str, entries: list[PackageEntry]) -> None:
        # Equal entries are one: the first place that says it is its origin.
        distinct = {(entry.reference, entry.priority, entry.build_on): entry for entry in reversed(entries)}
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
            self._architecture = said[0]

    def _place(self, key: str, given: Iterable[Origin | None]) -> Origin | None:
        """What one layer says by `build_on`, `substitute_on` or `nixos`."""
        said = sorted(filter(None, given), key=lambda origin: origin.position)
        if len({origin.text for origin in said}) > 1:
            self._faults.append((_declared_twice(f"'{key}'", [(origin, origin.text) for origin in said]), True))
        return said[0] if said else None

    def _set_keep(self, said: Sequence[Kept]) -> None:
        if len({kept.retention for kept in said}) > 1:
            origins = [(kept.origin, kept.origin.text) for kept in said]
            self._faults.append((_declared_twice("'keep'", origins), True))
        if said:
            self._keep = said[0]


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
    return " of {} {}".format(*_kind_and_name(user)) if user else ""


def _kind_and_name(user: str) -> tuple[str, str]:
    """`user` or `profile`, and the name that it has in the inventory."""
    return ("profile", user.removeprefix(PLACE)) if user.startswith(PLACE) else ("user", user)


def profile_id(user: str) -> ProfileId:
    """The profile that a key of the merge rule stands for."""
    return ProfileId(place=user.removeprefix(PLACE)) if user.startswith(PLACE) else ProfileId(user)


def _described(entries: Sequence[PackageEntry]) -> list[tuple[Origin, str]]:
    if len({entry.reference for entry in entries}) > 1:
        return [(entry.origin, entry.reference) for entry in entries]
    if len({entry.priority for entry in entries}) > 1:
        return [(entry.origin, f"{entry.reference} (priority {entry.priority})") for entry in entries]
    return [(e.origin, f"{e.reference} (build_on {e.build_on})" if e.build_on else e.reference) for e in entries]


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
