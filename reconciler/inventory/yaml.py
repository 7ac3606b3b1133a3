"""YAML as a tree of values that know where they stand.

The subset that is read:

    one document, UTF-8 without a byte-order mark, at most 32 MiB, 64 levels, 2,000,000 nodes
    mappings with scalar keys, each key once; `<<` merges as YAML 1.1 has it
    anchors and aliases that bring at most 100,000 nodes in all, none inside itself
    the tags !!str !!int !!float !!bool !!null !!seq !!map, and Ansible's !unsafe, !vault, !vault-encrypted

A scalar stays text here: `1.10` is the text `1.10`. Who knows the schema types it; `plain` gives the value that
YAML 1.1, and so Ansible, gives it. Everything refused is an InputError (a UsageError) with file, line
and column.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

import yaml as pyyaml

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError

_CONFLICT = re.compile(r"(?:<{7}|={7}|>{7})(?: |$)")  # the marks of a merge that was not finished
MAX_BYTES = 32 * 1024 * 1024
_MOST_FILES = 64 * 1024
MAX_DEPTH = 64
MAX_NODES = 2_000_000
MAX_ALIASED = 100_000

_STANDARD = "tag:yaml.org,2002:"
_SCALAR_TAGS = frozenset(_STANDARD + name for name in ("str", "int", "float", "bool", "null"))
_OPAQUE_TAGS = frozenset({"!vault", "!vault-encrypted"})
UNSAFE = "!unsafe"
_BYTE_ORDER_MARK = ("the file begins with a byte-order mark", "save it as UTF-8 without one")

# libyaml's parser where PyYAML was built with it: ten times as fast, the same events.
_LOADER: Any = getattr(pyyaml, "CSafeLoader", pyyaml.SafeLoader)
_EVENTS = pyyaml.events


@dataclass(frozen=True, slots=True)
class Scalar:
    """Text. `bare` is False where quotes or a block style say that it is nothing but text; `tag` is an explicit one."""

    text: str
    position: Position
    bare: bool = True
    tag: str = ""

    @property
    def is_null(self) -> bool:
        return typed(self) is None

    @property
    def is_encrypted(self) -> bool:
        """Ansible's vault holds it; we have no key."""
        return self.tag in _OPAQUE_TAGS


@dataclass(frozen=True, slots=True)
class Sequence:
    items: tuple[Node, ...]
    position: Position


@dataclass(frozen=True, slots=True)
class Entry:
    """One key of a mapping with its value."""

    key: Scalar
    value: Node


@dataclass(frozen=True, slots=True)
class Mapping:
    """Entries by the text of their key, in the order of the file."""

    entries: dict[str, Entry] = field(hash=False)
    position: Position

    def get(self, name: str) -> Node | None:
        """The value under `name`; None where there is none."""
        entry = self.entries.get(name)
        return None if entry is None else entry.value


Node = Scalar | Sequence | Mapping


def load(path: str | os.PathLike[str], shown: str | None = None) -> Node:
    """The tree of a file. `shown` is how messages name it (default: the path as given)."""
    name = os.fspath(path) if shown is None else shown
    return parse(read(path, name), name)


def read(path: str | os.PathLike[str], shown: str) -> bytes:
    """The bytes of a file that somebody typed; InputError when it cannot be read or is too large to be meant."""
    try:
        with open(path, "rb") as stream:
            # A read of so many bytes takes so much memory, however small the file: most are read at once by the first.
            data = stream.read(_MOST_FILES)
            if len(data) == _MOST_FILES:
                data += stream.read(MAX_BYTES + 1 - len(data))
    except OSError as error:
        raise InputError(Position(shown, 0, 0), f"cannot be read: {error.strerror or error}") from error
    if len(data) > MAX_BYTES:
        fail(Position(shown, 1, 1), f"the file is larger than {MAX_BYTES // 2**20} MiB")
    return data


def parse(text: str | bytes, file: str) -> Node:
    """The tree of a document; an empty document is a null scalar."""
    decoded = decode(text, file)
    try:
        return _Composer(pyyaml.parse(decoded, Loader=_LOADER), file).document()
    except pyyaml.reader.ReaderError as error:
        raise _bad_character(decoded, error, file) from error
    except pyyaml.MarkedYAMLError as error:
        raise _bad_syntax(decoded, error, file) from error


def plain(node: Node) -> Any:
    """The value as YAML 1.1, and so Ansible, types it: `yes` is true, `0644` is 420, `1e3` is text."""
    if isinstance(node, Scalar):
        return typed(node)
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {typed(entry.key): plain(entry.value) for entry in node.entries.values()}


