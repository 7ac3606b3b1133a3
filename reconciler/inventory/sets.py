"""Where packages come from, as reconciler.yml says it.

sets:                                     searched in this order; without it: recipes in packages/
  - recipes: FOLDER                       looked up beside the inventory, then at the project's root
  - NAME: {channel: CHANNEL, cache: URL, key: KEY}
  - NAME: {nix: FILE}                     or {flake: REF}: evaluated by Nix on the controller
caches:                                   asked before anything is built
  - {url: URL, key: KEY}

CHANNEL   a name of channels.nixos.org (nixos-25.05), a URL, or a directory (relative to the project's root), each
          with `store-paths.xz` and perhaps `binary-cache-url`, which says the cache when `cache` does not
KEY       name:base64, or with `keys` a list of such
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from reconciler.core.errors import FormatError
from reconciler.core.nix.signature import PublicKey
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.yaml import Mapping, Node, Scalar, Sequence, fail

RECIPES = "recipes"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_SCHEMES = ("http", "https", "file")
_CHANNEL_KEYS = ("channel", "cache", "key", "keys")
_SET_KEYS = (*_CHANNEL_KEYS, "nix", "flake")
_CACHE_KEYS = ("url", "key", "keys")


@dataclass(frozen=True)
class RecipesSet:
    """A folder of recipes, relative to the inventory or the project's root."""

    directory: str
    name: str = RECIPES


@dataclass(frozen=True)
class ChannelSet:
    """A binary cache with its list of store paths. `cache` is None where the channel itself says it."""

    name: str
    channel: str
    cache: str | None
    keys: tuple[PublicKey, ...]
    position: Position


@dataclass(frozen=True)
class NixSet:
    """A Nix expression (a file, relative to the project's root) or a flake; one of the two is None."""

    name: str
    expression: str | None
    flake: str | None
    position: Position


@dataclass(frozen=True)
class CacheSpec:
    """A binary cache that is asked before anything is built."""

    url: str
    keys: tuple[PublicKey, ...]


SetSpec = RecipesSet | ChannelSet | NixSet
DEFAULT_SETS: tuple[SetSpec, ...] = (RecipesSet("packages"),)


def read_sets(node: Node, log: FaultLog) -> tuple[SetSpec, ...]:
    """The package sets in the order in which they are searched; faults go to the log."""
    found: list[SetSpec] = []
    for item in _items(node, "sets", "- recipes: packages/"):
        with log.catching():
            one = _set(item)
            if one.name in {other.name for other in found} and one.name != RECIPES:
                fail(item.position, f"the set '{one.name}' is there twice")
            found.append(one)
    return tuple(found)


def read_caches(node: Node, log: FaultLog) -> tuple[CacheSpec, ...]:
    """The caches that are asked before anything is built; faults go to the log."""
    found = []
    for item in _items(node, "caches", "- {url: https://cache.example, key: NAME:BASE64}"):
        with log.catching():
            values = _known(item, _CACHE_KEYS, "a cache")
            if "url" not in values:
                fail(item.position, "a cache has no url")
            found.append(CacheSpec(_url(values["url"]), _keys(values)))
    return tuple(found)


def _items(node: Node, what: str, example: str) -> tuple[Node, ...]:
    if isinstance(node, Sequence):
        return node.items
    return fail(node.position, f"{what} is not a list", f"write {example}")


def _set(item: Node) -> SetSpec:
    if not isinstance(item, Mapping) or len(item.entries) != 1:
        fail(item.position, "a set has one name", "- recipes: packages/, or - NAME: {channel: …, cache: …, key: …}")
    (entry,) = item.entries.values()
    name = entry.key.text
    if name == RECIPES:
        return RecipesSet(_folder(entry.value))
    if not _NAME.fullmatch(name):
        fail(entry.key.position, f"'{name}' cannot name a set", "letters, digits and _ . - are allowed")
    values = _known(entry.value, _SET_KEYS, f"set '{name}'")
    kinds = [kind for kind in ("channel", "nix", "flake") if kind in values]
    if len(kinds) != 1:
        fail(entry.value.position, f"set '{name}' is one of channel, nix and flake", "channel: nixos-25.05, say")
    if kinds[0] != "channel":
        if len(values) > 1:
            fail(entry.value.position, f"set '{name}': nothing else stands beside '{kinds[0]}'")
        text = _word(values[kinds[0]])
        return NixSet(
            name, text if kinds[0] == "nix" else None, text if kinds[0] == "flake" else None, entry.key.position
        )
    cache = _url(values["cache"]) if "cache" in values else None
    return ChannelSet(name, _word(values["channel"]), cache, _keys(values), entry.key.position)


def _known(node: Node, known: tuple[str, ...], what: str) -> dict[str, Node]:
    if not isinstance(node, Mapping):
        fail(node.position, f"{what} is not a mapping", f"keys: {', '.join(known)}")
    for key in node.entries.values():
        if key.key.text not in known:
            hint = did_you_mean(key.key.text, known) or f"known keys: {', '.join(known)}"
            fail(key.key.position, f"unknown key '{key.key.text}' in {what}", hint)
    return {name: entry.value for name, entry in node.entries.items()}


def _word(node: Node) -> str:
    if not isinstance(node, Scalar) or not node.text or any(character.isspace() for character in node.text):
        fail(node.position, "one word is wanted here")
    return node.text


def _folder(node: Node) -> str:
    text = _word(node)
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        fail(node.position, f"'{text}' is not a folder of the project", "recipes: packages/")
    return text.rstrip("/") or "."


def _url(node: Node) -> str:
    text = _word(node)
    if urlsplit(text).scheme not in _SCHEMES:
        fail(node.position, f"'{text}' is not the URL of a cache", f"it begins with {', '.join(_SCHEMES)}")
    return text.rstrip("/")


def _keys(values: dict[str, Node]) -> tuple[PublicKey, ...]:
    given: list[Node] = []
    if "key" in values:
        given.append(values["key"])
    if "keys" in values:
        given += _items(values["keys"], "keys", "[NAME:BASE64, …]")
    return tuple(_key(node) for node in given)


def _key(node: Node) -> PublicKey:
    try:
        return PublicKey.parse(_word(node))
    except FormatError as error:
        raise InputError(node.position, error.message, error.hint) from None
