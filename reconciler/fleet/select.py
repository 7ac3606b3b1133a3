"""Which hosts of the inventory a command means, and which of their profiles."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core.errors import UsageError
from reconciler.core.profile.names import ProfileId
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.names import did_you_mean


@dataclass(frozen=True)
class Selection:
    """`hosts` and `limit` are patterns of hosts; neither `system` nor `users` means every profile."""

    hosts: str
    limit: str | None = None
    system: bool = False
    users: str | None = None

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

    def require_users(self, inventory: Inventory, hosts: Sequence[str]) -> None:
        """UsageError for a part of `users` that names no user whom the inventory declares on these hosts."""
        if self.users is None:
            return
        known = sorted({user for host in hosts for user in inventory.desired(host).users})
        parts = [part.strip() for part in self.users.split(",") if part.strip()]
        if not parts:
            raise UsageError("--users is empty", hint="leave it out for all of them")
        for part in parts:
            if not fnmatch.filter(known, part):
                listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
                hint = did_you_mean(part, known) or (f"there are: {listed}" if known else "they have no users declared")
                raise UsageError(f"--users '{part}' matches no user of these hosts", hint=hint)

    @property
    def everything(self) -> bool:
        """Whether every profile of a host is meant."""
        return not self.system and self.users is None

    def includes(self, profile: ProfileId) -> bool:
        if self.everything:
            return True
        if profile.is_system:
            return self.system
        return self.users is not None and any(
            fnmatch.fnmatchcase(profile.user, part.strip()) for part in self.users.split(",")
        )
