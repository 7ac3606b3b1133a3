"""Random graphs of derivations, as a Nix expression and as the values that we make of the same.

What the expression says and what `build` computes come from one description (`Spec`), so that they can differ only
where Nix and we do.
"""

from __future__ import annotations

import base64
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core.nix import derivation, nar, store_path
from reconciler.core.nix.derivation import Derivation, ModuloCache, Output
from reconciler.core.nix.hashes import SIZES, Hash
from reconciler.core.nix.store_path import StorePath
from tests.core.nix.trees import write
from tests.differential.trees import random_tree

_OUTPUTS = (["out"], ["out"], ["out", "dev"], ["lib", "out"], ["bin", "doc", "a_b", "out"], ["x", "X", "x-y"])
_NAMES = ("hello-2.10", "x", "a+b", "n?v=1", "under_score-1.0-rc1", "Z", "0")
_KEYS = (
    "out", "dev", "A", "a b", "k\"ey", "ü", "\udcff", "$x", "a.b", "a\nb", "version", "PATH", "zz", "_", "0", "\\",
)  # fmt: skip
_TEXTS = (
    "", " ", "x", "\n", "\t", "\r", "\r\n", "\\", '"', "${HOME}", "$", "$$", "''", "\udcff\udcfe", "ä", "\x01\x7f",
    "a,b)]",
)  # fmt: skip


@dataclass(frozen=True)
class Ref:
    """A part of a text that refers to something of the graph: a source by its number, an output or the .drv of a
    derivation by its number (`kind`: source, output, deep, shallow)."""

    kind: str
    number: int
    output: str = "out"


Text = tuple["str | Ref", ...]


@dataclass
class Source:
    """A file made by the expression (`contents`), or a tree copied from beside it."""

    name: str
    contents: Text | nar.Node


@dataclass
class Spec:
    """One derivation. `fixed`: hash as it is written, its algorithm (None where the hash says it) and mode."""

    name: str
    system: str
    builder: Text
    arguments: list[Text]
    environment: dict[str, Text]
    outputs: list[str] | None
    fixed: tuple[str, Hash, str | None, str | None] | None = None


@dataclass
class Graph:
    """Sources and derivations; each refers only to earlier ones."""

    seed: str
    sources: list[Source] = field(default_factory=list)
    specs: list[Spec] = field(default_factory=list)


# --- making -----------------------------------------------------------------------------------------------------------


def random_graph(seed: str) -> Graph:
    chance = random.Random(seed)
    graph = Graph(seed)
    for number in range(chance.randrange(4)):
        graph.sources.append(_source(chance, graph, number))
    for _ in range(chance.randint(1, 8)):
        graph.specs.append(_fixed(chance, graph) if chance.random() < 0.35 else _plain(chance, graph))
    if chance.random() < 0.5:
        _add_twins(chance, graph)
    return graph


def _source(chance: random.Random, graph: Graph, number: int) -> Source:
    name = f"{chance.choice(('src', 'builder.sh', 'a+b'))}{number}"
    if chance.random() < 0.4:
        return Source(name, random_tree(chance))
    texts: list[str | Ref] = [chance.choice(_TEXTS)]
    if earlier := [n for n, source in enumerate(graph.sources) if isinstance(source.contents, tuple)]:
        texts.append(Ref("source", chance.choice(earlier)))
    return Source(name, tuple(texts))


def _text(chance: random.Random, graph: Graph) -> Text:
    parts: list[str | Ref] = []
    for _ in range(chance.randrange(4)):
        kind = chance.random()
        if kind < 0.25 and graph.sources:
            parts.append(Ref("source", chance.randrange(len(graph.sources))))
        elif kind < 0.65 and graph.specs:
            number = chance.randrange(len(graph.specs))
            parts.append(Ref("output", number, chance.choice(graph.specs[number].outputs or ["out"])))
        elif kind < 0.72 and graph.specs:
            parts.append(Ref(chance.choice(("deep", "shallow")), chance.randrange(len(graph.specs))))
        else:
            parts.append(chance.choice(_TEXTS))
    return tuple(parts)