def typed(scalar: Scalar) -> Any:
    """The value of one scalar as YAML 1.1 types it."""
    if scalar.tag in _SCALAR_TAGS:
        return _tagged(scalar.text, scalar.tag, scalar.position)
    if scalar.tag or not scalar.bare:
        return scalar.text
    return _untagged(scalar.text)


def fail(position: Position, message: str, hint: str | None = None) -> NoReturn:
    """Raise the fault at a position."""
    raise InputError(position, message, hint)


def decode(text: str | bytes, file: str) -> str:
    """UTF-8 without a byte-order mark, as text; InputError naming the place otherwise."""
    start = Position(file, 1, 1)
    if len(text) > MAX_BYTES:
        fail(start, f"the file is larger than {MAX_BYTES // 2**20} MiB")
    decoded = text if isinstance(text, str) else _from_utf8(text, start)
    if decoded.startswith("\ufeff"):
        fail(start, *_BYTE_ORDER_MARK)
    return decoded


def _from_utf8(data: bytes, start: Position) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        fail(start, *_BYTE_ORDER_MARK)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        before = data[: error.start].decode()
        fail(position_at(before, len(before), start.file), "this byte is not UTF-8", "save the file as UTF-8")


def position_at(text: str, offset: int, file: str) -> Position:
    """The position of a character of a text."""
    line_start = text.rfind("\n", 0, offset) + 1
    return Position(file, text.count("\n", 0, offset) + 1, offset - line_start + 1)


# PyYAML's own tables, so that a bare word means here what it means to Ansible.
_RESOLVER: Any = pyyaml.resolver.Resolver()
_CONSTRUCTOR: Any = pyyaml.constructor.SafeConstructor()


@functools.lru_cache(maxsize=65536)
def _untagged(text: str) -> Any:
    """What YAML 1.1 makes of a bare word; a word that only looks like a date or a number is text."""
    tag = _RESOLVER.resolve(pyyaml.ScalarNode, text, (True, False))
    if tag == _STANDARD + "str":
        return text
    try:
        return _CONSTRUCTOR.construct_object(pyyaml.ScalarNode(tag, text))
    except (ValueError, pyyaml.constructor.ConstructorError):
        return text


def _tagged(text: str, tag: str, position: Position) -> Any:
    try:
        return _CONSTRUCTOR.construct_object(pyyaml.ScalarNode(tag, text))
    except (ValueError, KeyError, IndexError, pyyaml.constructor.ConstructorError):
        fail(position, f"'{text}' is not of the type that its tag !!{tag.removeprefix(_STANDARD)} says")


