"""From a reference to a package: which set has it, which version it means, and what that is called in the store.

    reference  NAME | NAME@VERSION | SET:NAME | SET:NAME@VERSION | /nix/store/HASH-NAME | nixos#SYSTEM

What the lock pins is taken as it stands there; what it lacks is looked up in the sets, in their order, and told by
`unlocked`. Nothing is written to any store, and no host is asked: what a reference means follows from the files, from
the lock, and from this machine's toolchain.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import FormatError, StoreError, UsageError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import STORE_DIR, StorePath, parse_drv_name
from reconciler.inventory.desired import Position
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import NIXOS, is_evaluated
from reconciler.inventory.sets import DEFAULT_SETS, RECIPES, CacheSpec, ChannelSet, NixSet, RecipesSet, SetSpec
from reconciler.packages.downloads import cache_directory
from reconciler.packages.evaluation import Evaluator
from reconciler.packages.lock import EVERY_SYSTEM, Lock, LockEntry
from reconciler.packages.model import Graph, NotThereError, Package, Source
from reconciler.packages.nixos import NixosSystems
from reconciler.packages.recipe_sets import Recipes
from reconciler.packages.sources import CachedPath, GivenPath
from reconciler.packages.specs import GitSpec, Recipe

if TYPE_CHECKING:
    from reconciler.core.store.binary_cache import Caches
    from reconciler.packages.channel import Channel
    from reconciler.packages.nix_sets import NixPackages
    from reconciler.packages.toolchain import Toolchains


@dataclass(frozen=True)
class PackageSets:
    """What reconciler.yml says of packages, and where copies of channels' files are kept."""

    sets: tuple[SetSpec, ...] = DEFAULT_SETS
    caches: tuple[CacheSpec, ...] = ()
    cache_directory: Path = field(default_factory=cache_directory)


# Each kind of set, and what it needs, is imported only where a project has one.


def _channels(chosen: PackageSets, root: Path) -> dict[str, Channel]:
    specs = [each for each in chosen.sets if isinstance(each, ChannelSet)]
    if not specs:
        return {}
    from reconciler.packages.channel import Channel

    return {each.name: Channel(each, root, chosen.cache_directory) for each in specs}


def _expressions(chosen: PackageSets, evaluator: Evaluator) -> dict[str, NixPackages]:
    specs = [each for each in chosen.sets if isinstance(each, NixSet)]
    if not specs:
        return {}
    from reconciler.packages.nix_sets import NixPackages

    return {each.name: NixPackages(each, evaluator) for each in specs}


def _caches(chosen: PackageSets) -> Caches:
    from reconciler.core.store.binary_cache import BinaryCache, Caches
    from reconciler.packages.cache_answers import CacheAnswers

    memory = CacheAnswers(chosen.cache_directory)
    return Caches([BinaryCache(each.url, each.keys, memory=memory) for each in chosen.caches])