def _plain(chance: random.Random, graph: Graph) -> Spec:
    return Spec(
        name=chance.choice(_NAMES),
        system=chance.choice(("x86_64-linux", "builtin", "odd system")),
        builder=chance.choice((("/bin/sh",), ("/", *_text(chance, graph)))),
        arguments=[_text(chance, graph) for _ in range(chance.randrange(4))],
        environment={key: _text(chance, graph) for key in chance.sample(_KEYS, chance.randrange(6))},
        outputs=chance.choice([None, *_OUTPUTS]),
    )


def _fixed(chance: random.Random, graph: Graph) -> Spec:
    spec = _plain(chance, graph)
    spec.outputs = chance.choice([None, ["out"]])
    algorithm = chance.choice(sorted(SIZES))
    digest = Hash(algorithm, chance.randbytes(SIZES[algorithm]))
    sri = chance.random() < 0.3
    spelled = (
        digest.sri if sri else chance.choice((digest.base16, digest.base32, base64.b64encode(digest.digest).decode()))
    )
    spec.fixed = (spelled, digest, None if sri else algorithm, chance.choice((None, "flat", "recursive")))
    return spec


def _add_twins(chance: random.Random, graph: Graph) -> None:
    """Two fetchers of the same, the same derivation over each, and one that takes different outputs of the two."""
    fetcher = _fixed(chance, graph)
    other = Spec(fetcher.name, fetcher.system, ("other",), [], {"mirror": ("2",)}, fetcher.outputs, fetcher.fixed)
    first = len(graph.specs)
    graph.specs += [fetcher, other]
    for number in (first, first + 1):
        graph.specs.append(Spec("twin", "s", ("/b",), [], {"src": (Ref("output", number),)}, ["out", "dev", "doc"]))
    wanted = [Ref("output", first + 2 + chance.randrange(2), name) for name in ("out", "dev", "doc", "out")]
    graph.specs.append(Spec("parent", "s", ("/b",), [(ref,) for ref in wanted], {}, None))


# --- as a Nix expression ----------------------------------------------------------------------------------------------

