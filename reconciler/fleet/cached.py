"""Caches before builds, also for hosts that build for themselves: what caches have of what such a host would build, it
does not build. What it cannot fetch by itself is fetched here, as far as it lacks it, and sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from reconciler.core.agent.messages import ObserveRequest
from reconciler.core.errors import ReconcilerError
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.rollout import HostRun
from reconciler.packages.model import Package

_QUESTIONS = 16  # to hosts at a time


@dataclass(frozen=True)
class Share:
    """What becomes of the packages that a host would build: `builds`, those that it does; `brought`, what the
    controller has fetched of the others, and of what these are built from."""

    builds: tuple[Package, ...]
    brought: tuple[StorePath, ...] = ()


@dataclass(frozen=True)
class Builder:
    """A host that builds for itself. `packages`: what it would build; `fetches`: what it fetches by itself."""

    run: HostRun
    packages: tuple[Package, ...]
    fetches: frozenset[StorePath] = frozenset()


def shares(workshop: Workshop, builders: Sequence[Builder]) -> Mapping[str, Share]:
    """By host. Fetches what is needed into the controller's store; a cache that cannot be used costs builds."""
    offered = {packages: workshop.offered(packages) for packages in {each.packages for each in builders}}
    wanted = [[path for path in offered[each.packages] if path not in each.fetches] for each in builders]
    with ThreadPoolExecutor(_QUESTIONS, "hosts") as pool:
        lacking = list(pool.map(_lacking, builders, wanted))
    taken = workshop.take(sorted({path for paths in lacking for path in paths}))
    return {
        each.run.plan.host: _share(each, set(paths) - set(lacks), [path for path in lacks if path in taken])
        for each, paths, lacks in zip(builders, wanted, lacking, strict=True)
    }


def _share(builder: Builder, there: set[StorePath], brought: Sequence[StorePath]) -> Share:
    """`there`: what the host has already."""
    had = there | set(brought)
    return Share(tuple(one for one in builder.packages if not had.issuperset(one.paths)), tuple(brought))


def _lacking(builder: Builder, paths: Sequence[StorePath]) -> list[StorePath]:
    """What a host lacks. A host that does not answer is told of at its stage; nothing is fetched for it."""
    if not paths:
        return []
    try:
        asked = ObserveRequest(paths=tuple(map(str, paths)))
        valid = set(builder.run.live.agent.observe(asked).valid)
    except ReconcilerError:
        return []
    return [path for path in paths if str(path) not in valid]
