"""Pinning a toolchain: which Debian packages it is made from now, their hashes, and those of its trees.

Of a tree, `wanted` are packages that it is for, and `without` those of their dependencies that it can do without. The
rest is what apt would install into an empty system: `packages`, with the versions that this machine's mirrors have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.fs import FileLock
from reconciler.core.nix.hashes import Hash
from reconciler.packages import debs, toolchain_sources
from reconciler.packages.debian import Apt
from reconciler.packages.downloads import cache_directory
from reconciler.packages.specs import HOST, TOOLCHAIN
from reconciler.packages.toolchain import (
    FOLDER,
    SHIPPED,
    Deb,
    Toolchain,
    Toolchains,
    linker_wrapper,
    shipped,
    tree_path,
)
from reconciler.packages.toolchain_written import (
    Written,
    WrittenDeb,
    WrittenExtendedSystem,
    WrittenExtension,
    WrittenSystem,
    WrittenTree,
    WrittenTrees,
    read,
    shape_of,
)

ARCHITECTURES = {"x86_64-linux": "amd64", "aarch64-linux": "arm64", "i686-linux": "i386", "riscv64-linux": "riscv64"}

_INSTALLED = re.compile(r"^Inst (?P<package>\S+) \((?P<version>\S+) .*\[(?P<architecture>[a-z0-9]+)\]\)", re.MULTILINE)
_LISTS = ("keep", "drop", "wanted", "without")


@dataclass(frozen=True)
class Pinned:
    """One system of a toolchain as it is pinned now: packages and NAR hash by tree, and every package."""

    packages: Mapping[str, tuple[str, ...]]
    nars: Mapping[str, Hash]
    debs: Mapping[str, Deb]
    base: Toolchain | None = None


def pin(name: str, system: str, given: WrittenSystem) -> Pinned:
    """Look up, fetch and put together what a definition wants. StoreError where apt cannot."""
    trees = {role: getattr(given.trees, role) for role in WrittenTrees.model_fields}
    return _pinned(name, given, _look_up(system, trees))


def pin_extension(system: str, given: WrittenExtendedSystem, base: Toolchain, lacks: Iterable[str]) -> Pinned:
    """The same of what is added to the tools of `base`, whose packages are taken as they are there; nor is fetched what
    `base` does without (`lacks`)."""
    chosen = _look_up(system, {"tools": given.tools}, {deb.package for deb in base.tools.debs} | set(lacks))["tools"]
    shape, files = shape_of(given.tools), dict(zip(chosen, debs.fetch(chosen), strict=True))
    used = tuple(deb for deb, file in files.items() if toolchain_sources.wanted(shape, file))
    layers = [*toolchain_sources.layers(base.tools), (shape, [files[deb] for deb in used])]
    entries = toolchain_sources.assembled(layers, dict.fromkeys(base.linkers, base.wrapper))
    packages = {"tools": tuple(deb.package for deb in used)}
    return Pinned(packages, {"tools": toolchain_sources.measured(entries)}, {deb.package: deb for deb in used}, base)


def _look_up(system: str, trees: Mapping[str, WrittenTree], lacks: Collection[str] = ()) -> dict[str, Sequence[Deb]]:
    """The packages, by tree, that the mirrors have now."""
    architecture = ARCHITECTURES.get(system)
    if architecture is None:
        raise StoreError(f"Debian has no packages for {system}", f"it has for {', '.join(ARCHITECTURES)}")
    with FileLock(_lock()):
        apt = debs.prepared(architecture)
        apt.update()
        chosen = {role: _closure(apt, role, given, lacks) for role, given in trees.items()}
        found = _hashed(apt, {package: spec for each in chosen.values() for package, spec in each.items()})
    return {role: [found[package] for package in sorted(each)] for role, each in chosen.items()}


def _lock() -> str:
    cache_directory().mkdir(parents=True, exist_ok=True)
    return str(cache_directory() / "apt.lock")


def _closure(apt: Apt, role: str, given: WrittenTree, lacks: Collection[str]) -> dict[str, tuple[str, str]]:
    """Version and architecture of each package that a tree is made from; `lacks`: of those that it is not."""
    if not given.wanted:
        raise StoreError(f"the tree '{role}' does not say what is `wanted`, so there is nothing to look up")
    said = apt.run("install", "--simulate", "--no-install-recommends", "--quiet", *given.wanted)
    found = {
        match["package"].partition(":")[0]: (match["version"], match["architecture"])
        for match in _INSTALLED.finditer(said)
    }
    return {package: spec for package, spec in found.items() if package not in given.without and package not in lacks}


def _hashed(apt: Apt, wanted: Mapping[str, tuple[str, str]]) -> dict[str, Deb]:
    shown = apt.ask("show", *(f"{package}={version}" for package, (version, _) in sorted(wanted.items())))
    found = {}
    for stanza in shown.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|SHA256): *(\S+)", stanza, re.MULTILINE))
        if wanted.get(fields.get("Package", ""), ("", ""))[0] == fields.get("Version") and "SHA256" in fields:
            digest = Hash.parse(fields["SHA256"], "sha256")
            found[fields["Package"]] = Deb(fields["Package"], fields["Version"], fields["Architecture"], digest)
    if lacking := sorted(wanted.keys() - found.keys()):
        raise StoreError(f"apt knows no hash of {', '.join(lacking)}")
    return dict(sorted(found.items()))


def _pinned(name: str, given: WrittenSystem, chosen: Mapping[str, Sequence[Deb]]) -> Pinned:
    """The trees of the chosen packages, without those that a tree has no file of."""
    used: dict[str, tuple[Deb, ...]] = {}
    nars: dict[str, Hash] = {}
    wrapper = ""
    for role, candidates in chosen.items():
        shape = shape_of(getattr(given.trees, role))
        files = dict(zip(candidates, debs.fetch(candidates), strict=True))
        used[role] = tuple(deb for deb, file in files.items() if toolchain_sources.wanted(shape, file))
        wrapped = dict.fromkeys(given.linkers, wrapper) if role == "tools" else {}
        entries = toolchain_sources.assembled([(shape, [files[deb] for deb in used[role]])], wrapped)
        nars[role] = toolchain_sources.measured(entries)
        if role == "libc":
            wrapper = linker_wrapper(tree_path(name, role, nars[role], ()), given.loader, given.libraries)
    packages = {role: tuple(deb.package for deb in each) for role, each in used.items()}
    return Pinned(packages, nars, {deb.package: deb for role in used for deb in used[role]})


@dataclass(frozen=True)
class Renewed:
    """A definition, pinned again: where it is to be written, what, and what changed by system."""

    file: Path
    text: str
    moved: Mapping[str, tuple[str, ...]]


def renew(name: str, toolchains: Toolchains, folder: Path) -> Renewed:
    """Pin the packages of a toolchain that this machine's mirrors have now. What there is no definition of begins
    as the one that the program brings along. `folder`: of the project's recipes."""
    if not TOOLCHAIN.fullmatch(name) or name == HOST:
        raise UsageError(f"'{name}' cannot name a toolchain", "a name such as debian-12 or our-gcc")
    start = toolchains.file(name) or shipped() / f"{SHIPPED}.yml"
    given, root = read(start, toolchains.shown(start))
    if isinstance(given, WrittenExtension):
        bases = {system: toolchains.base(given, root, system) for system in given.systems}
        lacks = _lacks(given.extends, toolchains)
        pinned = {
            system: pin_extension(system, spec, bases[system], lacks[system]) for system, spec in given.systems.items()
        }
    else:
        pinned = {system: pin(name, system, spec) for system, spec in given.systems.items()}
    changed = {system: tuple(moved(spec.debs, pinned[system])) for system, spec in given.systems.items()}
    return Renewed(folder / FOLDER / f"{name}.yml", text(name, given, pinned), changed)


