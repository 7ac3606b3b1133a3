"""Which hosts of the inventory a command means, and which of their profiles."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from reconciler.core.errors import UsageError
from reconciler.core.profile.names import ProfileId, selects
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.names import did_you_mean


@dataclass(frozen=True)
class Selection:
    """`hosts` and `limit` are patterns of hosts; none of `system`, `users` and `profiles` means every profile.
    `profiles` are patterns of `default` and of paths."""

    hosts: str
    limit: str | None = None
    system: bool = False
    users: str | None = None
    profiles: str | None = None

    def names(self, inventory: Inventory) -> tuple[str, ...]:
        """The hosts meant, in the inventory's order; UsageError for a part that matches nothing."""
        chosen = inventory.select(self.hosts)
        if self.limit is None:
            return tuple(chosen)
        within = set(inventory.select(self.limit))
        limited = tuple(name for name in chosen if name in within)
        if not limited:
            raise UsageError(
                f"pattern '{self.hosts}' with --limit '{self.limit}' leaves no host",
                hint=f"'{self.hosts}' matches {', '.join(chosen[:5])}{', …' if len(chosen) > 5 else ''}",
            )
        return limited

    def require_declared(self, inventory: Inventory, hosts: Sequence[str], managed: Collection[ProfileId] = ()) -> None:
        """UsageError for a part of `users` or `profiles` that names nothing which the inventory declares on these
        hosts, nor one of the `managed` profiles that they have."""
        desired = [inventory.desired(host) for host in hosts]
        users = {user for each in desired for user in each.users} | {one.user for one in managed if one.user}
        places = {place for each in desired for place in each.places} | {one.place for one in managed if one.place}
        _require("user", self.users, users)
        _require("profile", self.profiles, places)

    @property
    def everything(self) -> bool:
        """Whether every profile of a host is meant."""
        return not self.system and self.users is None and self.profiles is None

    def includes(self, profile: ProfileId) -> bool:
        return selects(profile, self.system, self.users, self.profiles)

    @property
    def single(self) -> bool:
        """Whether no more than one profile of a host can be meant."""
        named = [each for each in (self.users, self.profiles) if each is not None]
        return len(named) + self.system == 1 and not any(set("*?[,") & set(each) for each in named)


def _require(kind: str, patterns: str | None, names: Collection[str]) -> None:
    if patterns is None:
        return
    known = sorted(names)
    parts = [part.strip() for part in patterns.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"--{kind}s is empty", hint="leave it out for all of them")
    for part in parts:
        if not fnmatch.filter(known, part):
            listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
            hint = did_you_mean(part, known) or (f"there are: {listed}" if known else f"they have no {kind}s declared")
            raise UsageError(f"--{kind}s '{part}' matches no {kind} of these hosts", hint=hint)
