"""What a deployment does with a system profile, in nixos-rebuild's words."""

from __future__ import annotations

import enum


class Action(enum.Enum):
    """`switch` activates and sets the profile, `boot` only sets it, `test` only activates, `stage` copies and roots,
    `build` stays on the controller."""

    SWITCH = "switch"
    BOOT = "boot"
    TEST = "test"
    STAGE = "stage"
    BUILD = "build"

    @property
    def sets_profile(self) -> bool:
        return self in (Action.SWITCH, Action.BOOT)

    @property
    def activates(self) -> bool:
        return self in (Action.SWITCH, Action.TEST)

    @property
    def switches(self) -> bool:
        """Whether a host does something other after it than before."""
        return self.sets_profile or self.activates

    @property
    def reaches_hosts(self) -> bool:
        return self is not Action.BUILD
