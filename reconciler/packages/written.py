"""How a recipe is written: which keys there are and what stands behind them, before any of it is understood."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

# Plug-ins of other programs have no say in how recipes are read, and to look for them takes a while.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.yaml import Mapping, Node, Scalar, Sequence


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _words(key: str, kind: str) -> dict[str, Any]:
    return {"key": key, "kind": kind}


# Kinds of sources, each with the keys that may stand beside it.
_SOURCES = {
    "path": (),
    "url": ("sha256", "file"),
    "urls": ("sha256", "file"),
    "debsrc": ("sha256", "file", "version"),
    "pypi": ("sha256", "file", "version"),
    "git": ("ref", "commit"),
}
# What is fetched without a lock is pinned by its hash.
_HASHED = ("url", "urls", "debsrc", "pypi")


class WrittenSource(_Strict):
    path: str | None = None
    url: str | None = None
    urls: list[str] | None = Field(default=None, min_length=1)
    debsrc: str | None = None
    pypi: str | None = None
    git: str | None = None
    sha256: str | None = None
    file: str | None = None
    version: str | None = None
    ref: str | None = None
    commit: str | None = None

    @model_validator(mode="after")
    def _is_one_kind(self) -> WrittenSource:
        kinds = [kind for kind in _SOURCES if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise PydanticCustomError("source", "a source is one of {kinds}", {"kinds": ", ".join(_SOURCES)})
        for key in ("sha256", "file", "version", "ref", "commit"):
            if getattr(self, key) is not None and key not in _SOURCES[kinds[0]]:
                raise PydanticCustomError("source", "'{key}' means nothing beside '{kind}'", _words(key, kinds[0]))
        if kinds[0] in _HASHED and self.sha256 is None:
            raise PydanticCustomError("source", "'sha256' is missing: what is fetched is pinned by its hash")
        return self


class WrittenPatch(_Strict):
    path: str
    strip: str = "1"


def _patch(written: Any) -> Any:
    """A patch that is written as its path alone."""
    return {"path": written} if isinstance(written, str) else written


class WrittenVersion(_Strict):
    """The keys that a version may say otherwise than the recipe."""

    kind: Literal["autotools", "script", "files", "python-app"] | None = None
    toolchain: str | None = None
    source: WrittenSource | None = None
    sources: list[WrittenSource] | None = None
    patches: list[Annotated[WrittenPatch, BeforeValidator(_patch)]] | None = None
    inputs: list[str] | None = None
    build: str | None = None
    check: str | None = None
    outputs: list[str] | None = Field(default=None, min_length=1)
    features: list[str] | None = None
    runtime: list[str] | None = None
    install: dict[str, str] | None = None

    @model_validator(mode="after")
    def _has_one_kind_of_sources(self) -> WrittenVersion:
        if self.source is not None and self.sources is not None:
            raise PydanticCustomError("sources", "'source' and 'sources' cannot stand side by side")
        return self


class WrittenRecipe(WrittenVersion):
    description: str = ""
    home: str = ""
    version: str | None = None
    versions: dict[str, WrittenVersion | None] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _has_a_version(self) -> WrittenRecipe:
        if (self.version is None) == (self.versions is None):
            raise PydanticCustomError("version", "a recipe says either 'version' or 'versions'")
        return self


_VERSION_KEYS = tuple(WrittenVersion.model_fields)
_KEYS = tuple(WrittenRecipe.model_fields)
_SOURCE_KEYS = tuple(WrittenSource.model_fields)
_PATCH_KEYS = tuple(WrittenPatch.model_fields)


def read(node: Mapping) -> tuple[WrittenRecipe | None, list[InputError]]:
    """What a recipe says and what is wrong with how it says it; None when too much is wrong to say more."""
    written = _text(node)
    try:
        return WrittenRecipe.model_validate(written), []
    except ValidationError as error:
        faults = [_fault(details, node) for details in error.errors()]
        return _without_unknown_keys(written, error), faults


def _without_unknown_keys(written: Any, error: ValidationError) -> WrittenRecipe | None:
    """What else the recipe says, when nothing but names of keys is wrong so far."""
    for details in error.errors():
        if details["type"] != "extra_forbidden":
            return None
        *location, key = details["loc"]
        place = written
        for step in location:
            place = place[step]
        del place[key]
    try:
        return WrittenRecipe.model_validate(written)
    except ValidationError:
        return None


def _text(node: Node) -> Any:
    """The tree with every scalar as it is written; nothing (`key:`) is None."""
    if isinstance(node, Scalar):
        return None if node.is_null else node.text
    if isinstance(node, Sequence):
        return [_text(item) for item in node.items]
    return {key: _text(entry.value) for key, entry in node.entries.items()}


def find(node: Node, location: tuple[int | str, ...]) -> tuple[Node, Position]:
    """The node at a location and where it is to be pointed at: at its key where it has one."""
    position = node.position
    for step in location:
        if isinstance(node, Mapping) and str(step) in node.entries:
            entry = node.entries[str(step)]
            node, position = entry.value, entry.key.position
        elif isinstance(node, Sequence) and isinstance(step, int) and step < len(node.items):
            node = node.items[step]
            position = node.position
    return node, position


_WANTED = {
    "string_type": "text is wanted here",
    "list_type": "a list is wanted here",
    "dict_type": "a mapping is wanted here",
    "model_type": "a mapping is wanted here",
    "model_attributes_type": "a mapping is wanted here",
    "too_short": "at least one is wanted here",
}


_LITERALS = {
    "kind": "a recipe is of kind autotools, script, files or python-app",
}


def _fault(details: ErrorDetails, root: Node) -> InputError:
    location = details["loc"]
    _, position = find(root, location)
    kind = details["type"]
    if kind != "extra_forbidden":
        if kind == "literal_error":
            return InputError(position, _LITERALS[str(location[-1])])
        if kind == "missing":
            return InputError(position, f"'{location[-1]}' is missing")
        return InputError(position, _WANTED.get(kind, details["msg"]))
    key = str(location[-1])
    allowed = _allowed(location[:-1])
    hint = did_you_mean(key, allowed) or f"known here: {', '.join(allowed)}"
    return InputError(position, f"there is no key '{key}' here", hint)


def _allowed(place: tuple[int | str, ...]) -> tuple[str, ...]:
    """The keys that can stand at a place."""
    if {"source", "sources"} & set(place):
        return _SOURCE_KEYS
    if "patches" in place:
        return _PATCH_KEYS
    return _VERSION_KEYS if place else _KEYS
