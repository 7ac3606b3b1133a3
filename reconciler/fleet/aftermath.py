"""What became of a switch whose answer was lost or was an error: judged from a new probe, with no I/O.

All of a host's profiles change or none does, unless the agent was killed between two of them.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.core.agent.action import Action
from reconciler.core.agent.messages import GenerationRef, Observation
from reconciler.fleet.plan import ProfileChangePlan


class Came(enum.Enum):
    """What became of one change; the value ends the sentence that tells it."""

    DONE = "done"
    NOT_DONE = "not done"
    RUNS = "half done: what runs is the new one, the profile is the old one"
    SET = "half done: the profile is the new one, what runs is not"
    HALF = "half done: its system may be half started, and another may boot"
    OTHER = "something else: neither what it was nor what was planned"


@dataclass(frozen=True)
class Aftermath:
    """What a probe found of a host's changes."""

    came: Mapping[ProfileChangePlan, Came]

    @classmethod
    def of(
        cls, changes: Sequence[ProfileChangePlan], action: Action, before: Observation | None, found: Observation
    ) -> Aftermath:
        """`before` is the probe that the plan was made from, `found` the one after the switch."""
        runs = before.running if before is not None else ""
        return cls({change: _came(change, action, runs, found) for change in changes})

    @property
    def all_done(self) -> bool:
        return set(self.came.values()) == {Came.DONE}

    @property
    def as_it_was(self) -> bool:
        return set(self.came.values()) == {Came.NOT_DONE}

    @property
    def some_done(self) -> bool:
        return Came.DONE in self.came.values()

    @property
    def can_be_told(self) -> bool:
        """Whether each change stands where this deployment can have left it."""
        return Came.OTHER not in self.came.values()

    @property
    def left(self) -> dict[str, Came]:
        """By profile: what was not done."""
        return {change.profile.label: came for change, came in self.came.items() if came is not Came.DONE}


def _came(change: ProfileChangePlan, action: Action, runs: str, found: Observation) -> Came:
    state = found.profile(str(change.profile))
    if state is not None and state.cut_off:
        return Came.HALF
    current = state.current if state is not None else None
    is_set = (current.path if current else "") == change.to
    concerns_running = change.profile.is_system and action.activates
    if not action.sets_profile:
        is_set, newly = current == change.before, concerns_running and found.running == change.to
        return (Came.DONE if newly else Came.NOT_DONE) if is_set else Came.OTHER
    if is_set:
        return Came.DONE if not concerns_running or found.running == change.to else _unless_unchanged(change, current)
    if current != change.before:
        return Came.OTHER
    return Came.RUNS if concerns_running and found.running == change.to != runs else Came.NOT_DONE


def _unless_unchanged(change: ProfileChangePlan, current: GenerationRef | None) -> Came:
    """The profile is right and what runs is not: a change of what runs alone has then not been made at all."""
    return Came.NOT_DONE if current == change.before else Came.SET