class Resolver:
    """Remembers what it has read: one for each run."""

    def __init__(
        self, project: Path, inventory_dir: Path, lock: Lock | None = None, sets: PackageSets | None = None
    ) -> None:
        chosen = sets or PackageSets()
        self._lock = lock or Lock()
        self._used: dict[tuple[str, str], LockEntry] = {}
        root = project.absolute()
        named = [each.directory for each in chosen.sets if isinstance(each, RecipesSet)]
        folders = [folder.absolute() / name for name in named for folder in (inventory_dir, project)]
        self._derivations: dict[StorePath, Derivation] = {}
        self._sources: dict[StorePath, Source] = {}
        self._recipes = Recipes(folders, root, self.resolve, self._git, (self._derivations, self._sources))
        self._channels = _channels(chosen, root)
        evaluator = Evaluator(root, chosen.cache_directory, (self._derivations, self._sources))
        self._expressions = _expressions(chosen, evaluator)
        self._nixos = NixosSystems(evaluator)
        self._order = tuple(dict.fromkeys(each.name for each in chosen.sets))
        self._given: dict[StorePath, Source] = {}
        self.caches = _caches(chosen) if chosen.caches else None

    # --- questions ----------------------------------------------------------------------------------------------------

    def resolve(self, reference: str, architecture: str, origin: Position | None = None) -> Package:
        """What `reference` means on `architecture`. `origin` is where it stands.

        UsageError, at `origin`, for a name or version that there is not; Faults for a recipe that is wrong; StoreError
        when a channel's cache cannot be asked.
        """
        if reference.startswith("/"):
            return self._path(reference, origin)
        if reference.startswith(NIXOS):
            return self._toplevel(reference, architecture, origin)
        pin = self._lock.get(reference, architecture)
        try:
            entry = pin or self._look_up(reference, architecture)
            package = self._package(entry)
        except NotThereError as error:
            raise UsageError(f"{origin}: {error.message}" if origin else error.message, error.hint) from None
        self._used[reference, architecture] = entry
        return package

    def names(self) -> tuple[str, ...]:
        """The packages that there are recipes for, sorted."""
        return self._recipes.names()

    @property
    def toolchains(self) -> Toolchains:
        """The toolchains that recipes can name."""
        return self._recipes.toolchains

    def recipe(self, name: str) -> Recipe:
        """The recipe of a package; UsageError when there is none."""
        if not self._recipes.has(name):
            raise self._nowhere(name)
        return self._recipes.recipe(name)

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels, in their order."""
        return tuple(self._channels.values())

    @property
    def expressions(self) -> Mapping[str, NixPackages]:
        """The sets that are Nix expressions, by name."""
        return self._expressions

    def pin_of(self, reference: str, architecture: str) -> LockEntry | None:
        """What the lock says of a reference."""
        return self._lock.get(reference, architecture)

    def used(self) -> tuple[LockEntry, ...]:
        """What every reference that was resolved means, those of recipes' inputs included; `at` and `by` are empty
        where the lock has no entry for it yet."""
        return tuple(self._used[key] for key in sorted(self._used))

    def unlocked(self) -> tuple[LockEntry, ...]:
        """Those of `used` that the lock lacks."""
        return tuple(entry for entry in self.used() if not entry.at)

    def graph(self, packages: Iterable[Package]) -> Graph:
        """Everything that is needed to build or fetch `packages`, which this resolver has resolved."""
        derivations: dict[StorePath, Derivation] = {}
        sources: dict[StorePath, Source] = {}
        todo: list[StorePath] = []
        for package in packages:
            if package.derivation is None:
                sources.update((path, self._given[path]) for path in package.paths)
            else:
                todo.append(package.derivation)
        while todo:
            path = todo.pop()
            if path not in derivations:
                derivations[path] = self._derivations[path]
                todo.extend(derivations[path].input_derivations)
                sources.update((source, self._source(source)) for source in derivations[path].input_sources)
        return Graph(derivations, sources)

    def _source(self, path: StorePath) -> Source:
        return self._sources.get(path) or self._given[path]

    def _git(self, spec: GitSpec) -> Source:
        """The source of a repository, as the lock says, else as it is now."""
        from reconciler.packages import git_sources

        reference = git_sources.reference(spec)
        entry = self._lock.get(reference, EVERY_SYSTEM)
        if entry is None or entry.path is None:
            try:
                entry = git_sources.look_up(spec)
            except StoreError as error:
                raise UsageError(f"{spec.position}: {error.message}", error.hint) from None
        self._used[entry.key] = entry
        return git_sources.source(entry, spec)

    # --- a store path -------------------------------------------------------------------------------------------------

    def _path(self, reference: str, origin: Position | None) -> Package:
        place = f"{origin}: " if origin else ""
        try:
            path = StorePath.parse(reference)
        except FormatError as error:
            hint = error.hint or f"a package is a name, or a path in {STORE_DIR}"
            raise UsageError(f"{place}{error.message}", hint) from None
        if path.is_derivation:
            raise UsageError(f"{place}{path} is a derivation, not a package", "name one of its outputs")
        self._given.setdefault(path, GivenPath(path, self.everywhere))
        name, version = parse_drv_name(path.name)
        return Package(name, version, path, None)

    @property
    def everywhere(self) -> tuple[Caches, ...]:
        """Every cache that is known: those that are asked before builds, then those of the channels."""
        own = () if self.caches is None else (self.caches,)
        return (*own, *(channel.caches for channel in self._channels.values()))

    # --- a NixOS system -----------------------------------------------------------------------------------------------

    def _toplevel(self, reference: str, architecture: str, origin: Position | None) -> Package:
        text = reference.removeprefix(NIXOS)
        if not is_evaluated(text):
            raise UsageError(
                f"'{reference}' names no NixOS system", f"{NIXOS}path:./nixos#web01, {NIXOS}nixos/web01.nix"
            )
        shown = f"{origin}: {text}" if origin else text
        if not self._nixos.moves(text):
            return self._nixos.now(text, architecture, shown)
        entry = self._lock.get(reference, architecture)
        if entry is None or entry.derivation is None:
            entry = self._nixos.find(reference, text, architecture, shown)
        self._used[reference, architecture] = entry
        return self._nixos.pinned(text, entry, shown)

    # --- a name -------------------------------------------------------------------------------------------------------

    def _look_up(self, reference: str, architecture: str) -> LockEntry:
        """What a reference means that is not pinned: the first set that has the name and a version that matches."""
        only, name, wanted = _split(reference)
        if only and only not in self._order:
            hint = (
                did_you_mean(only, self._order)
                or f"the sets are {', '.join(self._order)}; reconciler.yml says others by `sets:`"
            )
            raise NotThereError(f"there is no package set '{only}'", hint)
        lacking: list[NotThereError] = []
        for each in (only,) if only else self._order:
            if not self._has(each, name, architecture):
                continue
            try:
                return self._in_set(each, name, wanted, reference, architecture)
            except NotThereError as error:
                lacking.append(error)
        raise lacking[0] if lacking else self._nowhere(name, only)

    def _has(self, chosen: str, name: str, architecture: str) -> bool:
        if chosen in self._expressions:
            return self._expressions[chosen].has(name, architecture)
        return self._recipes.has(name) if chosen == RECIPES else self._channels[chosen].has(name)

    def _in_set(self, chosen: str, name: str, wanted: str | None, reference: str, architecture: str) -> LockEntry:
        if chosen == RECIPES:
            version = self._recipes.find(name, wanted, reference).version
            return LockEntry(reference, architecture, RECIPES, version)
        if chosen in self._expressions:
            return self._expressions[chosen].find(name, wanted, architecture, reference)
        found = self._channels[chosen].find(name, wanted, architecture, reference)
        return LockEntry(
            reference,
            architecture,
            chosen,
            found.version or "0",
            path=found.path,
            also=found.also,
            size=found.size,
            release=found.release,
        )

    def _nowhere(self, name: str, only: str = "") -> NotThereError:
        where = [only] if only else list(self._order)
        known = list(self._recipes.names()) if RECIPES in where else []
        channels = [each for each in where if each != RECIPES]
        for each in channels:
            if each in self._channels:
                known += sorted(self._channels[each].listed.names())
        shown = [f"recipes are looked up in {self._recipes.shown}"] if RECIPES in where else []
        shown += [f"reconciler packages search {name}"] if channels else []
        return NotThereError(f"there is no package '{name}'", did_you_mean(name, known) or "; ".join(shown))

    def _package(self, entry: LockEntry) -> Package:
        """The package of an entry, whether it was pinned or looked up."""
        _, name, _ = _split(entry.reference)
        if entry.set == RECIPES:
            return self._recipes.package(name, self._recipes.pinned(name, entry), entry.system)
        if entry.set in self._expressions and entry.derivation is not None:
            return self._expressions[entry.set].package(name, entry)
        channel = self._channels.get(entry.set)
        if channel is None or entry.path is None:
            place = f"{entry.position}: " if entry.position else ""
            raise UsageError(
                f"{place}{entry.reference} is locked in the set '{entry.set}', which reconciler.yml does not have",
                f"name the set again, or: reconciler lock --update {entry.reference}",
            )
        for path in (entry.path, *entry.also):
            self._given.setdefault(path, CachedPath(path, channel.caches))
        return Package(name, entry.version, entry.path, None, also=entry.also)


def _split(reference: str) -> tuple[str, str, str | None]:
    """The set ("" for whichever has it), the name, and the version that is asked for."""
    head, colon, rest = reference.partition(":")
    name, at, version = (rest if colon else head).partition("@")
    return head if colon else "", name, version if at else None
