"""Profiles that something else made: replaced only when somebody says so, and some of them never. No I/O.

Foreign is a profile that has a current generation and no line in its host's history.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from reconciler.core.agent.messages import ProfileState
from reconciler.core.errors import RefusedError
from reconciler.core.nix.store_path import StorePath, parse_drv_name
from reconciler.core.profile.names import ProfileId
from reconciler.fleet.outcomes import State
from reconciler.fleet.plan import HostPlan

_NAMED = 6


def judged(plan: HostPlan, adopt: bool) -> HostPlan:
    """The plan; or its host refused, where it would replace what must stay, or what is foreign without `adopt`."""
    replaced = [state for state in _states(plan) if state.current is not None]
    guarded = [state for state in replaced if state.guard]
    if guarded:
        what = "; ".join(f"{_name(state)} is not replaced: {state.guard}" for state in guarded)
        hint = "take that profile out of the inventory for this host; --adopt does not change this"
        return _refused(plan, RefusedError(f"{plan.host}: {what}", hint))
    foreign = [state for state in replaced if state.foreign]
    if foreign and not adopt:
        what = "; ".join(f"{_name(state)} {_held(state)}" for state in foreign)
        hint = f"deploy --hosts {plan.host} --adopt --check shows what goes; rollback brings it back"
        return _refused(plan, RefusedError(f"{plan.host}: this would replace what something else made: {what}", hint))
    return plan


def _states(plan: HostPlan) -> Iterable[ProfileState]:
    for change in plan.changes:
        state = plan.observation.profile(str(change.profile)) if plan.observation else None
        if state is not None:
            yield state


def _refused(plan: HostPlan, error: RefusedError) -> HostPlan:
    return replace(plan, state=State.REFUSED, changes=(), error=error)


def _name(state: ProfileState) -> str:
    profile = ProfileId.parse(state.profile)
    return profile.owner if profile.place else f"the profile of {profile.owner}"


def _held(state: ProfileState) -> str:
    names = [" ".join(parse_drv_name(StorePath.parse(path).name)).strip() for path in state.packages]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    number = state.current.number if state.current else 0
    return f"(generation {number}{': ' if names else ''}{', '.join(names[:_NAMED])}{more})"
