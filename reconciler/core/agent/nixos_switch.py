"""Switching the system of a NixOS host: it is activated by its own program, which nothing can make one step.

    /nix/var/reconciler/activating    `reconciler-activating 1`. There from before a system is activated, or the boot
                                      loader changed, until both are what the profile is. Where it is found, a switch
                                      was cut off: what runs may be half started, what boots may be another system.

The next switch of the system does all of it again, also where the profile is right already.
"""

from __future__ import annotations

import contextlib
import os
from typing import Callable

from reconciler.core import fs
from reconciler.core.activate import current_system, nixos_program
from reconciler.core.agent.action import Action
from reconciler.core.agent.host import Host
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.values import field, value

_RECORD = b"reconciler-activating 1\n"


@value(frozen=False)
class NixosSwitch:
    """One switch of the system from `before`, what the profile is (empty: nothing), to `wanted`. `undoing`: what undoes
    the steps of the whole switch, in their order; each is there before its step is begun."""

    host: Host
    action: Action
    before: str
    wanted: str
    undoing: list[Callable[[], None]]
    # Whether something was started or stopped, so that to undo it is more than to leave it.
    activated: bool = False
    _again: bool = field(default=False, repr=False)

    def activate(self) -> None:
        """Before the profile is switched: have the wanted system run. What its program leaves undone on a failure
        nobody knows, so the one before is activated again whatever came of it. RefusedError when nothing was done."""
        self._again = self.host.cut_off
        fs.replace_file(self.host.activating, _RECORD)
        running = current_system.running(self.host.root)
        if self.action.activates and (self._again or running != self.wanted):
            self.undoing.append(lambda: self._run_again(running))
            self.activated = True
            try:
                self._program(self.wanted, "test")
            except RefusedError:
                self.activated = False
                self.undoing.pop()
                raise
        if self.action.sets_profile and self.before not in ("", self.wanted):
            # Undone after the profile is: what boots is what the profile then is.
            self.undoing.append(lambda: self._program(self.before, "boot"))

    def _run_again(self, running: str) -> None:
        """Activate what ran before; where the wanted one did, half started, what the profile is."""
        earlier = running if running != self.wanted else self.before
        if earlier in ("", self.wanted):
            raise StoreError("there is no system that ran before it")
        self._program(earlier, "test")

    def have_booted(self) -> None:
        """After the profile is switched: have the boot loader start it."""
        if self.action.sets_profile:
            self._program(self.wanted, "boot")

    def done(self) -> None:
        """It stands. A record of an earlier switch, which was cut off, goes with a whole one alone."""
        if not self._again or (self.action.activates and self.action.sets_profile):
            self._forget()

    def undone(self) -> None:
        """All was undone: as it was, also when that was half of an earlier switch."""
        if not self._again:
            self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(OSError):  # it is activated once more, then
            os.unlink(self.host.activating)
            fs.fsync_directory(self.host.own_state)

    def _program(self, toplevel: str, action: str) -> None:
        outside = self.host.session.outside
        nixos_program.run(toplevel, action, outside.descriptor if outside else None, self.host.root)
