"""How a toolchain is written: which keys there are and what stands behind them, before any of it is understood.

The grammar is at the top of toolchain.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reconciler.core.errors import Faults
from reconciler.inventory import yaml
from reconciler.inventory.faults import InputError
from reconciler.packages.toolchain_tree import Shape
from reconciler.packages.written import find

EXTENDS = "extends"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class WrittenDeb(_Strict):
    version: str
    architecture: str
    sha256: str
    url: str | None = None


class WrittenTree(_Strict):
    nar: str
    packages: list[str] = Field(min_length=1)
    keep: list[str] = []
    drop: list[str] = []
    links: dict[str, str] = {}
    wanted: list[str] = []
    without: list[str] = []


class WrittenTrees(_Strict):
    libc: WrittenTree
    shell: WrittenTree
    tools: WrittenTree


class WrittenSystem(_Strict):
    loader: str
    libraries: str
    linkers: list[str] = []
    trees: WrittenTrees
    debs: dict[str, WrittenDeb]


class WrittenToolchain(_Strict):
    description: str = ""
    systems: dict[str, WrittenSystem] = Field(min_length=1)


class WrittenAddition(WrittenTree):
    """What goes into `tools` besides: not pinned yet where it has no `nar`."""

    nar: str = ""
    packages: list[str] = []
    wanted: list[str] = Field(min_length=1)


class WrittenExtendedSystem(_Strict):
    tools: WrittenAddition
    base: str = ""
    debs: dict[str, WrittenDeb] = {}


class WrittenExtension(_Strict):
    description: str = ""
    extends: str
    systems: dict[str, WrittenExtendedSystem] = Field(min_length=1)


Written = WrittenToolchain | WrittenExtension


def read(path: Path, shown: str) -> tuple[Written, yaml.Mapping]:
    """What a definition says, and where; Faults with everything that is wrong in how it says it."""
    node = yaml.load(path, shown)
    if not isinstance(node, yaml.Mapping):
        raise InputError(node.position, "a toolchain is a mapping", "it begins with `systems:`")
    model = WrittenExtension if EXTENDS in node.entries else WrittenToolchain
    try:
        return model.model_validate(_text(node)), node
    except ValidationError as error:
        faults = [_fault(node, cast(dict[str, Any], details)) for details in error.errors()]
        raise Faults(faults) if len(faults) > 1 else faults[0] from None


def _text(node: yaml.Node) -> Any:
    if isinstance(node, yaml.Scalar):
        return node.text
    if isinstance(node, yaml.Sequence):
        return [_text(item) for item in node.items]
    return {key: _text(entry.value) for key, entry in node.entries.items()}


def _fault(root: yaml.Node, details: dict[str, Any]) -> InputError:
    *place, last = details["loc"]
    if details["type"] == "extra_forbidden":
        return InputError(find(root, details["loc"])[1], f"there is no key '{last}' here")
    if details["type"] == "missing":
        return InputError(find(root, tuple(place))[1], f"'{last}' is missing")
    return InputError(find(root, details["loc"])[1], str(details["msg"]))


def shape_of(given: WrittenTree) -> Shape:
    """What of its packages goes into a tree."""
    return Shape(tuple(given.keep), tuple(given.drop), tuple(sorted(given.links.items())))