def _lacks(name: str, toolchains: Toolchains) -> dict[str, list[str]]:
    """The packages that a toolchain which extends none does without in its tools, by system."""
    file = toolchains.file(name)
    assert file is not None, name
    given, _ = read(file, toolchains.shown(file))
    assert not isinstance(given, WrittenExtension), name
    return {system: spec.trees.tools.without for system, spec in given.systems.items()}


# --- as text ----------------------------------------------------------------------------------------------------------


def text(name: str, given: Written, pinned: Mapping[str, Pinned]) -> str:
    """The definition with what was pinned in it."""
    return "\n".join([*_lines(name, given, pinned), ""])


def _lines(name: str, given: Written, pinned: Mapping[str, Pinned]) -> Iterator[str]:
    yield f"# A toolchain for recipes: `toolchain: {name}`. Hashes, versions and packages are written by"
    yield f"#   reconciler packages toolchain {name}"
    yield "# which looks up again what is `wanted`; the rest is yours to change."
    yield f"description: {_quoted(given.description)}"
    if isinstance(given, WrittenExtension):
        yield f"extends: {given.extends}"
    yield "systems:"
    for system, spec in given.systems.items():
        yield f"  {system}:"
        if isinstance(spec, WrittenSystem):
            yield from _trees(spec, pinned[system])
        else:
            yield from _addition(spec, pinned[system])
        yield "    debs:"
        for _, deb in sorted(pinned[system].debs.items()):
            yield from _deb(deb, spec.debs.get(deb.package))


