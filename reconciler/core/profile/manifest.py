"""Manifests of environments, read back: nix-env's manifest.nix and `nix profile`'s manifest.json.

    value  = list | set | string | number | true | false | null        (what Nix prints of a value, nothing more)
    list   = "[" value* "]"
    set    = "{" (name "=" value ";")* "}"          name: identifier or string
    string = '"' with the escapes \\" \\\\ \\n \\r \\t \\$ '"'

Limits: SIZE_LIMIT bytes, DEPTH_LIMIT levels. FormatError for anything else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from reconciler.core.errors import FormatError
from reconciler.core.values import value

SIZE_LIMIT = 16 * 1024 * 1024
DEPTH_LIMIT = 64
DEFAULT_PRIORITY = 5

_TOKEN = re.compile(
    r"""\s*(?:(?P<sign>[\[\]{}=;])|"(?P<string>(?:[^"\\]|\\.)*)"|(?P<number>-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"""
    r"""|(?P<name>[A-Za-z_][A-Za-z0-9_'-]*))""",
    re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t"}
_WORDS = {"true": True, "false": False, "null": None}


@value
class Held:
    """One store path of an environment, with its priority (lower wins)."""

    path: str
    priority: int = DEFAULT_PRIORITY
    active: bool = True


def nix_env_elements(data: bytes) -> list[Held]:
    """The outputs of every element of a manifest.nix, in its order."""
    elements = _parse(_text(data))
    if not isinstance(elements, list):
        raise FormatError("manifest.nix: a list was expected")
    held = []
    for element in elements:
        if not isinstance(element, dict):
            raise FormatError("manifest.nix: an element is not a set")
        outputs = element.get("outputs", [])
        if not isinstance(outputs, list):
            raise FormatError("manifest.nix: the outputs of an element are not a list")
        found = [_out_path(element.get(output)) for output in outputs if isinstance(output, str)]
        meta = element.get("meta")
        priority = _priority(meta.get("priority") if isinstance(meta, dict) else None)
        held += [Held(path, priority) for path in found or [_out_path(element)]]
    return held


def _priority(value: Any) -> int:
    """As nix-env reads it: a number, or the text of one; what is neither is no priority."""
    try:
        return DEFAULT_PRIORITY if value is None else int(value)
    except (TypeError, ValueError):
        return DEFAULT_PRIORITY


def _out_path(value: Any) -> str:
    path = value.get("outPath") if isinstance(value, dict) else None
    if not isinstance(path, str):
        raise FormatError("manifest.nix: an element has no outPath")
    return path


def nix_profile_elements(data: bytes) -> list[Held]:
    """The store paths of every element of a manifest.json, versions 1 to 3."""
    try:
        elements = json.loads(_text(data))["elements"]
        values = elements.values() if isinstance(elements, dict) else elements
        return [
            Held(path, _priority(element.get("priority")), element.get("active", True) is True)
            for element in values
            for path in element["storePaths"]
            if isinstance(path, str)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FormatError("manifest.json: not a manifest of `nix profile`") from error


def _text(data: bytes) -> str:
    if len(data) > SIZE_LIMIT:
        raise FormatError("the manifest is larger than 16 MiB")
    return data.decode("utf-8", "surrogateescape")


def _parse(text: str) -> Any:
    tokens = _tokens(text)
    value = _value(next(tokens), tokens, DEPTH_LIMIT)
    if next(tokens) != ("end", ""):
        raise FormatError("manifest.nix: something follows the list")
    return value


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position, end = 0, len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup is None:
            raise FormatError(f"manifest.nix: not understood at byte {position}")
        yield match.lastgroup, match[match.lastgroup]
        position = match.end()
    while True:  # so that a reader at the end sees one more token, and never StopIteration
        yield "end", ""


def _value(token: tuple[str, str], tokens: Iterator[tuple[str, str]], depth: int) -> Any:
    kind, text = token
    if depth == 0:
        raise FormatError(f"manifest.nix: more than {DEPTH_LIMIT} levels")
    if kind == "string":
        return _unescape(text)
    if kind == "number":
        return float(text) if set(text) & set(".eE") else int(text)
    if kind == "name" and text in _WORDS:
        return _WORDS[text]
    if token == ("sign", "["):
        return _list(tokens, depth - 1)
    if token == ("sign", "{"):
        return _set(tokens, depth - 1)
    raise FormatError(f"manifest.nix: '{text}' where a value was expected")


def _list(tokens: Iterator[tuple[str, str]], depth: int) -> list[Any]:
    values = []
    for token in tokens:
        if token == ("sign", "]"):
            break
        values.append(_value(token, tokens, depth))
    return values


def _set(tokens: Iterator[tuple[str, str]], depth: int) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for kind, text in tokens:
        if (kind, text) == ("sign", "}"):
            break
        if kind not in ("name", "string"):
            raise FormatError(f"manifest.nix: '{text}' where a name was expected")
        name = _unescape(text) if kind == "string" else text
        _expect(tokens, "=")
        values[name] = _value(next(tokens), tokens, depth)
        _expect(tokens, ";")
    return values


def _expect(tokens: Iterator[tuple[str, str]], sign: str) -> None:
    if next(tokens) != ("sign", sign):
        raise FormatError(f"manifest.nix: '{sign}' is missing")


def _unescape(text: str) -> str:
    return _ESCAPE.sub(lambda match: _ESCAPED.get(match[1], match[1]), text)
