"""JSON as the same tree that YAML becomes, so that what an Ansible plugin printed has positions too.

RFC 8259, with the limits of reconciler.inventory.yaml, and each key of an object once.
"""

from __future__ import annotations

import bisect
import json
import re

from reconciler.inventory.desired import Position
from reconciler.inventory.yaml import MAX_DEPTH, Entry, Mapping, Node, Scalar, Sequence, decode, fail

_TOKEN = re.compile(
    r"""[ \t\r\n]*(?:
        (?P<sign>[\[\]{}:,])
      | (?P<text>"(?:[^"\\\x00-\x1f]|\\.)*")
      | (?P<number>-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<word>true|false|null)
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_TAGS = {"true": "bool", "false": "bool", "null": "null"}
_STANDARD = "tag:yaml.org,2002:"


def parse_json(data: str | bytes, file: str) -> Node:
    """The tree of a JSON document; InputError with line and column for anything else."""
    parser = _Parser(decode(data, file), file)
    node = parser.value(0)
    parser.expect_end()
    return node


class _Parser:
    def __init__(self, text: str, file: str) -> None:
        self._text = text
        self._file = file
        self._offset = 0
        self._lines = [0, *(match.end() for match in re.finditer("\n", text))]

    def value(self, depth: int) -> Node:
        kind, lexeme, position = self._next()
        if kind == "text":
            return Scalar(self._string(lexeme, position), position, bare=False)
        if kind == "number":
            tag = "int" if lexeme.lstrip("-").isdigit() else "float"
            return Scalar(lexeme, position, bare=False, tag=_STANDARD + tag)
        if kind == "word":
            return Scalar(lexeme, position, bare=False, tag=_STANDARD + _TAGS[lexeme])
        if depth >= MAX_DEPTH:
            fail(position, f"more than {MAX_DEPTH} levels deep")
        if lexeme == "[":
            return self._list(position, depth + 1)
        if lexeme != "{":
            fail(position, "not JSON: a value is wanted here")
        return self._object(position, depth + 1)

    def expect_end(self) -> None:
        kind, _, position = self._next()
        if kind != "end":
            fail(position, "not JSON: something follows the document")

    def _next(self) -> tuple[str, str, Position]:
        match = _TOKEN.match(self._text, self._offset)
        if match is None or match.lastgroup is None:
            fail(self._at(self._skip_blank()), "not JSON: no value, name or sign begins like this")
        self._offset = match.end()
        return match.lastgroup, match[match.lastgroup], self._at(match.start(match.lastgroup))

    def _skip_blank(self) -> int:
        rest = self._text[self._offset :]
        return self._offset + len(rest) - len(rest.lstrip(" \t\r\n"))

    def _at(self, offset: int) -> Position:
        line = bisect.bisect_right(self._lines, offset)
        return Position(self._file, line, offset - self._lines[line - 1] + 1)

    def _string(self, lexeme: str, position: Position) -> str:
        if "\\" not in lexeme:
            return lexeme[1:-1]
        try:
            return str(json.loads(lexeme))
        except ValueError:
            fail(position, "not JSON: a bad escape in this text")

    def _closes(self, sign: str) -> bool:
        before = self._offset
        _, lexeme, _ = self._next()
        if lexeme == sign:
            return True
        self._offset = before
        return False

    def _comma_or(self, sign: str) -> bool:
        kind, lexeme, position = self._next()
        if kind != "sign" or lexeme not in {",", sign}:
            fail(position, f"not JSON: ',' or '{sign}' is wanted here")
        return lexeme == ","

    def _list(self, position: Position, depth: int) -> Sequence:
        items: list[Node] = []
        more = not self._closes("]")
        while more:
            items.append(self.value(depth))
            more = self._comma_or("]")
        return Sequence(tuple(items), position)

    def _object(self, position: Position, depth: int) -> Mapping:
        entries: dict[str, Entry] = {}
        more = not self._closes("}")
        while more:
            kind, lexeme, where = self._next()
            if kind != "text":
                fail(where, "not JSON: a name in double quotes is wanted here")
            name = self._string(lexeme, where)
            if name in entries:
                fail(
                    where,
                    f"the key '{name}' stands here a second time; first at line {entries[name].key.position.line}",
                )
            sign, colon, after = self._next()
            if sign != "sign" or colon != ":":
                fail(after, "not JSON: ':' is wanted here")
            entries[name] = Entry(Scalar(name, where, bare=False), self.value(depth))
            more = self._comma_or("}")
        return Mapping(entries, position)