def _trees(given: WrittenSystem, pinned: Pinned) -> Iterator[str]:
    yield f"    loader: {given.loader}"
    yield f"    libraries: {given.libraries}"
    yield f"    linkers: [{', '.join(given.linkers)}]"
    yield "    trees:"
    for role in WrittenTrees.model_fields:
        yield f"      {role}:"
        yield from _tree(role, getattr(given.trees, role), pinned, " " * 8)


def _addition(given: WrittenExtendedSystem, pinned: Pinned) -> Iterator[str]:
    assert pinned.base is not None
    yield f"    base: {pinned.base.tools.nar_hash.base16}"
    yield "    tools:"
    yield from _tree("tools", given.tools, pinned, " " * 6)


def _deb(deb: Deb, was: WrittenDeb | None) -> Iterator[str]:
    url = f", url: {was.url}" if was and was.url and was.sha256 == deb.sha256.base16 else ""
    yield f"      {deb.package}:"
    version = f"version: {_quoted(deb.version)}, architecture: {deb.architecture}"
    yield f"        {{{version}, sha256: {deb.sha256.base16}{url}}}"


def _tree(role: str, given: WrittenTree, pinned: Pinned, margin: str) -> Iterator[str]:
    for key in _LISTS:
        if listed := getattr(given, key):
            yield from _wrapped(f"{margin}{key}", listed)
    if given.links:
        yield f"{margin}links: {{{', '.join(f'{path}: {target}' for path, target in given.links.items())}}}"
    yield f"{margin}nar: {pinned.nars[role].base16}"
    yield from _wrapped(f"{margin}packages", pinned.packages[role])


def _wrapped(key: str, words: Iterable[str]) -> Iterator[str]:
    """A list, wrapped as an author would."""
    line = f"{key}: ["
    for word in words:
        item = f"{_quoted(word)}, "
        if len(line) + len(item) > 118:
            yield line.rstrip()
            line = " " * (len(key) - len(key.lstrip()) + 2)
        line += item
    yield f"{line.removesuffix(', ')}]"


def _quoted(word: str) -> str:
    """A word as YAML takes it for text and for nothing else."""
    return word if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9+./_~-]*", word) else json.dumps(word)


def moved(given: Mapping[str, WrittenDeb], pinned: Pinned) -> list[str]:
    """What changed, a line a package: `make  4.3-4 -> 4.3-4.1`."""
    names = sorted({*given, *pinned.debs})
    old = {package: deb.version for package, deb in given.items()}
    new = {package: deb.version for package, deb in pinned.debs.items()}
    return [
        f"{name}  {old.get(name, 'not there')} -> {new.get(name, 'gone')}"
        for name in names
        if old.get(name) != new.get(name)
    ]
