"""A first recipe for a package: from a URL, the Python package index, a file or directory, or from nothing.

With a pinned toolchain, so that what is made of it runs on any Linux. What `python-app` needs for that, a Python of the
store, is among the recipes that the program brings along, and that are written under their own names.
"""

from __future__ import annotations

import json
import re
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from reconciler.core.build import elf
from reconciler.core.build.fetch import fetchurl
from reconciler.core.errors import FormatError, UsageError
from reconciler.core.nix.store_path import parse_drv_name
from reconciler.packages import kinds, pypi, wheel
from reconciler.packages.downloads import sha256_of
from reconciler.packages.specs import HOST, NAME, VERSION
from reconciler.packages.toolchain import AUTOTOOLS, SHIPPED
from reconciler.packages.versions import newest_first

_URL = re.compile(r"(?:https?|file)://\S+")
_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)(?:(?:@|==)([0-9][A-Za-z0-9.!+]*))?")
_ARCHIVE = re.compile(r"\.(?:tar|tar\.[a-z0-9]+|tgz|tbz2|txz|zip)$")
_VERSION = re.compile(r"[-_v]([0-9]+(?:\.[0-9A-Za-z]+)+)")
_PLAIN = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_./:+=?&%~@-]*[A-Za-z0-9_/])?")
_SAMPLE = '#!/bin/sh\necho "{name} says hello"\n'
_AUTORECONF = """build: |
  autoreconf -fi
  ./configure --prefix=$out
  make -j$NIX_BUILD_CORES
  make install"""
_UNPREPARED = ("configure.ac", "configure.in")
PYTHON = "python3"


@dataclass(frozen=True)
class Scaffold:
    """A recipe's text; files beside it that it needs (their names and texts); and what its inputs are, each with the
    source to write a first recipe of it from, empty for one that is brought along."""

    recipe: str
    beside: tuple[tuple[str, str], ...] = ()
    needs: tuple[tuple[str, str], ...] = ()


def scaffold(name: str, source: str | None, folder: Path) -> Scaffold:
    """The recipe of a new package. A URL, or `pypi:PROJECT` (perhaps with `@VERSION`), is fetched for its hash.
    UsageError for a name or source that cannot be."""
    if not NAME.fullmatch(name) or parse_drv_name(f"{name}-1")[0] != name:
        raise UsageError(f"'{name}' cannot name a package", "letters, digits and _ + . -; no digit after a dash")
    if source is None and name in brought_along():
        return _brought_along(name)
    if source is None:
        return Scaffold(
            _text("1.0", kinds.SCRIPT, f"{{path: {name}.sh}}"), ((f"{name}.sh", _SAMPLE.format(name=name)),)
        )
    if _URL.fullmatch(source):
        return _of_url(source)
    if source.startswith("pypi:"):
        return _from_index(source, folder)
    path = Path(source) if Path(source).exists() else folder / source
    if not path.exists():
        raise UsageError(f"there is no file or directory '{source}'", "a URL, pypi:PROJECT, or a path")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"'{source}' does not lie below {folder}", f"keep sources beside the recipe: cp -r it to {folder}"
        )
    relative = path.resolve().relative_to(folder.resolve())
    written = f"{{path: {_word(str(relative))}}}"
    if path.suffix == ".whl":
        return _of_wheel(wheel.read(path), written)
    version = "1.0" if path.is_dir() else _version(path.name)
    return Scaffold(_text(version, _kind_of_file(path), written, toolchain=_toolchain(path, path.name)))


def brought_along() -> dict[str, Path]:
    """The recipes that the program brings along, by their names."""
    folder = Path(str(resources.files("reconciler.packages"))) / "recipes"
    return {file.stem: file for file in sorted(folder.glob("*.yml"))}


def _brought_along(name: str) -> Scaffold:
    """A recipe as it is, with those of its inputs."""
    from reconciler.packages.recipe import load

    known = brought_along()
    texts: dict[str, str] = {}
    todo = [name]
    while todo:
        file = known[todo.pop()]
        texts[file.name] = file.read_text(encoding="utf-8")
        inputs = [one.reference for each in load(file, file.name).versions.values() for one in each.inputs]
        todo += [one for one in inputs if f"{one}.yml" not in texts]
    return Scaffold(texts.pop(f"{name}.yml"), tuple(texts.items()))


def _of_url(url: str) -> Scaffold:
    """The recipe of a file on a server."""
    name = url.partition("?")[0].rstrip("/").rpartition("/")[2]
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        file = Path(directory) / "file"
        fetchurl({"url": url}, str(file), lambda _: None, lambda: False)
        source = f"{{url: {_word(url)}, sha256: {sha256_of(file).base16}}}"
        if name.endswith(".whl"):
            return _of_wheel(wheel.read(file), source)
        return Scaffold(_text(_version(name), _kind_of(name), source, toolchain=_toolchain(file, name)))


