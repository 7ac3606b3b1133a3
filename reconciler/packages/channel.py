"""A channel: nixpkgs without Nix. A name is looked up in the channel's list of store paths, and what it means there is
read from the binary cache: which system a path is for, which paths are outputs of one derivation, how large it is.

    NAME, NAME@VERSION     the newest version that matches and is there for the system
    NAME.OUTPUT            one output of it: `openssl.dev`

Of several outputs the one with programs is meant: `bin` where there is one, else the first. `man` goes along. Where two
derivations of one name and version fit, and differ in what they contain, nothing is guessed: both are told, to be named
by their store paths.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.binary_cache import BinaryCache, Caches, Offer
from reconciler.inventory.outputs import MANUAL, OUTPUTS, Named
from reconciler.inventory.sets import ChannelSet
from reconciler.packages import versions
from reconciler.packages.cache_answers import CacheAnswers
from reconciler.packages.channel_files import ChannelFiles
from reconciler.packages.machine import ANY, Machines, is_c_library
from reconciler.packages.model import NotThereError
from reconciler.packages.store_paths import StorePathList

PARALLEL = 8
# How many paths of one version are asked about; nixpkgs has a dozen at most (outputs, systems and twins).
_MAX_CANDIDATES = 200
_FOUND_FIRST = ("bin", "")


@dataclass(frozen=True)
class Found:
    """What a name means: the path that is meant, those that go along, the bytes of their closures, the release."""

    name: str
    version: str
    path: StorePath
    also: tuple[StorePath, ...]
    size: int
    release: str


@dataclass(frozen=True)
class Build:
    """The outputs of one derivation that the channel has, by name, and their system (ANY: for every one)."""

    version: str
    outputs: Mapping[str, Offer]
    system: str

    @property
    def main(self) -> Offer:
        """The output with programs."""
        chosen = next((name for name in _FOUND_FIRST if name in self.outputs), min(self.outputs))
        return self.outputs[chosen]


def _distinct(builds: Iterable[Build]) -> list[Build]:
    """Of builds with the same contents one, always the same: data that was built for each system is the same data."""
    by_contents: dict[frozenset[tuple[str, str]], Build] = {}
    for build in sorted(builds, key=lambda build: str(build.main.narinfo.path)):
        contents = frozenset((name, offer.narinfo.nar_hash.nix) for name, offer in build.outputs.items())
        by_contents.setdefault(contents, build)
    return list(by_contents.values())


class Channel:
    """One channel; nothing is read before it is asked something. Not for several threads."""

    def __init__(self, spec: ChannelSet, project: Path, cache: Path) -> None:
        self.spec = spec
        self._files = ChannelFiles(spec, project, cache)
        self._machines = Machines(cache / "channels" / "systems.json")
        self._memory = CacheAnswers(cache)
        self._offers: dict[StorePath, Offer | None] = {}

    @property
    def name(self) -> str:
        return self.spec.name

    @cached_property
    def caches(self) -> Caches:
        """The channel's binary cache."""
        return Caches([BinaryCache(self._files.cache_url(), self.spec.keys, memory=self._memory)])

    @cached_property
    def listed(self) -> StorePathList:
        """Every store path of the channel."""
        return self._files.paths()

    # --- what a name means --------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        """Whether there is a package of this name, on whatever system."""
        return bool(self._candidates(name)[0])

    def find(self, name: str, version: str | None, system: str, reference: str) -> Found:
        """What `name` (and `version`, by components) means on `system`. NotThereError when it means nothing there,
        or more than one thing."""
        candidates, output = self._candidates(name)
        known = versions.newest_first({candidate.version for candidate in candidates})
        matching = [one for one in known if version is None or versions.matches(one, version)]
        if not matching:
            raise NotThereError(
                f"there is no {reference}", f"{self.name} has {', '.join(known) or 'nothing of that name'}"
            )
        elsewhere: set[str] = set()
        for each in matching:
            builds = self._builds([candidate for candidate in candidates if candidate.version == each])
            fitting = _distinct(build for build in builds if build.system in (system, ANY))
            if len(fitting) == 1:
                return self._found(name, fitting[0], output, reference)
            if fitting:
                raise self._ambiguous(reference, fitting)
            elsewhere.update(build.system for build in builds)
        there = (
            f"{self.name} has it for {', '.join(sorted(elsewhere))}" if elsewhere else f"{self.name}'s cache has none"
        )
        raise NotThereError(f"there is no {reference} for {system}", there)

    def builds(self, name: str) -> tuple[Build, ...]:
        """Every derivation of that name that the channel has, newest version first."""
        candidates, _ = self._candidates(name)
        found: list[Build] = []
        for version in versions.newest_first({candidate.version for candidate in candidates}):
            found += self._builds([candidate for candidate in candidates if candidate.version == version])
        return tuple(found)

    def _candidates(self, name: str) -> tuple[tuple[Named, ...], str]:
        """The paths of a name, and the output that it asks for."""
        found = self.listed.named(name)
        base, dot, output = name.rpartition(".")
        if not found and dot and output in OUTPUTS | {"out"}:
            return self.listed.named(base), output
        return found, ""

    def _found(self, name: str, build: Build, output: str, reference: str) -> Found:
        main, also = build.main, [build.outputs[MANUAL]] if MANUAL in build.outputs else []
        if output:
            wanted = build.outputs.get("" if output == "out" else output)
            if wanted is None:
                has = ", ".join(sorted(name or "out" for name in build.outputs))
                raise NotThereError(f"there is no {reference}", f"{self.name} has these outputs of it: {has}")
            main, also = wanted, []
        path = main.narinfo.path
        extra = tuple(offer.narinfo.path for offer in also if offer.narinfo.path != path)
        size = sum(offer.narinfo.nar_size for offer in self.closure([path, *extra]).values())
        return Found(name, build.version, path, extra, size, self._files.release())

    def _ambiguous(self, reference: str, builds: Sequence[Build]) -> NotThereError:
        listed = sorted(build.main.narinfo.path for build in builds)
        lines = "".join(f"\n       {path}" for path in listed)
        return NotThereError(
            f"{reference} is {len(listed)} packages of {self.name}, each built in another way:{lines}",
            "name the store path of the one that is meant, in place of the name",
        )

    # --- what the cache says ------------------------------------------------------------------------------------------

    def _builds(self, candidates: Sequence[Named]) -> list[Build]:
        """The derivations whose outputs `candidates`, of one version, are."""
        chosen = {candidate.path: candidate.output for candidate in candidates[:_MAX_CANDIDATES]}
        known: dict[str, list[Offer]] = {}
        orphans: dict[str, list[Offer]] = {}
        for offer in self._ask(chosen).values():
            deriver = offer.narinfo.deriver
            if deriver is None:
                orphans.setdefault(self.system_of(offer), []).append(offer)
            else:
                known.setdefault(deriver.base_name, []).append(offer)
        version = candidates[0].version if candidates else ""
        groups = [offers for _, offers in sorted(known.items())]
        # Without their derivers, outputs of one system belong together unless two of them have one name.
        for _, offers in sorted(orphans.items()):
            one = len({chosen[offer.narinfo.path] for offer in offers}) == len(offers)
            groups += [offers] if one else [[offer] for offer in offers]
        return [self._build(version, {chosen[offer.narinfo.path]: offer for offer in group}) for group in groups]

    def _build(self, version: str, outputs: Mapping[str, Offer]) -> Build:
        systems = (self.system_of(offer) for offer in outputs.values())
        return Build(version, outputs, next((system for system in systems if system != ANY), ANY))

    def system_of(self, offer: Offer) -> str:
        """The system that a path is for; ANY for one that runs nowhere by itself."""
        for each in self._nearest_first(offer):
            if is_c_library(Named.of(each.narinfo.path)):
                return self._machines.of(each)
        return self._machines.of(offer)

    def _nearest_first(self, offer: Offer) -> Iterator[Offer]:
        """A path and its closure, breadth first, each once."""
        seen = {offer.narinfo.path}
        level = [offer]
        while level:
            yield from level
            following = {path for each in level for path in each.narinfo.references} - seen
            seen |= following
            # A C library is mostly a reference of the path itself, and its narinfo known from another package.
            level = list(self._ask(sorted(following, key=lambda path: not is_c_library(Named.of(path)))).values())

    def closure(self, paths: Iterable[StorePath]) -> dict[StorePath, Offer]:
        """What the cache says of `paths` and of all that they refer to; what it lacks is left out."""
        found: dict[StorePath, Offer] = {}
        level = set(paths)
        while level:
            asked = self._ask(sorted(level))
            found |= asked
            level = {path for offer in asked.values() for path in offer.narinfo.references} - found.keys() - level
        return found

    def _ask(self, paths: Iterable[StorePath]) -> dict[StorePath, Offer]:
        """What the cache says of each of `paths`, asked side by side, and once in the life of this object."""
        wanted = list(paths)
        unknown = [path for path in wanted if path not in self._offers]
        if unknown:
            with ThreadPoolExecutor(min(PARALLEL, len(unknown)), "narinfo") as pool:
                self._offers.update(zip(unknown, pool.map(self.caches.find, unknown), strict=True))
        return {path: offer for path in wanted if (offer := self._offers[path]) is not None}
