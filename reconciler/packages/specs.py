"""What a recipe says, as values: recipe.py reads them, with the grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.nix.hashes import Hash
from reconciler.inventory.desired import Position

# What `toolchain:` of a recipe says for the builder's own.
HOST = "host"
# What a package, its versions, and a toolchain may be called.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-]*")
VERSION = re.compile(r"[0-9][A-Za-z0-9_+.\-?=]*")
TOOLCHAIN = re.compile(r"[a-z0-9][A-Za-z0-9+.\-]*")


@dataclass(frozen=True)
class PathSpec:
    """A file or directory beside the recipe."""

    path: Path
    position: Position


@dataclass(frozen=True)
class Patch:
    """A patch beside the recipe; `strip` leading directories of the names in it are taken off."""

    spec: PathSpec
    strip: int


@dataclass(frozen=True)
class UrlSpec:
    """A file on a server, or on several. `file` names it in the store."""

    urls: tuple[str, ...]
    file: str
    sha256: Hash


@dataclass(frozen=True)
class DebianSpec:
    """The orig tarball `file` of the Debian source package `package`."""

    package: str
    file: str
    sha256: Hash


@dataclass(frozen=True)
class PypiSpec:
    """The wheel `file` of version `version` of the project `project` on the Python package index."""

    project: str
    version: str
    file: str
    sha256: Hash


@dataclass(frozen=True)
class GitSpec:
    """A commit of a repository: `commit` in full, or what the branch or tag `ref` is; with neither, its HEAD."""

    url: str
    ref: str | None
    commit: str | None
    position: Position


SourceSpec = PathSpec | UrlSpec | DebianSpec | PypiSpec | GitSpec


def is_wheel(source: SourceSpec) -> bool:
    """Whether a source is a wheel, by its name."""
    if isinstance(source, GitSpec):
        return False
    return (source.path.name if isinstance(source, PathSpec) else source.file).endswith(".whl")


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
    outputs: tuple[str, ...] = ("out",)
    check: str = ""
    toolchain: str = HOST
    toolchain_position: Position | None = None
    patches: tuple[Patch, ...] = ()
    features: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """A package by its name, with its versions."""

    name: str
    position: Position
    description: str
    home: str
    versions: Mapping[str, Variant]
