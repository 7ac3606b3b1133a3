"""One version of a recipe as a Nix derivation: pure, the same wherever and by whomever it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from reconciler.core.build.toolchain import SHELL_VARIABLE, VARIABLE, host_toolchain
from reconciler.core.nix.derivation import Derivation, ModuloCache, Output, with_outputs
from reconciler.core.nix.store_path import StorePath
from reconciler.packages import stage
from reconciler.packages.model import Package, Source
from reconciler.packages.sources import DebianSource, PypiSource, TextSource, TreeSource
from reconciler.packages.specs import DebianSpec, GitSpec, PypiSpec, SourceSpec, UrlSpec
from reconciler.packages.stage import variable_name

if TYPE_CHECKING:
    from reconciler.packages.toolchain import Toolchain

Lookup = Callable[[StorePath], Derivation]
_SHELL = "/bin/sh"

STAGE = TextSource.of(stage.NAME, stage.SCRIPT.encode())


@dataclass(frozen=True)
class Named:
    """A derivation with its outputs computed, and its .drv path."""

    path: StorePath
    derivation: Derivation

    @property
    def output(self) -> StorePath:
        return self.derivation.output_paths()["out"]


def fetchurl(spec: UrlSpec) -> Named:
    """What `import <nix/fetchurl.nix> { url, name, sha256 }` is."""
    environment = {
        "builder": "builtin:fetchurl",
        "executable": "",
        "impureEnvVars": "http_proxy https_proxy ftp_proxy all_proxy no_proxy",
        "name": spec.file,
        "out": "",
        "outputHash": spec.sha256.base16,
        "outputHashAlgo": "sha256",
        "outputHashMode": "flat",
        "preferLocalBuild": "1",
        "system": "builtin",
        "unpack": "",
        "url": spec.urls[0],
        "urls": " ".join(spec.urls),
    }
    output = Output(None, "sha256", spec.sha256.base16)
    return _named(Derivation({"out": output}, {}, (), "builtin", "builtin:fetchurl", (), environment), spec.file, _none)


@dataclass(frozen=True)
class Made:
    """What a source is to the derivation that uses it: a path, and what makes it valid (one of the two)."""

    path: StorePath
    source: Source | None = None
    fetched: Named | None = None


def make_source(spec: SourceSpec, git: Callable[[GitSpec], Source]) -> Made:
    """The store path of a source, hashed from disk where it lies there; `git` looks up that of a repository. UsageError
    when it cannot be read."""
    if isinstance(spec, UrlSpec):
        fetched = fetchurl(spec)
        return Made(fetched.output, fetched=fetched)
    source: Source
    if isinstance(spec, DebianSpec):
        source = DebianSource.of(spec)
    elif isinstance(spec, PypiSpec):
        source = PypiSource.of(spec)
    elif isinstance(spec, GitSpec):
        source = git(spec)
    else:
        source = TreeSource.of(spec)
    return Made(source.path, source=source)


@dataclass(frozen=True)
class Parts:
    """One version of a package, with everything that it is made from."""

    name: str
    version: str
    build: str
    architecture: str
    sources: tuple[Made, ...]
    inputs: tuple[Package, ...]
    outputs: tuple[str, ...] = ("out",)
    check: str = ""
    toolchain: Toolchain | None = None  # the host's, where there is none
    patches: tuple[tuple[int, Made], ...] = ()  # each with what it strips off names
    features: tuple[str, ...] = ()  # that a machine which builds it must have


def derive(parts: Parts, lookup: Lookup, cache: ModuloCache) -> Named:
    """The derivation of one version. `lookup` gives the derivations of the inputs."""
    name, sources, inputs = f"{parts.name}-{parts.version}", parts.sources, parts.inputs
    environment = {
        **{variable_name(package.name): str(package.output) for package in inputs},
        "build": parts.build,
        "builder": _SHELL,
        "inputs": " ".join(str(path) for package in inputs for path in package.everything),
        "name": name,
        **dict.fromkeys(parts.outputs, ""),
        "pname": parts.name,
        "srcs": " ".join(str(source.path) for source in sources),
        "system": parts.architecture,
        **_toolchain(parts.toolchain),
        "version": parts.version,
    }
    if sources:
        environment["src"] = str(sources[0].path)
    if parts.outputs != ("out",):
        environment["outputs"] = " ".join(parts.outputs)
    if parts.patches:
        environment["patches"] = " ".join(f"{strip} {patch.path}" for strip, patch in parts.patches)
    if parts.features:
        environment["requiredSystemFeatures"] = " ".join(parts.features)
    if parts.check:
        environment["check"] = parts.check
    needed: dict[StorePath, tuple[str, ...]] = {made.fetched.path: ("out",) for made in sources if made.fetched}
    needed |= {
        package.derivation: tuple(sorted(package.outputs)) for package in inputs if package.derivation is not None
    }
    given = [path for package in inputs if package.derivation is None for path in package.paths]
    beside = [*(made.path for made in sources if made.source), *(patch.path for _, patch in parts.patches)]
    blank = Derivation(
        outputs={output: Output(None) for output in parts.outputs},
        input_derivations=needed,
        input_sources=(STAGE.path, *_trees(parts.toolchain), *given, *beside),
        system=parts.architecture,
        builder=_SHELL,
        arguments=("-e", str(STAGE.path)),
        environment=environment,
    )
    return _named(blank, name, lookup, cache)


def _toolchain(chosen: Toolchain | None) -> dict[str, str]:
    """The variables that name a toolchain."""
    if chosen is None:
        return {VARIABLE: host_toolchain()}
    return {VARIABLE: str(chosen.tools.path), SHELL_VARIABLE: str(chosen.shell.path)}


def _trees(chosen: Toolchain | None) -> tuple[StorePath, ...]:
    return () if chosen is None else tuple(tree.path for tree in chosen.trees)


def _named(blank: Derivation, name: str, lookup: Lookup, cache: ModuloCache | None = None) -> Named:
    whole = with_outputs(blank, name, lookup, cache)
    return Named(whole.path(name), whole)


def _none(path: StorePath) -> Derivation:
    raise KeyError(path)
