"""What a rollback puts back on one host: decided from its history and its generations, with no I/O.

A generation is known by its number *and* its store path. Nix reuses numbers, so where the recorded number now leads
elsewhere, the path decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from reconciler.core.agent.messages import Generation, GenerationRef, HistoryEntry, Observation, ProfileState
from reconciler.core.errors import RefusedError, StoreError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.plan import ProfileChangePlan, next_number, package_changes


@dataclass(frozen=True)
class Past:
    """What was learnt of one host: its history oldest first, its generations by profile, and which of the store paths
    that either names are valid there."""

    host: str
    observation: Observation
    entries: tuple[HistoryEntry, ...] = ()
    generations: Mapping[str, tuple[Generation, ...]] = field(default_factory=dict)
    valid: frozenset[str] = frozenset()


def latest(pasts: Iterable[Past]) -> str:
    """The newest deployment on any of these hosts that has not been undone; UsageError when there is none."""
    best: HistoryEntry | None = None
    for past in pasts:
        undone = {entry.undoes for entry in past.entries if entry.kind == "rollback"}
        for entry in past.entries:
            if entry.kind == "deploy" and entry.deployment not in undone and (best is None or entry.when > best.when):
                best = entry
    if best is None:
        raise UsageError(
            "no deployment of these hosts is left to undo", hint="reconciler generations lists what is there"
        )
    return best.deployment


Goal = tuple[ProfileState, GenerationRef | None]


def goals_to(past: Past, number: int, meant: Callable[[ProfileId], bool]) -> list[Goal]:
    """Generation `number` of every profile that is meant; StoreError where a profile has none such."""
    goals: list[Goal] = []
    for state in past.observation.profiles:
        profile = ProfileId.parse(state.profile)
        if not meant(profile):
            continue
        listed = {generation.number: generation for generation in past.generations.get(state.profile, ())}
        if number not in listed:
            have = f"it has {', '.join(str(each) for each in listed)}" if listed else "it has none"
            raise StoreError(
                f"{past.host}: {profile.label} has no generation {number}; {have}",
                hint=f"reconciler generations --hosts {past.host}",
            )
        goals.append((state, GenerationRef(number, listed[number].path)))
    return goals


def goals_undoing(past: Past, undoes: str, meant: Callable[[ProfileId], bool]) -> list[Goal]:
    """What each profile that is meant had before the deployment `undoes`.

    RefusedError when something else has changed one of them since: undoing would undo that too.
    """
    goals: list[Goal] = []
    moved = []
    for state in past.observation.profiles:
        profile = ProfileId.parse(state.profile)
        mine = [e for e in past.entries if e.deployment == undoes and e.profile == state.profile]
        if not mine or not meant(profile):
            continue
        before, left = mine[0].before, mine[-1].after
        if state.current not in (left, before):
            moved.append(f"{profile.label} was left at {_number(left)}, is {_number(state.current)}{_by(state)}")
        goals.append((state, before))
    if moved:
        raise RefusedError(
            f"{past.host} has changed since {undoes}: {'; '.join(moved)}",
            hint="roll back what came after it first, or name a generation: reconciler rollback --hosts HOST --to N",
        )
    return goals


def _number(generation: GenerationRef | None) -> str:
    return str(generation.number) if generation else "nothing"


def _by(state: ProfileState) -> str:
    last = state.last
    if last is None or last.after != state.current:
        return " (changed from outside)"
    return f" ({last.who}, {last.deployment}{f' {last.message!r}' if last.message else ''})"


def change_to(past: Past, state: ProfileState, goal: GenerationRef | None) -> ProfileChangePlan:
    """The change that brings a profile to `goal`; StoreError when that is no longer complete on the host."""
    profile = ProfileId.parse(state.profile)
    now = [StorePath.parse(path) for path in state.packages]
    if goal is None:
        return ProfileChangePlan(profile, state.current, "", 0, 0, package_changes(now, ()))
    if goal.path not in past.valid:
        raise StoreError(
            f"{past.host}: generation {goal.number} of {profile.label} is no longer complete on the host",
            hint="deploy the revision of the inventory that made it",
        )
    listed = past.generations.get(state.profile, ())
    same = next((g for g in listed if (g.number, g.path) == (goal.number, goal.path)), None)
    like = same or next((g for g in listed if g.path == goal.path), None)
    # A generation that is not listed any more cannot say what it holds; nothing is better than a wrong difference.
    packages = package_changes(now, [StorePath.parse(path) for path in like.packages]) if like else ()
    number = goal.number if same else 0
    return ProfileChangePlan(
        profile, state.current, goal.path, number, number or next_number(state, goal.path), packages
    )
