"""Recipes: one file packages/NAME.yml says how one package is made, in one version or several.

    version: 2.10                       or  versions:         version to the keys that it says otherwise
    description, home                         1.0:
    toolchain: host                           2.0: {source: {path: greet-2}, inputs: [words@2]}
    source: SOURCE                      or  sources: [SOURCE, ...]
    inputs: [words, shell-kit@1]        other packages, by reference
    build: |                            a shell script; without it: ./configure --prefix=$out; make; make install

    SOURCE    {path: FILE-OR-DIRECTORY}                            relative to the recipe
              {url: URL, sha256: HASH, file: NAME?}                fetched by the builder
              {debsrc: PACKAGE, sha256: HASH, version: V?, file: NAME?}
                                        the orig tarball of a Debian source package, fetched by the controller's apt;
                                        `version` is upstream's as Debian spells it, `file` PACKAGE_VERSION.orig.tar.gz

Every value is text, as it is written. All faults of a recipe are told at once, each with file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import Faults, FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import parse_drv_name
from reconciler.inventory import yaml
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.yaml import Mapping
from reconciler.packages.written import WrittenRecipe, WrittenSource, WrittenVersion, find, read

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9_+.\-?=]*")
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-?=]*")
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.\-]+")

# Variables that a build script relies on, and that an input of that name would hide.
RESERVED = frozenset(
    {"name", "pname", "version", "system", "builder", "src", "srcs", "inputs", "build", "toolchain", "out"}
    | {"PATH", "HOME", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD", "TERM", "NIX_STORE", "NIX_BUILD_TOP"}
    | {"NIX_BUILD_CORES", "NIX_LOG_FD", "NIX_OUTPUT_CHECKED", "SHELL", "CONFIG_SHELL", "SOURCE_DATE_EPOCH", "TZ"}
    | {"CPPFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "LC_ALL", "IFS"}
)


# --- what a recipe says -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PathSpec:
    """A file or directory beside the recipe."""

    path: Path
    position: Position


@dataclass(frozen=True)
class UrlSpec:
    """A file on a server. `file` names it in the store."""

    url: str
    file: str
    sha256: Hash


@dataclass(frozen=True)
class DebianSpec:
    """The orig tarball `file` of the Debian source package `package`."""

    package: str
    file: str
    sha256: Hash


SourceSpec = PathSpec | UrlSpec | DebianSpec


@dataclass(frozen=True)
class Input:
    """A reference to another package, and where it stands."""

    reference: str
    position: Position


@dataclass(frozen=True)
class Variant:
    """One version of a package."""

    version: str
    sources: tuple[SourceSpec, ...]
    inputs: tuple[Input, ...]
    build: str
    position: Position


@dataclass(frozen=True)
class Recipe:
    """A package by its name, with its versions."""

    name: str
    position: Position
    description: str
    home: str
    versions: MappingType[str, Variant]


# --- reading ----------------------------------------------------------------------------------------------------------


def load(path: Path, shown: str) -> Recipe:
    """The recipe in the file `path`, which messages call `shown`; Faults with everything that is wrong in it."""
    node = yaml.load(path, shown)
    start = Position(shown, 1, 1)
    if not isinstance(node, Mapping):
        raise InputError(node.position, "a recipe is a mapping", "it begins with `version: ...`")
    given, faults = read(node)
    if given is None:
        raise _in_order(faults)
    reader = _Reader(path, start, node)
    recipe = reader.recipe(given)
    faults += reader.faults
    if faults:
        raise _in_order(faults)
    return recipe


def _in_order(faults: list[InputError]) -> Faults:
    in_order: list[InputError] = sorted(faults, key=lambda fault: fault.position)
    return Faults(in_order)


class _Reader:
    """Turns what was written into values, collecting faults."""

    def __init__(self, path: Path, start: Position, root: Mapping) -> None:
        self._path = path
        self._start = start
        self._root = root
        self.faults: list[InputError] = []

    def recipe(self, given: WrittenRecipe) -> Recipe:
        name = self._path.stem
        if not NAME.fullmatch(name):
            self._fault((), f"'{name}' cannot name a package", "letters, digits and _ + . - are allowed")
        bodies = {given.version: None} if given.version is not None else given.versions or {}
        variants = {
            version: self._variant(version, given, body) for version, body in bodies.items() if version is not None
        }
        return Recipe(name, self._start, given.description, given.home, variants)

    def _fault(self, location: tuple[int | str, ...], message: str, hint: str | None = None) -> None:
        self.faults.append(InputError(find(self._root, location)[1], message, hint))

    def _variant(self, version: str, given: WrittenRecipe, body: WrittenVersion | None) -> Variant:
        name = self._path.stem
        location = ("versions", version) if given.versions else ("version",)
        _, position = find(self._root, location)
        if not _VERSION.fullmatch(version):
            self._fault(location, f"'{version}' cannot be a version", "a version begins with a digit and has no blanks")
        elif parse_drv_name(f"{name}-{version}") != (name, version):
            split = parse_drv_name(f"{name}-{version}")[0]
            self._fault(location, f"Nix would read the name '{name}' as '{split}'", "no digit after a dash in a name")
        if (body and body.toolchain) is None and given.toolchain is None:
            self._fault(location, "'toolchain' is missing", "write `toolchain: host`")
        own = body is not None and (body.source is not None or body.sources is not None)
        return Variant(
            version=version,
            sources=self._sources(body if own and body else given, location if own else (), version),
            inputs=self._inputs(body, given, location),
            build=(body and body.build) or given.build or "",
            position=position,
        )

    def _inputs(
        self, body: WrittenVersion | None, given: WrittenRecipe, location: tuple[str, ...]
    ) -> tuple[Input, ...]:
        own = body is not None and body.inputs is not None
        written = (body.inputs if own and body else given.inputs) or []
        place = (*location, "inputs") if own else ("inputs",)
        found = []
        for index, reference in enumerate(written):
            _, position = find(self._root, (*place, index))
            name = reference.partition("@")[0]
            if variable_name(name) in RESERVED:
                self._fault((*place, index), f"the input '{name}' would hide the variable ${name} of the build script")
            found.append(Input(reference, position))
        return tuple(found)

    def _sources(self, body: WrittenVersion, location: tuple[str, ...], version: str) -> tuple[SourceSpec, ...]:
        if body.source is not None:
            found = [self._source(body.source, (*location, "source"), version)]
        else:
            written = enumerate(body.sources or [])
            found = [self._source(source, (*location, "sources", index), version) for index, source in written]
        return tuple(source for source in found if source is not None)

    def _source(self, given: WrittenSource, location: tuple[int | str, ...], version: str) -> SourceSpec | None:
        if given.path is not None:
            return self._path_source(given.path, (*location, "path"))
        digest = self._hash(given.sha256 or "", (*location, "sha256"))
        if given.url is not None:
            file = given.file or given.url.partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
            self._check_file(file, (*location, "file" if given.file else "url"))
            return UrlSpec(given.url, file, digest) if digest else None
        package = given.debsrc or ""
        if not _DEBIAN.fullmatch(package):
            self._fault((*location, "debsrc"), f"'{package}' cannot name a Debian source package")
        file = given.file or f"{package}_{given.version or version}.orig.tar.gz"
        self._check_file(file, (*location, "file" if given.file else "debsrc"))
        return DebianSpec(package, file, digest) if digest else None

    def _path_source(self, written: str, location: tuple[int | str, ...]) -> PathSpec | None:
        _, position = find(self._root, location)
        if written.startswith(("/", "~")):
            self._fault(location, f"'{written}' is not relative to the recipe", "keep sources beside the recipe")
            return None
        path = self._path.parent / written
        if not path.exists():
            self._fault(location, f"there is no file or directory '{written}' beside the recipe")
            return None
        return PathSpec(path, position)

    def _hash(self, written: str, location: tuple[int | str, ...]) -> Hash | None:
        try:
            return Hash.parse(written, "sha256")
        except FormatError as error:
            self._fault(location, error.message, "64 hexadecimal digits, as sha256sum prints them")
            return None

    def _check_file(self, file: str, location: tuple[int | str, ...]) -> None:
        if not _FILE.fullmatch(file):
            self._fault(location, f"'{file}' cannot name a file in the store", "say another with `file:`")


def variable_name(package: str) -> str:
    """The variable under which a build script finds an input: `gnu-which` is $gnu_which."""
    name = re.sub(r"[^A-Za-z0-9_]", "_", package)
    return f"_{name}" if name[0].isdigit() else name
