"""Who builds what: decided from what derivations require and from what is said of the machines; nothing is asked.

    place        who may build
    ""           this controller where it can; else the builders of reconciler.yml that can; a controller that would
                 have to emulate the system comes after them
    controller   this controller
    builders     the builders of reconciler.yml that can
    HOST         that host, whether reconciler.yml lists it or not

What has no system of its own (downloads) is made by the controller, but where one host is to make all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from reconciler.core.build.machine import USUAL_FEATURES, Machine, required_features
from reconciler.core.build.toolchain import host_system, names_host_toolchain
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.inventory.builders import BuilderSpec
from reconciler.inventory.desired import DesiredState
from reconciler.inventory.inventory import Inventory
from reconciler.inventory.schema import BUILD_PLACES
from reconciler.inventory.settings import Settings

CONTROLLER, TARGET, BUILDERS = BUILD_PLACES
ANYWHERE = ""
_BUILTIN = "builtin"


@dataclass(frozen=True)
class Maker:
    """A machine that builds. `systems` is None where nobody has said them: then the machine itself is asked, once it
    is logged in to. `runs`: those that reconciler.yml says, which counts whatever machine it turns out to be, since it
    may emulate; what the inventory says of the host has to be true. `emulates`: those that are known not to be its own.
    `jobs`: builds at a time; 0: one for each of its CPUs."""

    name: str
    systems: tuple[str, ...] | None
    features: tuple[str, ...] = USUAL_FEATURES
    jobs: int = 1
    speed: float = 1.0
    listed: bool = False
    runs: tuple[str, ...] = ()
    emulates: tuple[str, ...] = ()

    def can(self, derivation: Derivation) -> bool:
        return self.has(derivation) and not self.only_emulates(derivation)

    def has(self, derivation: Derivation) -> bool:
        """Whether it has the system and the features that a derivation asks for."""
        runs = self.systems is None or derivation.system in (*self.systems, _BUILTIN)
        return runs and set(required_features(derivation)) <= set(self.features)

    def only_emulates(self, derivation: Derivation) -> bool:
        """Whether a derivation is for a host toolchain that would be one of another system here: a machine's own
        compiler makes programs of its own system."""
        return derivation.system in self.emulates and names_host_toolchain(derivation)

    @property
    def machine(self) -> Machine:
        """The same for whoever runs the builds."""
        return Machine(self.runs, self.features)

    @property
    def words(self) -> str:
        """`build01 x86_64-linux (big-parallel, kvm)`: the features only where they are not the usual ones."""
        own = "" if self.features == USUAL_FEATURES else f" ({', '.join(self.features) or 'no features'})"
        return f"{self.name} {' '.join(self.systems or ('of a system that is not said',))}{own}"


def _controller(said: BuilderSpec | None) -> Maker:
    """This machine, with what reconciler.yml says of it."""
    own = host_system()
    if said is None:
        return Maker(CONTROLLER, (own,))
    runs = tuple(each for each in said.systems if each != own)
    return Maker(CONTROLLER, (own, *runs), said.features, runs=runs, emulates=runs)


def _emulated(said: tuple[str, ...], desired: DesiredState) -> tuple[str, ...]:
    """Those of the systems that reconciler.yml says which the inventory says are not the host's own. Where neither
    tells, the builder is asked when it builds."""
    own = desired.architecture
    known = desired.architecture_origin is not None or own in said
    return tuple(each for each in said if each != own) if known else ()


@dataclass(frozen=True)
class Makers:
    """Every machine that may build in a run: this one, and those of reconciler.yml in their order."""

    controller: Maker = field(default_factory=lambda: _controller(None))
    listed: tuple[Maker, ...] = ()

    @classmethod
    def of(cls, inventory: Inventory, settings: Settings) -> Makers:
        """What is not said of a builder's system, the inventory says of the host."""
        return cls(
            _controller(settings.controller),
            tuple(
                Maker(
                    each.host,
                    each.systems or (inventory.desired(each.host).architecture,),
                    each.features,
                    each.jobs,
                    each.speed,
                    listed=True,
                    runs=each.systems,
                    emulates=_emulated(each.systems, inventory.desired(each.host)),
                )
                for each in settings.builders
            ),
        )

    def at(self, place: str) -> tuple[Maker, ...]:
        """Those of a place, whatever they can do."""
        if place == ANYWHERE:
            return (self.controller, *self.listed)
        if place == CONTROLLER:
            return (self.controller,)
        if place == BUILDERS:
            return self.listed
        return tuple(each for each in self.listed if each.name == place) or (Maker(place, None, jobs=0),)

    def able(self, derivation: Derivation, place: str) -> tuple[Maker, ...]:
        """Those that may build a derivation whose place is `place`, which is not TARGET; none where nobody can."""
        if derivation.system == _BUILTIN and place in (ANYWHERE, BUILDERS):
            return (self.controller,)
        able = tuple(each for each in self.at(place) if each.can(derivation))
        others = tuple(each for each in able if each != self.controller)
        if place != ANYWHERE or len(able) == len(others):
            return able
        return others if others and derivation.system in self.controller.runs else (self.controller,)

    def options(self, derivation: Derivation, places: Iterable[str]) -> tuple[tuple[Maker, ...], ...]:
        """Those that may build a derivation, place by place; a place where nobody can is left out."""
        return tuple(able for place in places if (able := self.able(derivation, place)))


