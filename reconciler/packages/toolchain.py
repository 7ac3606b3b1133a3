"""Toolchains: the compiler and the C library of recipes, pinned as Debian packages that become store paths.

    toolchains/NAME.yml, beside recipes (packages/toolchains/ of the inventory, then of the project's root), else one
    that the program brings along:

    description: TEXT?
    systems:
      x86_64-linux:
        loader: PATH                     the ELF interpreter, in the tree `libc`
        libraries: PATH                  the directory of shared libraries there
        linkers: [PATH, ...]             linkers in the tree `tools`, each of which is wrapped, see below
        trees:
          libc:  TREE                    C library and runtimes of the compilers: what programs are linked to
          shell: TREE                    bin/sh and bin/bash for installed scripts: static, so that they need nothing
          tools: TREE                    what a build sees as /usr
        debs:
          PACKAGE: {version: V, architecture: A, sha256: HASH, url: URL?}

    TREE      {nar: HASH, packages: [PACKAGE, ...], keep: [...], drop: [...], links: {...}, wanted: [...],
               without: [...]}
              nar: sha256 of the tree's NAR, which decides its store path, so that it is known before anything is
              fetched; keep, drop and links: toolchain_tree.py; wanted and without: toolchain_pins.py

    or, for a tree `tools` that holds more, with libc and shell of another toolchain, and the same store paths of these:

    description: TEXT?
    extends: NAME                        a toolchain that extends none
    systems:
      x86_64-linux:
        base: HASH                       the `nar` of its `tools` when this was pinned
        tools: TREE                      what goes in besides
        debs: {...}                      packages that are not in it

A wrapped linker gives what it links the store's ELF interpreter and run path. It names the tree `libc`, which is the
one reference of `tools`; the trees are content-addressed sources, the same wherever they are made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as MappingType
from dataclasses import dataclass, replace
from functools import cached_property
from importlib import resources
from pathlib import Path

from reconciler.core.errors import Faults, FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath, source_path
from reconciler.inventory import yaml
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.names import did_you_mean
from reconciler.packages.specs import HOST, TOOLCHAIN
from reconciler.packages.toolchain_tree import Shape
from reconciler.packages.toolchain_written import (
    EXTENDS,
    WrittenDeb,
    WrittenExtendedSystem,
    WrittenExtension,
    WrittenSystem,
    WrittenTree,
    WrittenTrees,
    read,
    shape_of,
)
from reconciler.packages.written import find

SHIPPED = "debian-12"
AUTOTOOLS = "debian-12-autotools"
FOLDER = "toolchains"
_SUFFIX = ".yml"
_PATH = re.compile(r"(?!.*(?:^|/)\.\.?(?:/|$))[A-Za-z0-9_+.\-*]+(?:/[A-Za-z0-9_+.\-*\[]+)*")
_PACKAGE = re.compile(r"[a-z0-9][a-z0-9+.\-]+")
_DEB_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+\-~:]*")
_ARCHITECTURE = re.compile(r"[a-z0-9\-]+")


# --- values -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deb:
    """One Debian package, pinned."""

    package: str
    version: str
    architecture: str
    sha256: Hash
    url: str | None = None

    @property
    def file(self) -> str:
        """`make_4.3-4.1_amd64.deb`."""
        return f"{self.package}_{self.version.rpartition(':')[2]}_{self.architecture}.deb"


@dataclass(frozen=True)
class Tree:
    """One store path of a toolchain, and what it is made from."""

    path: StorePath
    nar_hash: Hash
    references: tuple[StorePath, ...]
    debs: tuple[Deb, ...]
    shape: Shape
    base: Tree | None = None  # what `debs` and `shape` come on top of


@dataclass(frozen=True)
class Toolchain:
    """A toolchain for one system. `loader` and `libraries` lie in `libc`, `linkers` in `tools`."""

    name: str
    system: str
    libc: Tree
    shell: Tree
    tools: Tree
    loader: str
    libraries: str
    linkers: tuple[str, ...]

    @property
    def trees(self) -> tuple[Tree, ...]:
        """References before referrers."""
        return (self.libc, self.shell, self.tools)

    @cached_property
    def wrapper(self) -> str:
        """What stands in the place of each linker, but for the name of the linker itself."""
        return linker_wrapper(self.libc.path, self.loader, self.libraries)


_WRAPPER = """#!/bin/sh
# What is linked here finds its C library in the store, and so do the libraries that it loads (a DT_RPATH holds for
# them too, a DT_RUNPATH would not).
for one in "$@"; do
    case $one in
        -r | -i | -Ur | --relocatable | -no-dynamic-linker | --no-dynamic-linker) exec LINKER "$@" ;;
    esac