def _from_index(source: str, folder: Path) -> Scaffold:
    """The recipe of a wheel of the Python package index, for the Python of the folder, or that is brought along."""
    found = _PYPI.fullmatch(source)
    if found is None:
        raise UsageError(f"'{source}' cannot name a project of the Python package index", "pypi:PROJECT[@VERSION]")
    project, version = found[1], found[2]
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        wanted = f"{project}=={version}" if version else project
        file = pypi.newest(wanted, Path(directory), _python_version(folder))
        told, digest = wheel.read(file), sha256_of(file)
    usual = f"{re.sub('[-_.]+', '_', project).lower()}-{told.version}-py3-none-any.whl"
    other = "" if file.name == usual else f"file: {file.name}, "
    return _of_wheel(told, f"{{pypi: {project}, {other}sha256: {digest.base16}}}")


def _python_version(folder: Path) -> str:
    """`3.11`, of the newest."""
    from reconciler.packages.recipe import load

    own = folder / f"{PYTHON}.yml"
    recipe = load(own if own.exists() else brought_along()[PYTHON], own.name)
    return ".".join(newest_first(recipe.versions)[0].split(".")[:2])


def _of_wheel(told: wheel.Wheel, source: str) -> Scaffold:
    """A Python application with what it needs, or the programs alone where the wheel holds no Python."""
    if not VERSION.fullmatch(told.version):
        raise UsageError(
            f"the wheel's version {told.version!r} cannot be a package's", "it has digits, letters and _ + . - ? ="
        )
    if told.scripts and not told.has_modules:
        installed = ", ".join(f"{_word('bin/' + Path(each).name)}: {_word(each)}" for each in told.scripts)
        more = [f"install: {{{installed}}}", f"inputs: [{PYTHON}]      # which unpacks the wheel"]
        return Scaffold(_text(told.version, kinds.FILES, source, more, told.summary), needs=((PYTHON, ""),))
    more = [f"inputs: [{', '.join((PYTHON, *told.needs))}]"]
    if told.perhaps:
        more.append(f"# By its conditions perhaps also: {', '.join(told.perhaps)}")
    needs = ((PYTHON, ""), *((project, f"pypi:{project}") for project in told.needs))
    return Scaffold(_text(told.version, kinds.PYTHON, source, more, told.summary), needs=needs)


def _word(text: str) -> str:
    """In YAML, whatever signs are in it: what JSON writes is a scalar too."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _text(
    version: str, kind: str, source: str, more: Sequence[str] = (), summary: str = "", *, toolchain: str = SHIPPED
) -> str:
    described = json.dumps(summary, ensure_ascii=False) if summary else "what it is, in a line"
    lines = [f"version: {version}", f"description: {described}", f"toolchain: {toolchain}"]
    unprepared = toolchain == AUTOTOOLS
    lines += [f"source: {source}", _AUTORECONF] if unprepared else [f"kind: {kind}", f"source: {source}", *more]
    if kind == kinds.AUTOTOOLS:
        lines += ["# patches: [fix.patch]         files beside the recipe, applied before the build"]
    if kind == kinds.AUTOTOOLS and not unprepared:
        lines += ["# instead of `kind`, the build in your own words:", "# build: |", "#   make PREFIX=$out install"]
    if kind == kinds.FILES and not more:
        lines += ["# install: {bin/tool: tool}     where each goes: where it comes from"]
    if kind == kinds.SCRIPT:
        lines += ["# runtime: [jq]                packages that its PATH begins with"]
    return "\n".join([*lines, ""])


def _kind_of(file: str) -> str:
    return kinds.AUTOTOOLS if _ARCHIVE.search(file) else kinds.FILES


def _kind_of_file(path: Path) -> str:
    if path.is_dir():
        return kinds.AUTOTOOLS if (path / "configure").exists() or _is_unprepared(path) else kinds.FILES
    with path.open("rb") as file:
        return kinds.SCRIPT if file.read(2) == b"#!" else _kind_of(path.name)


def _version(file: str) -> str:
    found = _VERSION.search(_ARCHIVE.sub("", file).removesuffix(".orig"))
    return found[1] if found else "1.0"


def _toolchain(path: Path, name: str) -> str:
    """What a file, called `name`, or a directory can be built with, and why, where that is not the usual one."""
    if name.endswith(".zip"):
        return f"{HOST}             # a pinned one has no unzip, unless you extend it"
    if path.is_file() and _is_linked(path):
        return f"{HOST}             # it is linked to the C library of a distribution"
    return AUTOTOOLS if _is_unprepared(path) else SHIPPED


def _is_linked(path: Path) -> bool:
    """Whether a file is a program that was linked to libraries."""
    try:
        with path.open("rb") as file:
            loaded = elf.read(file.fileno())
    except FormatError:
        return False
    return loaded is not None and bool(loaded.interpreter or loaded.needed)


def _is_unprepared(path: Path) -> bool:
    """Whether a directory or an archive has what `./configure` is made from, and no `./configure`."""
    if path.is_dir():
        names = {each.name for each in path.iterdir()}
    else:
        try:
            with tarfile.open(path) as archive:
                inside = (each.name.removeprefix("./").split("/") for each in archive)
                names = {parts[1] for parts in inside if len(parts) == 2}
        except (tarfile.TarError, OSError, EOFError, ValueError):
            return False  # not one that is read here: what it is, its build will tell
    return "configure" not in names and not names.isdisjoint(_UNPREPARED)