_ESCAPES = {'"': '\\"', "\\": "\\\\", "$": "\\$", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'


def _expression(text: Text, prefix: str) -> str:
    parts = []
    for part in text:
        if isinstance(part, str):
            parts.append(_quoted(part)[1:-1])
        elif part.kind == "source":
            parts.append(f"${{{prefix}s{part.number}}}")
        elif part.kind == "output":
            parts.append(f'${{{prefix}d{part.number}."{part.output}"}}')
        elif part.kind == "deep":
            parts.append(f"${{{prefix}d{part.number}.drvPath}}")
        else:
            parts.append(f"${{builtins.unsafeDiscardOutputDependency {prefix}d{part.number}.drvPath}}")
    return '"' + "".join(parts) + '"'


def write_expression(graphs: list[Graph], folder: Path) -> Path:
    """A file whose value is the list of all derivations; trees are put beside it."""
    lines, names = ["let"], []
    for index, graph in enumerate(graphs):
        prefix = f"g{index}"
        for number, source in enumerate(graph.sources):
            if isinstance(source.contents, tuple):
                made = f"builtins.toFile {_quoted(source.name)} {_expression(source.contents, prefix)}"
            else:
                place = folder / prefix / str(number)
                place.mkdir(parents=True)
                write(source.contents, place / source.name)
                made = f'builtins.path {{ path = ./. + "/{prefix}/{number}/{source.name}"; name = "{source.name}"; }}'
            lines.append(f"  {prefix}s{number} = {made};")
        for number, spec in enumerate(graph.specs):
            lines.append(f"  {prefix}d{number} = derivation {{ {_attributes(spec, prefix)} }};")
            names.append(f"{prefix}d{number}")
    path = folder / "graphs.nix"
    path.write_bytes(os.fsencode("\n".join([*lines, "in [", *names, "]\n"])))
    return path


def _attributes(spec: Spec, prefix: str) -> str:
    given = {
        "name": _quoted(spec.name),
        "system": _quoted(spec.system),
        "builder": _expression(spec.builder, prefix),
        "args": "[ " + " ".join(_expression(text, prefix) for text in spec.arguments) + " ]",
        **{key: _expression(text, prefix) for key, text in spec.environment.items()},
    }
    if spec.outputs is not None:
        given["outputs"] = "[ " + " ".join(map(_quoted, spec.outputs)) + " ]"
    given.update({key: _quoted(text) for key, text in _fixed_variables(spec).items()})
    return " ".join(f"{_quoted(key)} = {value};" for key, value in given.items())


def _fixed_variables(spec: Spec) -> dict[str, str]:
    if spec.fixed is None:
        return {}
    spelled, _, algorithm, mode = spec.fixed
    given = {"outputHash": spelled, "outputHashAlgo": algorithm, "outputHashMode": mode}
    return {key: text for key, text in given.items() if text is not None}


# --- as we compute it -------------------------------------------------------------------------------------------------


@dataclass
class Built:
    """What a graph comes to: by path, the text of each .drv file, and the derivations in the graph's order."""

    derivations: dict[StorePath, Derivation] = field(default_factory=dict)
    order: list[StorePath] = field(default_factory=list)
    sources: list[StorePath] = field(default_factory=list)


def build(graph: Graph) -> Built:
    """All the derivations of a graph, with their outputs computed."""
    built, cache = Built(), ModuloCache()
    for source in graph.sources:
        built.sources.append(_source_path(source, built))
    for spec in graph.specs:
        drv = derivation.with_outputs(_described(spec, graph, built), spec.name, built.derivations.__getitem__, cache)
        path = drv.path(spec.name)
        built.derivations[path] = drv
        built.order.append(path)
    return built


def _source_path(source: Source, built: Built) -> StorePath:
    if not isinstance(source.contents, tuple):
        return store_path.source_path(source.name, Hash.sha256(nar.encode(source.contents)))
    text = "".join(part if isinstance(part, str) else str(built.sources[part.number]) for part in source.contents)
    references = {built.sources[part.number] for part in source.contents if isinstance(part, Ref)}
    return store_path.text_path(source.name, os.fsencode(text), references)


class _Context:
    """The inputs that the texts of one derivation bring in."""

    def __init__(self, graph: Graph, built: Built) -> None:
        self._graph = graph
        self._built = built
        self.sources: set[StorePath] = set()
        self.inputs: dict[StorePath, set[str]] = {}

    def text(self, text: Text) -> str:
        return "".join(part if isinstance(part, str) else self._reference(part) for part in text)

    def _reference(self, ref: Ref) -> str:
        if ref.kind == "source":
            path = self._built.sources[ref.number]
            self.sources.add(path)
            return str(path)
        drv = self._built.order[ref.number]
        if ref.kind == "output":
            self.inputs.setdefault(drv, set()).add(ref.output)
            return str(self._built.derivations[drv].output_paths()[ref.output])
        if ref.kind == "shallow":
            self.sources.add(drv)
        else:
            self._deep(drv)
        return str(drv)

    def _deep(self, drv: StorePath) -> None:
        """All that the .drv file leads to: derivations with all their outputs, and every file, itself included."""
        todo, seen = [drv], set()
        while todo:
            path = todo.pop()
            if path in seen:
                continue
            seen.add(path)
            self.sources.add(path)
            if path.is_derivation:
                found = self._built.derivations[path]
                self.inputs.setdefault(path, set()).update(found.outputs)
                todo += found.references
            else:
                todo += self._file_references(path)

    def _file_references(self, path: StorePath) -> list[StorePath]:
        contents = self._graph.sources[self._built.sources.index(path)].contents
        parts = contents if isinstance(contents, tuple) else ()
        return [self._built.sources[part.number] for part in parts if isinstance(part, Ref)]


def _described(spec: Spec, graph: Graph, built: Built) -> Derivation:
    context = _Context(graph, built)
    environment = {
        **{key: context.text(text) for key, text in spec.environment.items()},
        **_fixed_variables(spec),
        "name": spec.name,
        "system": spec.system,
        "builder": context.text(spec.builder),
    }
    if spec.outputs is not None:
        environment["outputs"] = " ".join(spec.outputs)
    arguments = tuple(context.text(text) for text in spec.arguments)
    outputs = {name: Output(None) for name in spec.outputs or ["out"]}
    if spec.fixed is not None:
        _, digest, _, mode = spec.fixed
        recursive = "r:" if mode == "recursive" else ""
        outputs = {"out": Output(None, f"{recursive}{digest.algorithm}", digest.base16)}
    return Derivation(
        outputs=outputs,
        input_derivations={path: tuple(sorted(names)) for path, names in context.inputs.items()},
        input_sources=tuple(sorted(context.sources)),
        system=spec.system,
        builder=environment["builder"],
        arguments=arguments,
        environment=environment,
    )
