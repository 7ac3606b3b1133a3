"""Variables of a host as templates see them: rendered when they are used, in jinja2's sandbox.

A value that is one whole expression, `{{ packages + ['jq'] }}`, keeps its type; any other template becomes text. A
number with a point keeps its spelling (`1.10`). What a template renders to is never a template again. Undefined names,
endless references and whatever else jinja2 objects to are faults at the value that holds the template.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from collections.abc import Mapping as AbstractMapping
from typing import Any

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.yaml import UNSAFE, Entry, Mapping, Node, Scalar, Sequence, fail, typed

_MARKS = ("{{", "{%", "{#")
_UNDEFINED_NAME = re.compile(r"'(\w+)' is undefined")
# What jinja2 offers under a name, and rendering.py with it. Here, so that to ask for a name does not import jinja2.
_OFFERED = frozenset({"range", "dict", "cycler", "joiner", "namespace"})


class SpelledFloat(float):
    """A number that prints as it was written: version 1.10 is not 1.1."""

    spelling: str

    def __new__(cls, value: float, spelling: str) -> SpelledFloat:
        number = super().__new__(cls, value)
        number.spelling = spelling
        return number

    def __str__(self) -> str:
        return self.spelling


def is_template(scalar: Scalar) -> bool:
    """Whether the text has anything to render."""
    return "{" in scalar.text and scalar.tag != UNSAFE and any(mark in scalar.text for mark in _MARKS)


class Variables(AbstractMapping[str, Any]):
    """The variables of one host: `nodes` as written, `magic` as they are. A look-up renders, once."""

    def __init__(
        self, nodes: AbstractMapping[str, Node], magic: AbstractMapping[str, Any], unread: Iterable[str] = ()
    ) -> None:
        self._nodes = nodes
        self._magic = magic
        self._unread = tuple(unread)
        self._done: dict[str, Any] = {}
        self._open: list[str] = []

    def __contains__(self, name: object) -> bool:
        return name in self._magic or name in self._nodes or name in _OFFERED

    def __getitem__(self, name: str) -> Any:
        if name in self._done:
            return self._done[name]
        if name in self._magic:
            return self._magic[name]
        if name not in self._nodes:
            return _offered(name)
        node = self._nodes[name]
        if name in self._open:
            fail(node.position, f"the variable '{name}' refers to itself: {' -> '.join([*self._open, name])}")
        self._open.append(name)
        try:
            self._done[name] = self.value(node)
        finally:
            self._open.pop()
        return self._done[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._nodes, **self._magic})

    def __len__(self) -> int:
        return len({**self._nodes, **self._magic})

    def node(self, name: str) -> Node | None:
        """The value of a variable as it is written; None where the inventory does not say it."""
        return self._nodes.get(name)

    def value(self, node: Node) -> Any:
        """The value of a node with every template in it rendered; InputError at the template that cannot be."""
        if isinstance(node, Scalar):
            return self._scalar(node)
        if isinstance(node, Sequence):
            return [self.value(item) for item in node.items]
        return {typed(entry.key): self.value(entry.value) for entry in node.entries.values()}

    def text(self, scalar: Scalar) -> str:
        """The text of a scalar, rendered where it is a template; a bare scalar is not typed."""
        if scalar.is_encrypted:
            fail(scalar.position, "this value is encrypted with ansible-vault, which is not read here")
        return str(self._render(scalar)) if is_template(scalar) else scalar.text

    def tree(self, node: Node) -> Node:
        """The node, or what a scalar that is one whole expression evaluates to, standing where it stood."""
        if isinstance(node, Scalar) and is_template(node):
            return as_node(self._render(node), node.position)
        return node

    def _scalar(self, scalar: Scalar) -> Any:
        if scalar.is_encrypted:
            fail(scalar.position, "this value is encrypted with ansible-vault, which is not read here")
        if is_template(scalar):
            return self._render(scalar)
        value = typed(scalar)
        return SpelledFloat(value, scalar.text) if type(value) is float else value

    def _render(self, scalar: Scalar) -> Any:
        from reconciler.inventory import rendering  # jinja2, which most inventories do without

        try:
            return rendering.evaluate(scalar.text, self)
        except InputError:
            raise
        except rendering.UndefinedError as error:
            raise self._undefined(scalar.position, error.message or "") from error
        except rendering.TemplateSyntaxError as error:
            raise InputError(scalar.position, f"not a template: {error.message}") from error
        except Exception as error:
            # A template is an expression of the user's: it may raise what it likes, and is always the one at fault.
            raise InputError(scalar.position, f"the template fails: {type(error).__name__}: {error}") from error

    def _undefined(self, position: Position, said: str) -> InputError:
        found = _UNDEFINED_NAME.search(said)
        hint = did_you_mean(found[1], self) if found else None
        if hint is None and self._unread:
            hint = f"{', '.join(self._unread)}: encrypted with ansible-vault, not read"
        return InputError(position, said or "an undefined value", hint)


def as_node(value: object, position: Position) -> Node:
    """A tree that says what a rendered value is, all of it standing at one position."""
    if isinstance(value, AbstractMapping):
        keys = {str(key): item for key, item in value.items()}
        return Mapping(
            {key: Entry(Scalar(key, position, bare=False), as_node(item, position)) for key, item in keys.items()},
            position,
        )
    if isinstance(value, list | tuple):
        return Sequence(tuple(as_node(item, position) for item in value), position)
    if value is None:
        return Scalar("", position)
    # UNSAFE: what a template rendered to is not a template.
    return Scalar(str(value), position, bare=False, tag=UNSAFE)


class View(AbstractMapping[str, Any]):
    """The variables of another host, as `hostvars['db01']` shows them: nothing but what can be looked up."""

    def __init__(self, variables: Variables) -> None:
        self._variables = variables

    def __getitem__(self, name: str) -> Any:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)


def _offered(name: str) -> Any:
    if name not in _OFFERED:
        raise KeyError(name)
    from reconciler.inventory import rendering

    return rendering.ENVIRONMENT.globals[name]