def choose(able: Iterable[Maker], busy: Mapping[str, int], lost: Collection[str] = ()) -> Maker | None:
    """Of those that can build something, the one to build it now; None while all of them are at work.

    The one that is least loaded for its jobs and speed when it takes one more; of equals the faster, then the first.
    """
    free = [each for each in able if each.name not in lost and busy.get(each.name, 0) < max(each.jobs, 1)]
    return min(free, key=lambda each: (_load(each, busy), -each.speed), default=None)


def _load(maker: Maker, busy: Mapping[str, int]) -> float:
    return (busy.get(maker.name, 0) + 1) / (max(maker.jobs, 1) * maker.speed)


P = TypeVar("P")


def spread(
    wanted: Mapping[StorePath, P],
    derivations: Callable[[StorePath], Derivation],
    lacking: Callable[[StorePath], bool],
) -> dict[StorePath, P]:
    """The place, or places, of each derivation that is to be built for `wanted` (each with its own): its own where it
    is wanted itself, else that of the first which needs it. `lacking`: whether an output is missing."""
    found: dict[StorePath, P] = {}
    for root, place in wanted.items():
        todo = [root]
        while todo:
            path = todo.pop()
            made = derivations(path)
            if path in found or not any(lacking(output) for output in made.output_paths().values()):
                continue
            found[path] = wanted.get(path, place)
            for other, names in sorted(made.input_derivations.items(), reverse=True):
                known = derivations(other).output_paths()
                if any(lacking(known[name]) for name in names if name in known):
                    todo.append(other)
    return found


def why_nobody(derivation: Derivation, name: str, place: str, makers: Makers) -> tuple[str, str]:
    """What is wrong, and what to do, where nobody can build the derivation called `name`."""
    emulating = [each.name for each in makers.at(place) if each.has(derivation) and each.only_emulates(derivation)]
    if emulating:
        return _why_not_emulated(derivation, name, emulating)
    features = required_features(derivation)
    needs = f"{derivation.system}{' with ' + ', '.join(features) if features else ''}"
    there = "; ".join(each.words for each in makers.at(place)) or "reconciler.yml lists no builders"
    said = f", where it is to be built ({place})" if place != ANYWHERE else ""
    text = f"{name} is built on {needs}, and nobody has that{said}: {there}"
    extra = f", features: [{', '.join(features)}]" if features else ""
    line = f"builders: [HOST: {{system: {derivation.system}{extra}}}]"
    way = f"list a host of the inventory that has it in reconciler.yml:  {line}"
    return text, way if place in (ANYWHERE, BUILDERS) else f"leave build_on out, or name another host; or {way}"


def _why_not_emulated(derivation: Derivation, name: str, emulating: Sequence[str]) -> tuple[str, str]:
    system, who = derivation.system, ", ".join(emulating)
    text = f"{name} is for {system} with `toolchain: host`, and who runs such programs only emulates {system}: {who}"
    line = f"builders: [HOST: {{system: {system}}}]"
    return text, (
        f"a pinned toolchain is of every system, write `toolchain: debian-12`; or list a host that is {system} itself "
        f"in reconciler.yml:  {line}"
    )


@dataclass(frozen=True)
class Placement:
    """The place of what each host needs: that of the host, and those of the packages (by their derivation) that have
    one of their own on it. TARGET is the host itself."""

    hosts: Mapping[str, str] = field(default_factory=dict)
    packages: Mapping[str, Mapping[StorePath, str]] = field(default_factory=dict)

    def of(self, host: str, derivation: StorePath) -> str:
        return self.packages.get(host, {}).get(derivation, self.hosts.get(host, ANYWHERE))

    def there(self, host: str, derivations: Iterable[StorePath | None]) -> frozenset[StorePath]:
        """Those of `derivations` that the host builds for itself."""
        return frozenset(path for path in derivations if path is not None and self.of(host, path) == TARGET)

    def elsewhere(self, needed: Iterable[tuple[str, StorePath]]) -> dict[StorePath, tuple[str, ...]]:
        """The places of each derivation of `needed` (with the host that needs it) that is made before any host is gone
        to. It is made once: at the first of them where it can be; ANYWHERE comes after what somebody has said."""
        found: dict[StorePath, dict[str, None]] = {}
        for host, path in needed:
            place = self.of(host, path)
            if place != TARGET:
                found.setdefault(path, {})[place] = None
        return {path: tuple(sorted(said, key=lambda place: place == ANYWHERE)) for path, said in found.items()}

    def all(self, hosts: Iterable[str]) -> tuple[str, ...]:
        """Every place that is said for `hosts`, each once; the controller for those of which nothing is said."""
        found: dict[str, None] = {}
        for host in hosts:
            for place in (self.hosts.get(host, ANYWHERE), *self.packages.get(host, {}).values()):
                found[place or CONTROLLER] = None
        return tuple(found)
