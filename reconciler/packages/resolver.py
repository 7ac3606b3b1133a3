"""From a reference to a package: which recipe and version it means, and what that will be called in the store.

    reference  NAME | NAME@VERSION | /nix/store/HASH-NAME

Recipes are looked up in packages/ beside the inventory, then at the project's root. Nothing is written to any store,
and no host is asked: what a reference means follows from the files and from this machine's toolchain alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from reconciler.core.errors import FormatError, UsageError
from reconciler.core.nix.derivation import Derivation, ModuloCache
from reconciler.core.nix.store_path import STORE_DIR, StorePath, parse_drv_name
from reconciler.inventory.desired import Position
from reconciler.inventory.names import did_you_mean, nearest
from reconciler.packages import recipe as recipes
from reconciler.packages import versions
from reconciler.packages.derive import STAGE, Made, Named, Parts, derive, make_source
from reconciler.packages.model import Graph, Package, Source
from reconciler.packages.recipe import Recipe, SourceSpec, Variant
from reconciler.packages.sources import GivenPath

FOLDER = "packages"
_SUFFIX = ".yml"


def _error(origin: Position | None, message: str, hint: str | None = None) -> UsageError:
    return UsageError(f"{origin}: {message}" if origin else message, hint)


class Resolver:
    """Remembers what it has read: one for each run."""

    def __init__(self, project: Path, inventory_dir: Path) -> None:
        self._project = project.absolute()
        self._folders = tuple(dict.fromkeys(folder.absolute() / FOLDER for folder in (inventory_dir, project)))
        self._recipes: dict[str, Recipe] = {}
        self._packages: dict[tuple[str, str, str], Package] = {}
        self._making: list[tuple[str, Position | None]] = []
        self._made: dict[SourceSpec, Made] = {}
        self._derivations: dict[StorePath, Derivation] = {}
        self._sources: dict[StorePath, Source] = {STAGE.path: STAGE}
        self._cache = ModuloCache()

    # --- questions ----------------------------------------------------------------------------------------------------

    def resolve(self, reference: str, architecture: str, origin: Position | None = None) -> Package:
        """What `reference` means on `architecture`. `origin` is where it stands.

        UsageError, at `origin`, for a name or version that there is not; Faults for a recipe that is wrong.
        """
        if reference.startswith("/"):
            return self._given(reference, origin)
        head, colon, _ = reference.partition(":")
        if colon:
            raise _error(origin, f"there is no package set '{head}'", "packages come from recipes and from store paths")
        name, at, wanted = reference.partition("@")
        recipe = self._recipe(name, origin)
        return self._package(recipe, self._variant(recipe, wanted if at else None, reference, origin), architecture)

    def names(self) -> tuple[str, ...]:
        """The packages that there are recipes for, sorted."""
        found = {path.stem for folder in self._folders if folder.is_dir() for path in folder.glob(f"*{_SUFFIX}")}
        return tuple(sorted(found))

    def recipe(self, name: str) -> Recipe:
        """The recipe of a package; UsageError when there is none."""
        return self._recipe(name, None)

    def graph(self, packages: Iterable[Package]) -> Graph:
        """Everything that is needed to build `packages`, which this resolver has resolved."""
        derivations: dict[StorePath, Derivation] = {}
        sources: dict[StorePath, Source] = {}
        todo: list[StorePath] = []
        for package in packages:
            if package.derivation is None:
                sources[package.output] = GivenPath(package.output)
            else:
                todo.append(package.derivation)
        while todo:
            path = todo.pop()
            if path not in derivations:
                derivations[path] = self._derivations[path]
                todo.extend(derivations[path].input_derivations)
                sources.update((source, self._sources[source]) for source in derivations[path].input_sources)
        return Graph(derivations, sources)

    # --- a store path -------------------------------------------------------------------------------------------------

    def _given(self, reference: str, origin: Position | None) -> Package:
        try:
            path = StorePath.parse(reference)
        except FormatError as error:
            hint = error.hint or f"a package is a name, or a path in {STORE_DIR}"
            raise _error(origin, error.message, hint) from None
        if path.is_derivation:
            raise _error(origin, f"{path} is a derivation, not a package", "name one of its outputs")
        self._sources[path] = GivenPath(path)
        name, version = parse_drv_name(path.name)
        return Package(name, version, path, None)

    # --- recipes ------------------------------------------------------------------------------------------------------

    def _recipe(self, name: str, origin: Position | None) -> Recipe:
        if name not in self._recipes:
            file = self._file(name)
            if file is None:
                shown = ", ".join(self._shown(folder) for folder in self._folders)
                hint = did_you_mean(name, self.names()) or f"recipes are looked up in {shown}"
                raise _error(origin, f"there is no package '{name}'", hint)
            self._recipes[name] = recipes.load(file, self._shown(file))
        return self._recipes[name]

    def _file(self, name: str) -> Path | None:
        if not recipes.NAME.fullmatch(name):
            return None
        candidates = (folder / f"{name}{_SUFFIX}" for folder in self._folders)
        return next((file for file in candidates if file.is_file()), None)

    def _shown(self, path: Path) -> str:
        """A path as messages name it: from the project's root where it lies below."""
        return str(path.relative_to(self._project)) if path.is_relative_to(self._project) else str(path)

    def _variant(self, recipe: Recipe, wanted: str | None, reference: str, origin: Position | None) -> Variant:
        known = versions.newest_first(recipe.versions)
        found = next((version for version in known if wanted is None or versions.matches(version, wanted)), None)
        if found is None:
            listed = ", ".join(known)
            near = nearest(wanted or "", known)
            hint = f"did you mean '{recipe.name}@{near}'?  {recipe.name} has {listed}" if near else None
            raise _error(origin, f"there is no {reference}", hint or f"{recipe.name} has {listed}")
        return recipe.versions[found]

    def _package(self, recipe: Recipe, variant: Variant, architecture: str) -> Package:
        key = (recipe.name, variant.version, architecture)
        if key not in self._packages:
            self._packages[key] = self._make(recipe, variant, architecture)
        return self._packages[key]

    def _make(self, recipe: Recipe, variant: Variant, architecture: str) -> Package:
        label = f"{recipe.name}@{variant.version}"
        if label in (made for made, _ in self._making):
            circle = [made for made, _ in self._making]
            names = " -> ".join([*circle[circle.index(label) :], label])
            raise _error(self._making[-1][1], f"these packages are inputs of each other: {names}")
        inputs = []
        for wanted in variant.inputs:
            self._making.append((label, wanted.position))
            try:
                inputs.append(self.resolve(wanted.reference, architecture, wanted.position))
            finally:
                self._making.pop()
        sources = [self._source(spec) for spec in variant.sources]
        named = derive(
            Parts(recipe.name, variant.version, variant.build, architecture, tuple(sources), tuple(inputs)),
            self._derivations.__getitem__,
            self._cache,
        )
        self._keep(named)
        return Package(recipe.name, variant.version, named.output, named.path)

    def _source(self, spec: SourceSpec) -> Made:
        if spec not in self._made:
            made = make_source(spec)
            if made.source is not None:
                self._sources[made.path] = made.source
            if made.fetched is not None:
                self._keep(made.fetched)
            self._made[spec] = made
        return self._made[spec]

    def _keep(self, named: Named) -> None:
        self._derivations[named.path] = named.derivation
