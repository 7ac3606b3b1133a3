"""What a run tells while it goes on: the Protocol that a progress display implements."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

from reconciler.core.build.events import BuildEvent
from reconciler.fleet.outcomes import State

if TYPE_CHECKING:
    from reconciler.core.store.substitute import SubstituteEvent


class Phase(enum.Enum):
    """The steps of a run, in their order."""

    PROBE = "probe"
    REALISE = "realise"
    STAGE = "stage"
    SWITCH = "switch"


class Observer(Protocol):
    """Called from several threads at once; must not raise."""

    def phase_begins(self, phase: Phase, hosts: tuple[str, ...]) -> None: ...

    def phase_ends(self, phase: Phase, summary: str) -> None: ...

    def host_changed(self, host: str, state: State, detail: str) -> None: ...

    def copying(self, host: str, done: int, total: int) -> None:
        """`done` of `total` bytes have come to `host`, from here or from caches."""

    def building(self, where: str, event: BuildEvent) -> None:
        """`where` is `here`, or a host's name."""

    def fetching(self, where: str, event: SubstituteEvent) -> None:
        """What comes from binary caches to `where`."""

    def noted(self, text: str) -> None:
        """Something that whoever watches should know, and that ends nothing."""


class Silent:
    """Tells nobody."""

    def phase_begins(self, phase: Phase, hosts: tuple[str, ...]) -> None: ...

    def phase_ends(self, phase: Phase, summary: str) -> None: ...

    def host_changed(self, host: str, state: State, detail: str) -> None: ...

    def copying(self, host: str, done: int, total: int) -> None: ...

    def building(self, where: str, event: BuildEvent) -> None: ...

    def fetching(self, where: str, event: SubstituteEvent) -> None: ...

    def noted(self, text: str) -> None: ...
