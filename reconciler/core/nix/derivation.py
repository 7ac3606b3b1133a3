"""Derivations: their text form (ATerm), and the hashes that their output paths are made of.

    Derive([outputs],[inputDrvs],[inputSrcs],"system","builder",["argument",…],[("key","value"),…])
    output    ("name","path","algorithm","hash")       the last two empty unless the output is fixed
    inputDrv  ("/nix/store/….drv",["output",…])

No white space, no newline at the end. Outputs are sorted by name, inputDrvs by path, their outputs, inputSrcs and the
environment's keys bytewise. In strings only `\\"`, `\\\\`, `\\n`, `\\r` and `\\t` are escaped; every other byte stands
for itself (it is held in `str` by surrogateescape). Exactly what Nix writes is read: any other spelling of the same
derivation is refused, and so is `DrvWithVersion`, which is experimental.

The hash modulo of a derivation (masked where its own outputs are being computed: their paths and the environment's
values of their names are empty) is the sha256 of its text with each inputDrv's path replaced by that one's hash modulo,
unmasked, in base-16; inputs of equal hash are merged. Of a fixed output it is the sha256 of
`fixed:out:[r:]<algorithm>:<base-16>:<path>`, so that how something was fetched never changes what is built from it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Callable

from reconciler.core.errors import FormatError
from reconciler.core.nix import store_path
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import field, replace, value


@value
class Output:
    """One output. `path` is None until it is computed. `hash_algorithm` (`sha256`, `r:sha256`, …) and `hash` (base-16)
    are empty unless the output is fixed."""

    path: StorePath | None
    hash_algorithm: str = ""
    hash: str = ""

    @property
    def recursive(self) -> bool:
        """Whether the hash of a fixed output is that of its NAR."""
        return self.hash_algorithm.startswith("r:")

    @property
    def content_hash(self) -> Hash:
        """The hash that a fixed output must have; FormatError when it is not fixed."""
        algorithm = self.hash_algorithm[2:] if self.recursive else self.hash_algorithm
        return Hash.parse(self.hash, algorithm)


_TEXT = "_text"  # where a derivation keeps its text: no field of it


@value
class Derivation:
    """How to build some outputs. The order of the mappings and of `input_sources` has no meaning."""

    outputs: Mapping[str, Output]
    input_derivations: Mapping[StorePath, tuple[str, ...]]
    input_sources: tuple[StorePath, ...]
    system: str
    builder: str
    arguments: tuple[str, ...]
    environment: Mapping[str, str]

    @classmethod
    def parse(cls, data: bytes) -> Derivation:
        """The derivation with this text; FormatError unless it is exactly what Nix would write."""
        return _parse(data)

    def serialise(self) -> bytes:
        """The text, made once: its path, its file and whoever checks that are made of it."""
        text: bytes | None = self.__dict__.get(_TEXT)
        if text is None:
            inputs = [(str(path), outputs) for path, outputs in self.input_derivations.items()]
            text = self.__dict__[_TEXT] = _serialise(self, inputs, masked=False)
        return text

    def path(self, name: str) -> StorePath:
        """Where the .drv file of this derivation lies when it is called `name` (without `.drv`)."""
        return store_path.text_path(f"{name}.drv", self.serialise(), self.references)

    @property
    def references(self) -> tuple[StorePath, ...]:
        """What the .drv file refers to: sources and input derivations, not the outputs."""
        return tuple(sorted({*self.input_sources, *self.input_derivations}, key=str))

    @property
    def fixed_output(self) -> Output | None:
        """The output whose hash is known beforehand, if this derivation has one."""
        output = self.outputs.get("out")
        return output if output is not None and len(self.outputs) == 1 and output.hash else None

    def output_paths(self) -> dict[str, StorePath]:
        """Each output's path; FormatError when one is not computed yet."""
        paths = {name: output.path for name, output in self.outputs.items() if output.path is not None}
        if len(paths) != len(self.outputs):
            raise FormatError("the output paths of this derivation are not known")
        return paths


Lookup = Callable[[StorePath], Derivation]


# --- output paths -----------------------------------------------------------------------------------------------------


@value(frozen=False)
class ModuloCache:
    """Hashes modulo of input derivations, by path of the .drv: worth keeping over many derivations of one graph."""

    hashes: dict[StorePath, str] = field(default_factory=dict)


