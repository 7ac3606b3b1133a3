"""Folders of recipes as a package set: names, versions, and the derivations that they become."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from reconciler.core.errors import UsageError
from reconciler.core.nix.derivation import Derivation, ModuloCache
from reconciler.core.nix.store_path import StorePath
from reconciler.inventory.desired import Position
from reconciler.inventory.names import nearest
from reconciler.packages import versions
from reconciler.packages.derive import STAGE, Made, Named, Parts, derive, make_source
from reconciler.packages.lock import LockEntry, moved
from reconciler.packages.model import NotThereError, Package, Source
from reconciler.packages.specs import HOST, NAME, GitSpec, Recipe, SourceSpec, Variant

if TYPE_CHECKING:
    from reconciler.packages.toolchain import Toolchain, Toolchains

_SUFFIX = ".yml"
# Inputs of inputs of inputs: whole distributions are a few dozen deep, and Python's stack ends at some two hundred.
MAX_DEPTH = 150
# How an input is resolved: its reference, the architecture, where it stands.
Resolve = Callable[[str, str, Position | None], Package]
# What a git source is pinned to, or is now.
Pin = Callable[[GitSpec], Source]


class Recipes:
    """The recipes of some folders; one in an earlier folder hides one of the same name in a later one."""

    def __init__(
        self,
        folders: Iterable[Path],
        project: Path,
        resolve: Resolve,
        pin: Pin,
        made: tuple[dict[StorePath, Derivation], dict[StorePath, Source]],
    ) -> None:
        """What recipes become goes into `made`, derivations and sources, which other sets fill as well."""
        self._pin = pin
        self._folders = tuple(dict.fromkeys(folders))
        self._project = project
        self._resolve = resolve
        self._recipes: dict[str, Recipe] = {}
        self._packages: dict[tuple[str, str, str], Package] = {}
        self._making: list[tuple[str, Position | None]] = []
        self._made: dict[SourceSpec, Made] = {}
        self._cache = ModuloCache()
        self._derivations, self._sources = made
        self._sources[STAGE.path] = STAGE

    @cached_property
    def toolchains(self) -> Toolchains:
        """The toolchains that these recipes can name."""
        from reconciler.packages.toolchain import Toolchains

        return Toolchains(self._folders, self._project)

    @property
    def shown(self) -> str:
        """The folders, as messages name them."""
        return ", ".join(self._shown(folder) for folder in self._folders)

    def names(self) -> tuple[str, ...]:
        """The packages that there are recipes for, sorted."""
        found = {path.stem for folder in self._folders if folder.is_dir() for path in folder.glob(f"*{_SUFFIX}")}
        return tuple(sorted(found))

    def has(self, name: str) -> bool:
        """Whether there is a recipe of that name."""
        return name in self._recipes or self._file(name) is not None

    def recipe(self, name: str) -> Recipe:
        """The recipe of a name that there is; Faults with everything that is wrong in it."""
        if name not in self._recipes:
            from reconciler.packages.recipe import load  # pydantic, which nothing else here needs

            file = self._file(name)
            assert file is not None, name
            self._recipes[name] = load(file, self._shown(file))
        return self._recipes[name]

    def find(self, name: str, wanted: str | None, reference: str) -> Variant:
        """The newest version that `wanted` matches; NotThereError when there is none."""
        recipe = self.recipe(name)
        known = versions.newest_first(recipe.versions)
        found = next((version for version in known if wanted is None or versions.matches(version, wanted)), None)
        if found is None:
            listed = ", ".join(known)
            near = nearest(wanted or "", known)
            hint = f"did you mean '{name}@{near}'?  {name} has {listed}" if near else None
            raise NotThereError(f"there is no {reference}", hint or f"{name} has {listed}")
        return recipe.versions[found]

    def pinned(self, name: str, pin: LockEntry) -> Variant:
        """The version that the lock says, whatever else there is now."""
        known = self.recipe(name).versions if self.has(name) else {}
        if pin.version not in known:
            where = self._file(name)
            raise moved(pin, versions.newest_first(known), self._shown(where) if where else self.shown)
        return known[pin.version]

    def package(self, name: str, variant: Variant, architecture: str) -> Package:
        """One version as a package, with all that it is made from."""
        key = (name, variant.version, architecture)
        if key not in self._packages:
            self._packages[key] = self._make(name, variant, architecture)
        return self._packages[key]

    def _make(self, name: str, variant: Variant, architecture: str) -> Package:
        label = f"{name}@{variant.version}"
        if label in (made for made, _ in self._making):
            circle = [made for made, _ in self._making]
            names = " -> ".join([*circle[circle.index(label) :], label])
            where = self._making[-1][1]
            raise UsageError(f"{f'{where}: ' if where else ''}these packages are inputs of each other: {names}")
        if len(self._making) >= MAX_DEPTH:
            first, (last, where) = self._making[0][0], self._making[-1]
            raise UsageError(f"{where}: {last} is an input of inputs of {first}, more than {MAX_DEPTH} deep")
        inputs = []
        for wanted in variant.inputs:
            self._making.append((label, wanted.position))
            try:
                inputs.append(self._resolve(wanted.reference, architecture, wanted.position))
            finally:
                self._making.pop()
        sources = [self._source(spec) for spec in variant.sources]
        named = derive(
            Parts(
                name,
                variant.version,
                variant.build,
                architecture,
                tuple(sources),
                tuple(inputs),
                variant.outputs,
                variant.check,
                self._toolchain(variant, architecture),
                tuple((patch.strip, self._source(patch.spec)) for patch in variant.patches),
                variant.features,
            ),
            self._derivations.__getitem__,
            self._cache,
        )
        self._keep(named)
        outputs = named.derivation.output_paths()
        main = outputs.get("bin", outputs["out"])
        also = (outputs["man"],) if "man" in outputs else ()
        return Package(name, variant.version, main, named.path, also, outputs)

    def _source(self, spec: SourceSpec) -> Made:
        if spec not in self._made:
            made = make_source(spec, self._pin)
            if made.source is not None:
                self._sources[made.path] = made.source
            if made.fetched is not None:
                self._keep(made.fetched)
            self._made[spec] = made
        return self._made[spec]

    def _toolchain(self, variant: Variant, architecture: str) -> Toolchain | None:
        if variant.toolchain == HOST:
            return None
        from reconciler.packages.toolchain_sources import sources

        place = variant.toolchain_position or variant.position
        chosen = self.toolchains.find(variant.toolchain, architecture, place)
        self._sources.update((source.path, source) for source in sources(chosen))
        return chosen

    def _keep(self, named: Named) -> None:
        self._derivations[named.path] = named.derivation

    def _file(self, name: str) -> Path | None:
        if not NAME.fullmatch(name):
            return None
        candidates = (folder / f"{name}{_SUFFIX}" for folder in self._folders)
        return next((file for file in candidates if file.is_file()), None)

    def _shown(self, path: Path) -> str:
        """A path as messages name it: from the project's root where it lies below."""
        return str(path.relative_to(self._project)) if path.is_relative_to(self._project) else str(path)