class _Composer:
    """Turns the parser's events into nodes, holding the limits."""

    def __init__(self, events: Iterator[Any], file: str) -> None:
        self._events = events
        self._file = file
        self._anchors: dict[str, tuple[Node, int]] = {}
        self._open_anchors: set[str] = set()
        self._nodes = 0
        self._aliased = 0

    def document(self) -> Node:
        next(self._events)  # the start of the stream
        event = next(self._events)
        if isinstance(event, _EVENTS.StreamEndEvent):
            return Scalar("", Position(self._file, 1, 1))
        root = self._node(next(self._events), 0)
        next(self._events)  # the end of the document
        event = next(self._events)
        if not isinstance(event, _EVENTS.StreamEndEvent):
            fail(self._at(event), "a second document begins here", "one file holds one document")
        return root

    def _at(self, event: Any) -> Position:
        return Position(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _node(self, event: Any, depth: int) -> Node:
        if isinstance(event, _EVENTS.AliasEvent):
            return self._alias(event)
        anchor = event.anchor
        before = self._nodes
        self._nodes += 1
        if self._nodes > MAX_NODES:
            fail(self._at(event), f"the document has more than {MAX_NODES:,} nodes")
        if anchor is None:
            return self._content(event, depth)
        self._open_anchors.add(anchor)
        node = self._content(event, depth)
        self._open_anchors.discard(anchor)
        self._anchors[anchor] = (node, self._nodes - before)
        return node

    def _content(self, event: Any, depth: int) -> Node:
        if isinstance(event, _EVENTS.ScalarEvent):
            return self._scalar(event)
        if depth >= MAX_DEPTH:
            fail(self._at(event), f"more than {MAX_DEPTH} levels deep")
        if isinstance(event, _EVENTS.SequenceStartEvent):
            return self._sequence(event, depth + 1)
        return self._mapping(event, depth + 1)

    def _alias(self, event: Any) -> Node:
        name = event.anchor
        if name in self._open_anchors:
            fail(self._at(event), f"alias '*{name}' stands inside what it names")
        if name not in self._anchors:
            fail(self._at(event), f"alias '*{name}' names no anchor before it")
        node, weight = self._anchors[name]
        self._aliased += weight
        self._nodes += weight
        if self._aliased > MAX_ALIASED:
            fail(self._at(event), f"aliases bring more than {MAX_ALIASED:,} nodes", "use group_vars, not aliases")
        return node

    def _scalar(self, event: Any) -> Scalar:
        tag = event.tag or ""
        if tag in {"", "!"}:
            return Scalar(event.value, self._at(event), event.implicit[0] and not tag)
        if tag not in _SCALAR_TAGS and tag != UNSAFE and tag not in _OPAQUE_TAGS:
            self._refuse_tag(event)
        scalar = Scalar(event.value, self._at(event), False, tag)
        typed(scalar)  # a tag that lies is told now, not when somebody asks
        return scalar

    def _refuse_tag(self, event: Any) -> NoReturn:
        shown = event.tag.replace(_STANDARD, "!!", 1)
        fail(self._at(event), f"the tag {shown} is not allowed", "values are text, lists and mappings; drop the tag")

    def _sequence(self, event: Any, depth: int) -> Sequence:
        if event.tag not in {None, "!", _STANDARD + "seq"}:
            self._refuse_tag(event)
        items = []
        while not isinstance(item := next(self._events), _EVENTS.SequenceEndEvent):
            items.append(self._node(item, depth))
        return Sequence(tuple(items), self._at(event))

    def _mapping(self, event: Any, depth: int) -> Mapping:
        if event.tag not in {None, "!", _STANDARD + "map"}:
            self._refuse_tag(event)
        entries: dict[str, Entry] = {}
        merged: list[Mapping] = []
        seen: dict[str, Scalar] = {}
        while not isinstance(item := next(self._events), _EVENTS.MappingEndEvent):
            key = self._key(self._node(item, depth))
            if key.text in seen:
                first = seen[key.text].position
                fail(key.position, f"the key '{key.text}' stands here a second time; first at line {first.line}")
            seen[key.text] = key
            value = self._node(next(self._events), depth)
            if key.bare and key.text == "<<":
                merged += self._merge_sources(value)
            else:
                entries[key.text] = Entry(key, value)
        for source in merged:
            # An earlier source wins over a later one, and what stands here wins over both.
            self._nodes += len(source.entries)
            entries = {**source.entries, **entries}
        return Mapping(entries, self._at(event))

    def _key(self, node: Node) -> Scalar:
        if isinstance(node, Scalar):
            return node
        hint = 'a value that begins with {{ needs quotes: "{{ name }}"' if isinstance(node, Mapping) else None
        fail(node.position, "a key must be text, not a list or a mapping", hint)

    def _merge_sources(self, value: Node) -> list[Mapping]:
        sources = value.items if isinstance(value, Sequence) else (value,)
        for source in sources:
            if not isinstance(source, Mapping):
                fail(source.position, "'<<' takes a mapping or a list of mappings")
        return [source for source in sources if isinstance(source, Mapping)]


def _bad_character(text: str, error: pyyaml.reader.ReaderError, file: str) -> InputError:
    offset = error.position if isinstance(error.position, int) else 0
    # libyaml counts bytes where PyYAML counts characters.
    if _LOADER is not pyyaml.SafeLoader:
        offset = len(text.encode()[:offset].decode(errors="ignore"))
    return InputError(position_at(text, offset, file), "a control character, which YAML does not allow")


def _bad_syntax(text: str, error: pyyaml.MarkedYAMLError, file: str) -> InputError:
    mark = error.problem_mark or error.context_mark
    position = Position(file, 1, 1) if mark is None else Position(file, mark.line + 1, mark.column + 1)
    lines = text.split("\n")
    line = lines[position.line - 1] if position.line <= len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or line[position.column - 1 : position.column] == "\t":
        column = (indent if "\t" in indent else line).index("\t") + 1
        where = Position(file, position.line, column)
        return InputError(where, "a tab, where YAML takes only spaces", "indent with spaces")
    conflict = next((number for number, each in enumerate(lines, 1) if _CONFLICT.match(each)), None)
    if conflict is not None:
        hint = "decide what holds, and take the marks out (<<<<<<<, =======, >>>>>>>)"
        return InputError(Position(file, conflict, 1), "a conflict that a merge has left here", hint)
    context = f"{error.context}: " if error.context else ""
    return InputError(position, f"not YAML: {context}{error.problem}")