def with_outputs(drv: Derivation, name: str, lookup: Lookup, cache: ModuloCache | None = None) -> Derivation:
    """The same derivation with its outputs' paths computed, also as the environment's values of the same names.

    `name` is the derivation's, without `.drv`. `lookup` gives the input derivations, whose own outputs are computed.
    """
    fixed = drv.fixed_output
    if fixed is not None:
        paths = {"out": store_path.fixed_path(name, fixed.content_hash, fixed.recursive)}
    else:
        _check_input_addressed(drv)
        masked = replace(drv, environment={**drv.environment, **dict.fromkeys(drv.outputs, "")})
        modulo = _hash_text(masked, _input_hashes(masked, lookup, cache or ModuloCache()), masked=True)
        paths = {output: store_path.output_path(output, modulo, name) for output in drv.outputs}
    return replace(
        drv,
        outputs={key: replace(drv.outputs[key], path=path) for key, path in paths.items()},
        environment={**drv.environment, **{key: str(path) for key, path in paths.items()}},
    )


def hash_modulo(path: StorePath, lookup: Lookup, cache: ModuloCache | None = None) -> str:
    """The unmasked hash modulo of the derivation at `path`, base-16. Inputs are walked without recursion."""
    cache = cache or ModuloCache()
    todo = [path]
    entered: set[StorePath] = set()  # those whose inputs are being hashed
    while todo:
        current = todo[-1]
        if current in cache.hashes:
            todo.pop()
            continue
        drv = lookup(current)
        if drv.fixed_output is None:
            missing = [needed for needed in drv.input_derivations if needed not in cache.hashes]
            if missing:
                entered.add(current)
                if not entered.isdisjoint(missing):
                    raise FormatError(f"{current}: its derivations depend on each other in a circle")
                todo.extend(missing)
                continue
        cache.hashes[current] = _own_modulo(drv, cache)
        todo.pop()
    return cache.hashes[path]


def _own_modulo(drv: Derivation, cache: ModuloCache) -> str:
    fixed = drv.fixed_output
    if fixed is not None:
        method = "r:" if fixed.recursive else ""
        text = f"fixed:out:{method}{fixed.content_hash.hex_prefixed}:{drv.output_paths()['out']}"
        return hashlib.sha256(text.encode()).hexdigest()
    _check_input_addressed(drv)
    hashes = {path: cache.hashes[path] for path in drv.input_derivations}
    return _hash_text(drv, hashes, masked=False)


def _input_hashes(drv: Derivation, lookup: Lookup, cache: ModuloCache) -> dict[StorePath, str]:
    return {path: hash_modulo(path, lookup, cache) for path in drv.input_derivations}


def _hash_text(drv: Derivation, hashes: Mapping[StorePath, str], masked: bool) -> str:
    merged: dict[str, set[str]] = {}
    for path, outputs in drv.input_derivations.items():
        merged.setdefault(hashes[path], set()).update(outputs)
    return hashlib.sha256(_serialise(drv, merged.items(), masked)).hexdigest()


def _check_input_addressed(drv: Derivation) -> None:
    for name, output in drv.outputs.items():
        if output.hash_algorithm or output.hash:
            raise FormatError(
                f"the output '{name}' is content-addressed in a way that only experimental Nix knows",
                hint="a fixed output is the only one of its derivation, is called 'out' and has a hash",
            )


# --- writing ----------------------------------------------------------------------------------------------------------

_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = re.compile(r'[\\"\n\r\t]')


def _quote(text: str) -> str:
    if _ESCAPED.search(text) is None:
        return f'"{text}"'
    return '"' + _ESCAPED.sub(lambda match: _ESCAPES[match.group()], text) + '"'


def _strings(texts: Iterable[str]) -> str:
    return f"[{','.join([_quote(text) for text in texts])}]"


def _paths(paths: Iterable[StorePath]) -> str:
    """Sorted as they are ordered, and without a look for what to escape: there is nothing in a store path."""
    return "[" + ",".join([f'"{path}"' for path in sorted({str(path) for path in paths})]) + "]"