done
exec LINKER "$@" -dynamic-linker {libc}/{loader} -rpath {libc}/{libraries} --disable-new-dtags
"""


def linker_wrapper(libc: StorePath, loader: str, libraries: str) -> str:
    """The wrapper of a linker; LINKER stands for its path."""
    return _WRAPPER.format(libc=libc, loader=loader, libraries=libraries)


def tree_path(name: str, role: str, nar_hash: Hash, references: tuple[StorePath, ...]) -> StorePath:
    """Where a tree lies: `/nix/store/…-debian-12-libc`."""
    return source_path(f"{name}-{role}", nar_hash, references)


# --- what it means ----------------------------------------------------------------------------------------------------


class _Reader:
    """Turns what one system of a definition says into values, and gathers what is wrong with it."""

    def __init__(self, name: str, system: str, root: yaml.Mapping) -> None:
        self._name = name
        self._system = system
        self._root = root
        self.faults: list[InputError] = []

    def toolchain(self, given: WrittenSystem) -> Toolchain | None:
        debs = {package: self._deb(package, deb) for package, deb in given.debs.items()}
        for key in ("loader", "libraries"):
            self._check(_PATH, getattr(given, key), (key,), "a path in the tree")
        for index, linker in enumerate(given.linkers):
            self._check(_PATH, linker, ("linkers", index), "a path in the tree")
        trees: dict[str, Tree | None] = {}
        for role in WrittenTrees.model_fields:
            libc = trees.get("libc")
            references = (libc.path,) if role == "tools" and libc is not None and given.linkers else ()
            trees[role] = self._tree(role, getattr(given.trees, role), debs, references, ("trees", role))
        libc, shell, tools = (trees[role] for role in ("libc", "shell", "tools"))
        if self.faults or libc is None or shell is None or tools is None:
            return None
        return Toolchain(
            self._name, self._system, libc, shell, tools, given.loader, given.libraries, tuple(given.linkers)
        )

    def extended(self, given: WrittenExtendedSystem, base: Toolchain) -> Toolchain | None:
        """`base` with what is added to its tools."""
        if not given.tools.nar:
            self._fault((), f"the toolchain '{self._name}' is not pinned yet", pinning(self._name))
            return None
        if given.base != base.tools.nar_hash.base16:
            now = f"the tools of {base.name} are {base.tools.nar_hash.base16} now"
            self._fault(("base",), f"'{self._name}' was pinned on another {base.name}: {now}", pinning(self._name))
        debs = {package: self._deb(package, deb) for package, deb in given.debs.items()}
        tools = self._tree("tools", given.tools, debs, base.tools.references, ("tools",))
        if self.faults or tools is None:
            return None
        return replace(base, name=self._name, tools=replace(tools, base=base.tools))

    def _fault(self, location: tuple[int | str, ...], message: str, hint: str | None = None) -> None:
        _, position = find(self._root, ("systems", self._system, *location))
        self.faults.append(InputError(position, message, hint))

    def _check(self, pattern: re.Pattern[str], text: str, location: tuple[int | str, ...], what: str) -> None:
        if not pattern.fullmatch(text):
            self._fault(location, f"'{text}' is not {what}")

    def _hash(self, text: str, location: tuple[int | str, ...]) -> Hash | None:
        try:
            return Hash.parse(text, "sha256")
        except FormatError as error:
            self._fault(location, error.message, "64 hexadecimal digits, as sha256sum prints them")
            return None

    def _deb(self, package: str, given: WrittenDeb) -> Deb | None:
        place = ("debs", package)
        self._check(_PACKAGE, package, place, "the name of a Debian package")
        self._check(_DEB_VERSION, given.version, (*place, "version"), "the version of a Debian package")
        self._check(_ARCHITECTURE, given.architecture, (*place, "architecture"), "an architecture")
        if given.url is not None and not given.url.startswith(("https://", "http://")):
            self._fault((*place, "url"), f"'{given.url}' is not the URL of a file on a server")
        digest = self._hash(given.sha256, (*place, "sha256"))
        return Deb(package, given.version, given.architecture, digest, given.url) if digest else None

    def _tree(
        self,
        role: str,
        given: WrittenTree,
        debs: MappingType[str, Deb | None],
        references: tuple[StorePath, ...],
        place: tuple[str, ...],
    ) -> Tree | None:
        found = []
        for index, package in enumerate(given.packages):
            if package not in debs:
                self._fault((*place, "packages", index), f"'{package}' does not stand in `debs`")
            elif (deb := debs[package]) is not None:
                found.append(deb)
        for key in ("keep", "drop"):
            for index, pattern in enumerate(getattr(given, key)):
                self._check(_PATH, pattern, (*place, key, index), "a path in the tree")
        for link in given.links:
            self._check(_PATH, link, (*place, "links", link), "a path in the tree")
        digest = self._hash(given.nar, (*place, "nar"))
        if digest is None:
            return None
        shape = shape_of(given)
        return Tree(tree_path(self._name, role, digest, references), digest, references, tuple(found), shape)


# --- looking them up --------------------------------------------------------------------------------------------------


class Toolchains:
    """The toolchains that recipes of some folders can name; `shown` says how messages call a file."""

    def __init__(self, folders: tuple[Path, ...], project: Path) -> None:
        self._folders = tuple(folder / FOLDER for folder in folders)
        self._project = project
        self._known: dict[tuple[str, str], Toolchain] = {}

    def names(self) -> tuple[str, ...]:
        """What there are definitions for, sorted."""
        folders = [*(folder for folder in self._folders if folder.is_dir()), shipped()]
        return tuple(sorted({path.stem for folder in folders for path in folder.glob(f"*{_SUFFIX}")}))

    def file(self, name: str) -> Path | None:
        """The definition of a name: the project's own before one that the program brings along."""
        if not TOOLCHAIN.fullmatch(name):
            return None
        candidates = (folder / f"{name}{_SUFFIX}" for folder in (*self._folders, shipped()))
        return next((file for file in candidates if file.is_file()), None)

    def shown(self, file: Path) -> str:
        """A file as messages name it."""
        return str(file.relative_to(self._project)) if file.is_relative_to(self._project) else str(file)

    def find(self, name: str, system: str, origin: Position) -> Toolchain:
        """A toolchain; InputError, at `origin`, where there is none of the name or for the system; Faults for a
        definition that is wrong."""
        if (name, system) not in self._known:
            self._known[name, system] = self._load(name, system, origin)
        return self._known[name, system]

    def _load(self, name: str, system: str, origin: Position) -> Toolchain:
        file = self.file(name)
        if file is None:
            known = (HOST, *self.names())
            hint = did_you_mean(name, known) or f"there are {', '.join(known)}"
            raise InputError(origin, f"there is no toolchain '{name}'", hint)
        shown = self.shown(file)
        given, root = read(file, shown)
        if system not in given.systems:
            raise InputError(
                origin,
                f"the toolchain '{name}' is none for {system}",
                f"{shown} has it for {', '.join(given.systems)}",
            )
        reader = _Reader(name, system, root)
        if isinstance(given, WrittenExtension):
            made = reader.extended(given.systems[system], self.base(given, root, system))
        else:
            made = reader.toolchain(given.systems[system])
        if made is None:
            raise Faults(reader.faults) if len(reader.faults) > 1 else reader.faults[0]
        return made

    def base(self, given: WrittenExtension, root: yaml.Mapping, system: str) -> Toolchain:
        """What a toolchain extends; InputError where it cannot."""
        _, place = find(root, (EXTENDS,))
        file = self.file(given.extends)
        if file is not None and isinstance(read(file, self.shown(file))[0], WrittenExtension):
            raise InputError(place, f"'{given.extends}' is itself an extension", "extend what it extends")
        return self.find(given.extends, system, place)


def pinning(name: str) -> str:
    """What to do about a definition whose pins are not right."""
    return f"reconciler packages toolchain {name}"


def shipped() -> Path:
    """The folder of the definitions that the program brings along."""
    return Path(str(resources.files("reconciler.packages"))) / FOLDER
