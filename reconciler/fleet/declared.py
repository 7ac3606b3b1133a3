"""From the packages of a profile back to the lines of the inventory that ask for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.profile.environment import COLLISION, label
from reconciler.core.profile.names import ProfileId
from reconciler.inventory.desired import PackageEntry, Position
from reconciler.inventory.inventory import Inventory
from reconciler.packages.model import Package
from reconciler.packages.resolver import Resolver


@dataclass(frozen=True)
class Declared:
    """One package of a profile, with the entry that asks for it."""

    entry: PackageEntry
    package: Package

    @property
    def position(self) -> Position:
        return self.entry.origin.position

    @property
    def label(self) -> str:
        return label(self.package.output)


def declared(inventory: Inventory, resolver: Resolver, host: str, profile: ProfileId) -> tuple[Declared, ...]:
    """The packages of one profile, in the order of their lines; none where the inventory does not name it."""
    desired = inventory.desired(host)
    spec = desired.profiles.get(profile)
    found = [
        Declared(entry, resolver.resolve(entry.reference, desired.architecture, entry.origin.position))
        for entry in (spec.packages.values() if spec else ())
    ]
    return tuple(sorted(found, key=lambda each: each.position))


def located(error: ReconcilerError, profile: ProfileId, packages: Sequence[Declared]) -> UsageError | None:
    """A collision within an environment (a CollisionError, or what is left of one that came over the wire) as the user
    of the inventory needs it: whose packages, and which lines; None when it is not between two of `packages`."""
    if not error.message.startswith(COLLISION):
        return None
    first_line, *rest = error.message.removeprefix(COLLISION).split("\n")
    for one, other in combinations(packages, 2):
        for names in (f"{one.label} and {other.label}", f"{other.label} and {one.label}"):
            if first_line.endswith(f": {names}"):
                file = first_line.removesuffix(f": {names}")
                return UsageError("\n".join([_told(file, profile, one, other), *rest]), _way_out(error, one, rest))
    return None


def _told(file: str, profile: ProfileId, one: Declared, other: Declared) -> str:
    return f"two packages of {profile.owner} own {file}: {one.label} and {other.label} ({_places(one, other)})"


def _places(one: Declared, other: Declared) -> str:
    """`people/alice.yml:3, :4`."""
    first, second = one.position, other.position
    file = "" if second.file == first.file else second.file
    return f"{first.file}:{first.line}, {file}:{second.line}"


def _way_out(error: ReconcilerError, one: Declared, rest: Sequence[str]) -> str | None:
    if not rest:  # a file against a directory, which no priority joins
        return error.hint
    return f"- {one.entry.reference}: {{priority: {one.entry.priority - 1}}}      lower wins; both stay installed"