def _bytewise(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _output_text(name: str, output: Output, masked: bool) -> str:
    path = "" if masked or output.path is None else str(output.path)
    return f'({_quote(name)},"{path}",{_quote(output.hash_algorithm)},{_quote(output.hash)})'


def _serialise(drv: Derivation, inputs: Iterable[tuple[str, Iterable[str]]], masked: bool) -> bytes:
    """The text, with each input derivation named by the first of its pair: a store path, or a hash."""
    hidden = drv.outputs.keys() if masked else ()
    outputs = [_output_text(name, drv.outputs[name], masked) for name in sorted(drv.outputs, key=_bytewise)]
    input_derivations = [
        f'("{key}",{_strings(sorted(set(names), key=_bytewise))})' for key, names in sorted(inputs, key=_first)
    ]
    environment = [
        f"({_quote(key)},{_quote('' if key in hidden else drv.environment[key])})"
        for key in sorted(drv.environment, key=_bytewise)
    ]
    text = (
        f"Derive([{','.join(outputs)}],[{','.join(input_derivations)}],{_paths(drv.input_sources)},"
        f"{_quote(drv.system)},{_quote(drv.builder)},{_strings(drv.arguments)},[{','.join(environment)}])"
    )
    return text.encode(errors="surrogateescape")


def _first(pair: tuple[str, Iterable[str]]) -> str:
    return pair[0]


# --- reading ----------------------------------------------------------------------------------------------------------

_STRING = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_UNESCAPED = re.compile(r"\\(.)", re.DOTALL)
_UNESCAPES = {"n": "\n", "r": "\r", "t": "\t"}


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def fail(self, what: str) -> FormatError:
        return FormatError(f"not a derivation: {what} expected at character {self._position}")

    def expect(self, token: str) -> None:
        if not self.accept(token):
            raise self.fail(f"'{token}'")

    def accept(self, token: str) -> bool:
        if not self._text.startswith(token, self._position):
            return False
        self._position += len(token)
        return True

    def string(self) -> str:
        match = _STRING.match(self._text, self._position)
        if match is None:
            raise self.fail("a string")
        self._position = match.end()
        text = match.group(1)
        if "\\" not in text:
            return text
        return _UNESCAPED.sub(lambda escape: _UNESCAPES.get(escape.group(1), escape.group(1)), text)

    def strings(self) -> tuple[str, ...]:
        return tuple(self.string() for _ in self.items())

    def items(self) -> Iterable[None]:
        """Once for each item of a list, which the caller reads."""
        self.expect("[")
        if self.accept("]"):
            return
        while True:
            yield None
            if self.accept("]"):
                return
            self.expect(",")

    def fields(self, count: int) -> tuple[str, ...]:
        """A tuple of strings."""
        self.expect("(")
        found = [self.string()]
        for _ in range(count - 1):
            self.expect(",")
            found.append(self.string())
        self.expect(")")
        return tuple(found)

    def pair(self) -> tuple[str, str]:
        key, value = self.fields(2)
        return key, value

    def input_derivation(self) -> tuple[StorePath, tuple[str, ...]]:
        self.expect("(")
        path = StorePath.parse(self.string())
        self.expect(",")
        outputs = self.strings()
        self.expect(")")
        return path, outputs

    def end(self) -> None:
        if self._position != len(self._text):
            raise self.fail("the end")


def _parse(data: bytes) -> Derivation:
    if data.startswith(b"DrvWithVersion("):
        raise FormatError("the derivation is in a form that only experimental Nix knows (DrvWithVersion)")
    reader = _Reader(data.decode(errors="surrogateescape"))
    reader.expect("Derive(")
    outputs = {name: _output(*rest) for name, *rest in (reader.fields(4) for _ in reader.items())}
    reader.expect(",")
    input_derivations = dict(reader.input_derivation() for _ in reader.items())
    reader.expect(",")
    input_sources = tuple(map(StorePath.parse, reader.strings()))
    reader.expect(",")
    system = reader.string()
    reader.expect(",")
    builder = reader.string()
    reader.expect(",")
    arguments = reader.strings()
    reader.expect(",")
    environment = dict(reader.pair() for _ in reader.items())
    reader.expect(")")
    reader.end()
    drv = Derivation(outputs, input_derivations, input_sources, system, builder, arguments, environment)
    if drv.serialise() != data:  # made from the values, so that it is known from here on
        raise FormatError("the derivation is not written as Nix would: out of order, doubled, or escaped for nothing")
    return drv


def _output(path: str, hash_algorithm: str, hash_: str) -> Output:
    return Output(StorePath.parse(path) if path else None, hash_algorithm, hash_)
