"""Which derivations must be built, in which order, and can they be built here at all?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from reconciler.core.build.machine import PLAIN, Machine, required_features
from reconciler.core.build.toolchain import host_system, pinned_toolchain, wants_host_toolchain
from reconciler.core.errors import BuildError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.values import value

BUILTINS = ("builtin:buildenv", "builtin:fetchurl")

# What changes how something is built, and what we do not do: better refused than left out.
_UNSUPPORTED = (
    "__json",
    "__structuredAttrs",
    "__impure",
    "__noChroot",
    "__contentAddressed",
    "exportReferencesGraph",
    "allowedReferences",
    "allowedRequisites",
    "disallowedReferences",
    "disallowedRequisites",
)


@value
class Goal:
    """A derivation that must be built, after those in `waits_for`."""

    path: StorePath
    derivation: Derivation
    waits_for: frozenset[StorePath]
    inputs: tuple[StorePath, ...]

    @property
    def label(self) -> str:
        """`hello-2.10`."""
        return self.path.name[: -len(".drv")]

    @property
    def boxed(self) -> bool:
        """Whether a builder of its own makes it, in a sandbox."""
        return self.derivation.builder not in BUILTINS

    @property
    def outputs(self) -> Mapping[str, StorePath]:
        return self.derivation.output_paths()


class _Planner:
    def __init__(self, store: Store, machine: Machine) -> None:
        self._store = store
        self._machine = machine
        self._derivations: dict[StorePath, Derivation] = {}
        self._valid: dict[StorePath, bool] = {}

    def read(self, path: StorePath) -> Derivation:
        if path not in self._derivations:
            self._derivations[path] = self._store.read_derivation(path)
        return self._derivations[path]

    def all_valid(self, paths: Iterable[StorePath]) -> bool:
        return all(self._is_valid(path) for path in paths)

    def _is_valid(self, path: StorePath) -> bool:
        if path not in self._valid:
            self._valid[path] = self._store.is_valid(path)
        return self._valid[path]

    def goal(self, path: StorePath) -> Goal | None:
        """None when its outputs are valid."""
        derivation = self.read(path)
        if self.all_valid(derivation.output_paths().values()):
            return None
        check(path, derivation, self._machine)
        waits_for = set()
        inputs = set(derivation.input_sources)
        for other, names in derivation.input_derivations.items():
            paths = self._outputs(path, other, names)
            inputs.update(paths)
            if not self.all_valid(paths):
                waits_for.add(other)
        return Goal(path, derivation, frozenset(waits_for), tuple(sorted(inputs)))

    def _outputs(self, path: StorePath, other: StorePath, names: Iterable[str]) -> list[StorePath]:
        known = self.read(other).output_paths()
        for name in names:
            if name not in known:
                raise BuildError(f"{path} wants the output '{name}' of {other}, which has no such output")
        return [known[name] for name in names]


def plan(store: Store, wanted: Iterable[StorePath], machine: Machine = PLAIN) -> dict[StorePath, Goal]:
    """What must be built so that every output of `wanted` is valid; inputs whose outputs are valid are not looked into.

    StoreError when a derivation is not in the store; BuildError when one of them cannot be built on this machine.
    """
    planner = _Planner(store, machine)
    goals: dict[StorePath, Goal] = {}
    seen: set[StorePath] = set()
    todo = list(wanted)
    while todo:
        path = todo.pop()
        if path in seen:
            continue
        seen.add(path)
        goal = planner.goal(path)
        if goal is not None:
            goals[path] = goal
            todo.extend(goal.waits_for)
    return goals


def urgency(goals: Mapping[StorePath, Goal]) -> dict[StorePath, int]:
    """By goal: how many others have to be built after it, one after the other. The last one alone takes as long as all
    that it waits for in turn, so what most waits for comes first."""
    followers = dict.fromkeys(goals, 0)
    for goal in goals.values():
        for path in goal.waits_for:
            followers[path] += 1
    found = dict.fromkeys(goals, 0)
    todo = [path for path, count in followers.items() if not count]
    while todo:
        after = todo.pop()
        for path in goals[after].waits_for:
            found[path] = max(found[path], found[after] + 1)
            followers[path] -= 1
            if not followers[path]:
                todo.append(path)
    return found


def check(path: StorePath, derivation: Derivation, machine: Machine = PLAIN) -> None:
    """BuildError when a derivation asks for what this machine, or this program, does not have."""
    if not machine.runs(derivation.system):
        raise BuildError(f"{path} is to be built on {derivation.system}, and this is {host_system()}")
    if derivation.builder.startswith("builtin:") and derivation.builder not in BUILTINS:
        raise BuildError(f"{path}: there is no builder '{derivation.builder}' here; {' and '.join(BUILTINS)} are known")
    for name in _UNSUPPORTED:
        if derivation.environment.get(name):
            raise BuildError(f"{path} uses '{name}', which is not supported here", hint="let Nix build it")
    missing = [feature for feature in required_features(derivation) if feature not in machine.features]
    if missing:
        raise BuildError(f"{path} needs a builder with the features {', '.join(missing)}")
    try:
        wants_host_toolchain(derivation)
        pinned_toolchain(derivation)
    except BuildError as error:
        raise BuildError(f"{path}: {error.message}", error.hint) from None
