"""Recipes: one file packages/NAME.yml says how one package is made, in one version or several.

    version: 2.10                       or  versions:         version to the keys that it says otherwise
    description, home                         1.0:
    toolchain: debian-12                      2.0: {source: {path: greet-2}, inputs: [words@2]}
    source: SOURCE                      or  sources: [SOURCE, ...]
    patches: [PATCH, ...]               applied to the first source, in their order, before the build
    inputs: [words, shell-kit@1]        other packages, by reference
    build: |                            a shell script; or, instead of one,
    kind: autotools                     script, files or python-app (kinds.py); autotools where neither is said
    runtime: [jq]                       kind script: what its PATH begins with
    install: {bin/tool: tool}           kind files: what goes where
    outputs: [out, man]                 several outputs; what belongs into bin, dev, man and doc is moved there
    check: |                            a script that runs after the build, with the package on PATH
    features: [big-parallel]            what a machine that builds it must have: Nix's requiredSystemFeatures

    SOURCE    {path: FILE-OR-DIRECTORY}                            relative to the recipe
              {url: URL, sha256: HASH, file: NAME?}                fetched by the builder; `urls: [...]`: mirrors
              {debsrc: PACKAGE, sha256: HASH, version: V?, file: NAME?}
                                        the orig tarball of a Debian source package, fetched by the controller's apt;
                                        `version` is upstream's as Debian spells it, `file` PACKAGE_VERSION.orig.tar.gz
              {pypi: PROJECT, sha256: HASH, version: V?, file: NAME?}
                                        a wheel, fetched by the controller's pip; `file`: its name, where that is not
                                        PROJECT-VERSION-py3-none-any.whl
              {git: URL, ref: BRANCH-OR-TAG?}, or commit: COMMIT   a commit's tree, pinned in the lock

    PATCH     FILE, relative to the recipe; or {path: FILE, strip: N}: N leading directories of the names in it are
              taken off, 1 where it does not say

Every value is text, as it is written. All faults of a recipe are told at once, each with file, line and column.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.core.errors import Faults, FormatError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import parse_drv_name
from reconciler.inventory import yaml
from reconciler.inventory.builders import FEATURE
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.yaml import Mapping
from reconciler.packages import kinds
from reconciler.packages.specs import (
    HOST,
    NAME,
    TOOLCHAIN,
    VERSION,
    DebianSpec,
    GitSpec,
    Input,
    Patch,
    PathSpec,
    PypiSpec,
    Recipe,
    SourceSpec,
    UrlSpec,
    Variant,
    is_wheel,
)
from reconciler.packages.stage import variable_name
from reconciler.packages.written import WrittenPatch, WrittenRecipe, WrittenSource, WrittenVersion, find, read

_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_+.\-?=]*")
_OUTPUT = re.compile(r"[a-z][a-z0-9_]*")
_GIT = re.compile(r"(?:https?|ssh|git|file)://[^\s'\"]+|[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+:[^\s'\"]+")
_REF = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PYPI = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_TOOLCHAINS = "write `toolchain: debian-12`, or `toolchain: host`"
_STRIP = re.compile(r"[0-9]")
_FEATURE_HINT = "letters, digits and _ . - : kvm, big-parallel, benchmark, nixos-test, …"
_WHEEL_HINT = "`install: {bin/NAME: FILE IN THE WHEEL}` says what is taken out of it; `kind: python-app` installs all"
_DEBIAN = re.compile(r"[a-z0-9][a-z0-9+.\-]+")

# Variables that a build script relies on, and that an input of that name would hide.
RESERVED = frozenset(
    {"name", "pname", "version", "system", "builder", "src", "srcs", "inputs", "build", "toolchain", "out"}
    | {"PATH", "HOME", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD", "TERM", "NIX_STORE", "NIX_BUILD_TOP"}
    | {"NIX_BUILD_CORES", "NIX_LOG_FD", "NIX_OUTPUT_CHECKED", "SHELL", "CONFIG_SHELL", "SOURCE_DATE_EPOCH", "TZ"}
    | {"outputs", "check", "patches", "directory", "own", "toolchainShell", "requiredSystemFeatures"}
    | {"CPPFLAGS", "LDFLAGS", "PKG_CONFIG_PATH", "CMAKE_PREFIX_PATH", "LC_ALL", "IFS"}
)


def load(path: Path, shown: str) -> Recipe:
    """The recipe in the file `path`, which messages call `shown`; Faults with everything that is wrong in it."""
    node = yaml.load(path, shown)
    start = Position(shown, 1, 1)
    if not isinstance(node, Mapping):
        raise InputError(node.position, "a recipe is a mapping", "it begins with `version: ...`")
    given, faults = read(node)
    if given is None:
        raise _in_order(faults)
    reader = _Reader(path, start, node)
    recipe = reader.recipe(given)
    faults += reader.faults
    if faults:
        raise _in_order(faults)
    return recipe


def _in_order(faults: list[InputError]) -> Faults:
    in_order: list[InputError] = sorted(faults, key=lambda fault: fault.position)
    return Faults(in_order)


class _Reader:
    """Turns what was written into values, collecting faults."""

    def __init__(self, path: Path, start: Position, root: Mapping) -> None:
        self._path = path
        self._start = start
        self._root = root
        self.faults: list[InputError] = []

    def recipe(self, given: WrittenRecipe) -> Recipe:
        name = self._path.stem
        if not NAME.fullmatch(name):
            self._fault((), f"'{name}' cannot name a package", "letters, digits and _ + . - are allowed")
        bodies = {given.version: None} if given.version is not None else given.versions or {}
        variants = {
            version: self._variant(version, given, body) for version, body in bodies.items() if version is not None
        }
        return Recipe(name, self._start, given.description, given.home, variants)

    def _fault(self, location: tuple[int | str, ...], message: str, hint: str | None = None) -> None:
        self.faults.append(InputError(find(self._root, location)[1], message, hint))

    def _variant(self, version: str, given: WrittenRecipe, body: WrittenVersion | None) -> Variant:
        name = self._path.stem
        location = ("versions", version) if given.versions else ("version",)
        _, position = find(self._root, location)
        if not VERSION.fullmatch(version):
            self._fault(location, f"'{version}' cannot be a version", "a version begins with a digit and has no blanks")
        elif parse_drv_name(f"{name}-{version}") != (name, version):
            split = parse_drv_name(f"{name}-{version}")[0]
            self._fault(location, f"Nix would read the name '{name}' as '{split}'", "no digit after a dash in a name")
        if (body and body.toolchain) is None and given.toolchain is None:
            self._fault(location, "'toolchain' is missing", _TOOLCHAINS)
        own = body is not None and (body.source is not None or body.sources is not None)
        merged = _Merged(body, given, location)
        if (chosen := merged.get("toolchain")) is not None and not TOOLCHAIN.fullmatch(chosen):
            self._fault(merged.place("toolchain"), f"'{chosen}' cannot name a toolchain", _TOOLCHAINS)
        sources = self._sources(body if own and body else given, location if own else (), version)
        return Variant(
            version=version,
            sources=sources,
            inputs=self._inputs(merged, "inputs") + self._inputs(merged, "runtime"),
            build=self._build(merged, wheels=any(is_wheel(source) for source in sources)),
            position=position,
            outputs=self._outputs(merged),
            check=merged.get("check") or "",
            toolchain=merged.get("toolchain") or HOST,
            toolchain_position=find(self._root, merged.place("toolchain"))[1],
            patches=self._patches(merged),
            features=self._features(merged),
        )

    def _build(self, merged: _Merged, wheels: bool) -> str:
        kind, build = merged.get("kind"), merged.get("build")
        for key in ("runtime", "install"):
            if merged.get(key) is not None and key not in kinds.KEYS.get(kind or "", ()):
                wanted = next(name for name, keys in kinds.KEYS.items() if key in keys)
                self._fault(merged.place(key), f"'{key}' means nothing here", f"it belongs to `kind: {wanted}`")
        if build is not None:
            if kind is not None:
                self._fault(merged.place("build"), "'build' and 'kind' cannot stand side by side")
            return str(build)
        if kind == kinds.SCRIPT:
            names = (_bare(reference) for reference in merged.get("runtime") or [])
            return kinds.script([variable_name(name) for name in names])
        if kind == kinds.FILES:
            install = merged.get("install") or {}
            for path in (*install, *install.values()):
                if wrong := kinds.wrong_place(path):
                    self._fault(merged.place("install"), wrong)
            if wheels and not install:
                self._fault(merged.place("kind"), "a wheel needs `install`", _WHEEL_HINT)
            return kinds.files(install, wheels)
        return kinds.PYTHON_BUILD if kind == kinds.PYTHON else ""

    def _outputs(self, merged: _Merged) -> tuple[str, ...]:
        outputs = tuple(merged.get("outputs") or ("out",))
        for output in outputs:
            if not _OUTPUT.fullmatch(output) or output in RESERVED - {"out"}:
                self._fault(merged.place("outputs"), f"'{output}' cannot name an output", "out, bin, dev, man, doc, …")
        if "out" not in outputs or len(set(outputs)) < len(outputs):
            self._fault(merged.place("outputs"), "'outputs' names each output once, and 'out' among them")
        return outputs

    def _features(self, merged: _Merged) -> tuple[str, ...]:
        place = merged.place("features")
        written = merged.get("features") or []
        for index, feature in enumerate(written):
            if not FEATURE.fullmatch(feature):
                self._fault((*place, index), f"'{feature}' cannot name a feature of a builder", _FEATURE_HINT)
        return tuple(sorted(set(written)))

    def _inputs(self, merged: _Merged, key: str) -> tuple[Input, ...]:
        place = merged.place(key)
        found = []
        for index, reference in enumerate(merged.get(key) or []):
            _, position = find(self._root, (*place, index))
            name = _bare(reference)
            if variable_name(name) in RESERVED:
                self._fault((*place, index), f"the input '{name}' would hide the variable ${name} of the build script")
            found.append(Input(reference, position))
        return tuple(found)

    def _patches(self, merged: _Merged) -> tuple[Patch, ...]:
        place = merged.place("patches")
        written = merged.get("patches") or []
        if written and merged.get("kind") == kinds.PYTHON:
            hint = "a wheel is installed as it is; patch its source, and build a wheel of it"
            self._fault(place, "'patches' means nothing to `kind: python-app`", hint)
        elif written and not (merged.get("source") or merged.get("sources")):
            self._fault(place, "'patches' has no source to be applied to", "say `source`, or leave `patches` out")
        found = [self._patch(patch, (*place, index)) for index, patch in enumerate(written)]
        return tuple(patch for patch in found if patch is not None)

    def _patch(self, given: WrittenPatch, location: tuple[int | str, ...]) -> Patch | None:
        if not _STRIP.fullmatch(given.strip):
            self._fault((*location, "strip"), f"'{given.strip}' is not a number of directories", "0 to 9; mostly 1")
            return None
        spec = self._path_source(given.path, (*location, "path"))
        if spec is not None and not spec.path.is_file():
            self._fault((*location, "path"), f"'{given.path}' is not a file", "name each patch of it, in their order")
            return None
        return None if spec is None else Patch(spec, int(given.strip))

    def _sources(self, body: WrittenVersion, location: tuple[str, ...], version: str) -> tuple[SourceSpec, ...]:
        if body.source is not None:
            found = [self._source(body.source, (*location, "source"), version)]
        else:
            written = enumerate(body.sources or [])
            found = [self._source(source, (*location, "sources", index), version) for index, source in written]
        return tuple(source for source in found if source is not None)

    def _source(self, given: WrittenSource, location: tuple[int | str, ...], version: str) -> SourceSpec | None:
        if given.path is not None:
            return self._path_source(given.path, (*location, "path"))
        if given.git is not None:
            return self._git(given, location)
        digest = self._hash(given.sha256 or "", (*location, "sha256"))
        urls = (given.url,) if given.url is not None else tuple(given.urls or ())
        if urls:
            file = given.file or urls[0].partition("?")[0].partition("#")[0].rstrip("/").rpartition("/")[2]
            key = "file" if given.file else "url" if given.url else "urls"
            self._check_file(file, (*location, key))
            return UrlSpec(urls, file, digest) if digest else None
        if given.pypi is not None:
            return self._pypi(given, location, version, digest)
        package = given.debsrc or ""
        if not _DEBIAN.fullmatch(package):
            self._fault((*location, "debsrc"), f"'{package}' cannot name a Debian source package")
        file = given.file or f"{package}_{given.version or version}.orig.tar.gz"
        self._check_file(file, (*location, "file" if given.file else "debsrc"))
        return DebianSpec(package, file, digest) if digest else None

    def _pypi(
        self, given: WrittenSource, location: tuple[int | str, ...], version: str, digest: Hash | None
    ) -> PypiSpec | None:
        project, wanted = given.pypi or "", given.version or version
        if not _PYPI.fullmatch(project):
            self._fault((*location, "pypi"), f"'{project}' cannot name a project of the Python package index")
        file = given.file or f"{re.sub(r'[-_.]+', '_', project).lower()}-{wanted}-py3-none-any.whl"
        self._check_file(file, (*location, "file" if given.file else "pypi"))
        if not file.endswith(".whl"):
            self._fault((*location, "file"), f"'{file}' is not a wheel", "a wheel's name ends in .whl")
        return PypiSpec(project, wanted, file, digest) if digest else None

    def _git(self, given: WrittenSource, location: tuple[int | str, ...]) -> GitSpec:
        url, ref, commit = given.git or "", given.ref, given.commit
        if not _GIT.fullmatch(url):
            hint = "https://…, ssh://…, git://…, file://…, or user@host:path"
            self._fault((*location, "git"), f"'{url}' is not the URL of a repository", hint)
        if ref is not None and (commit is not None or not _REF.fullmatch(ref) or ".." in ref):
            wrong = "stands beside 'commit'" if commit is not None else "cannot name a branch or a tag"
            self._fault((*location, "ref"), f"'{ref}' {wrong}")
        if commit is not None and not _COMMIT.fullmatch(commit):
            self._fault((*location, "commit"), f"'{commit}' is not a whole commit", "40 hexadecimal digits")
        return GitSpec(url, ref, commit, find(self._root, (*location, "git"))[1])

    def _path_source(self, written: str, location: tuple[int | str, ...]) -> PathSpec | None:
        _, position = find(self._root, location)
        if written.startswith(("/", "~")):
            self._fault(location, f"'{written}' is not relative to the recipe", "keep sources beside the recipe")
            return None
        path = self._path.parent / written
        if not path.exists():
            self._fault(location, f"there is no file or directory '{written}' beside the recipe")
            return None
        return PathSpec(path, position)

    def _hash(self, written: str, location: tuple[int | str, ...]) -> Hash | None:
        try:
            return Hash.parse(written, "sha256")
        except FormatError as error:
            self._fault(location, error.message, "64 hexadecimal digits, as sha256sum prints them")
            return None

    def _check_file(self, file: str, location: tuple[int | str, ...]) -> None:
        if not _FILE.fullmatch(file):
            self._fault(location, f"'{file}' cannot name a file in the store", "say another with `file:`")


@dataclass(frozen=True)
class _Merged:
    """The keys of one version: its own where it says them, else the recipe's."""

    body: WrittenVersion | None
    given: WrittenRecipe
    location: tuple[str, ...]

    def get(self, key: str) -> Any:
        own = getattr(self.body, key) if self.body is not None else None
        return getattr(self.given, key) if own is None else own

    def place(self, key: str) -> tuple[str, ...]:
        own = self.body is not None and getattr(self.body, key) is not None
        return (*self.location, key) if own else (key,)


def _bare(reference: str) -> str:
    """The name in a reference, without set, version and output."""
    return reference.rpartition(":")[2].partition("@")[0]
