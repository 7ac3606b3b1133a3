"""A first recipe for a package: from a URL, the Python package index, a file or directory, or from nothing."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.build.fetch import fetchurl
from reconciler.core.errors import UsageError
from reconciler.core.nix.store_path import parse_drv_name
from reconciler.packages import kinds, pypi, wheel
from reconciler.packages.downloads import sha256_of
from reconciler.packages.specs import NAME

_URL = re.compile(r"(?:https?|file)://\S+")
_PYPI = re.compile(r"pypi:([A-Za-z0-9][A-Za-z0-9._-]*)(?:(?:@|==)([0-9][A-Za-z0-9.!+]*))?")
_ARCHIVE = re.compile(r"\.(?:tar|tar\.[a-z0-9]+|tgz|tbz2|txz|zip)$")
_VERSION = re.compile(r"[-_v]([0-9]+(?:\.[0-9A-Za-z]+)+)")
_SAMPLE = '#!/bin/sh\necho "{name} says hello"\n'


@dataclass(frozen=True)
class Scaffold:
    """A recipe's text; a sample source beside it (its name and text), where it needs one; and the projects of the
    Python package index that it has as inputs."""

    recipe: str
    sample: tuple[str, str] | None = None
    needs: tuple[str, ...] = ()


def scaffold(name: str, source: str | None, folder: Path) -> Scaffold:
    """The recipe of a new package. A URL, or `pypi:PROJECT` (perhaps with `@VERSION`), is fetched for its hash.
    UsageError for a name or source that cannot be."""
    if not NAME.fullmatch(name) or parse_drv_name(f"{name}-1")[0] != name:
        raise UsageError(f"'{name}' cannot name a package", "letters, digits and _ + . -; no digit after a dash")
    if source is None:
        return Scaffold(_text("1.0", kinds.SCRIPT, f"{{path: {name}.sh}}"), (f"{name}.sh", _SAMPLE.format(name=name)))
    if _URL.fullmatch(source):
        file = source.partition("?")[0].rstrip("/").rpartition("/")[2]
        kind = _kind_of(file)
        return Scaffold(_text(_version(file), kind, f"{{url: {source}, sha256: {_sha256(source)}}}"))
    if source.startswith("pypi:"):
        return _from_index(source)
    path = Path(source) if Path(source).exists() else folder / source
    if not path.exists():
        raise UsageError(f"there is no file or directory '{source}'", "a URL, pypi:PROJECT, or a path")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"'{source}' does not lie below {folder}", f"keep sources beside the recipe: cp -r it to {folder}"
        )
    relative = path.resolve().relative_to(folder.resolve())
    written = f"{{path: {relative}}}"
    if path.suffix == ".whl":
        return _of_wheel(wheel.read(path), written)
    return Scaffold(_text("1.0" if path.is_dir() else _version(path.name), _kind_of_file(path), written))


def _from_index(source: str) -> Scaffold:
    """The recipe of a wheel of the Python package index."""
    found = _PYPI.fullmatch(source)
    if found is None:
        raise UsageError(f"'{source}' cannot name a project of the Python package index", "pypi:PROJECT[@VERSION]")
    project, version = found[1], found[2]
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        file = pypi.newest(f"{project}=={version}" if version else project, Path(directory))
        told, digest = wheel.read(file), sha256_of(file)
    usual = f"{re.sub('[-_.]+', '_', project).lower()}-{told.version}-py3-none-any.whl"
    other = "" if file.name == usual else f"file: {file.name}, "
    return _of_wheel(told, f"{{pypi: {project}, {other}sha256: {digest.base16}}}")


def _of_wheel(told: wheel.Wheel, source: str) -> Scaffold:
    """A Python application with what it needs, or the programs alone where the wheel holds no Python."""
    if told.scripts and not told.has_modules:
        installed = ", ".join(f"bin/{script.rpartition('/')[2]}: {script}" for script in told.scripts)
        more = [f"install: {{{installed}}}"]
        return Scaffold(_text(told.version, kinds.FILES, source, more, told.summary))
    more = [f"inputs: [{', '.join(told.needs)}]"] if told.needs else []
    if told.perhaps:
        more.append(f"# By its conditions perhaps also: {', '.join(told.perhaps)}")
    return Scaffold(_text(told.version, kinds.PYTHON, source, more, told.summary), needs=told.needs)


def _text(version: str, kind: str, source: str, more: Sequence[str] = (), summary: str = "") -> str:
    # What JSON writes is a YAML scalar too, whatever signs are in it.
    described = json.dumps(summary, ensure_ascii=False) if summary else "what it is, in a line"
    lines = [f"version: {version}", f"description: {described}", "toolchain: host"]
    lines += [f"kind: {kind}", f"source: {source}", *more]
    if kind == kinds.AUTOTOOLS:
        lines += ["# patches: [fix.patch]         files beside the recipe, applied before the build"]
        lines += ["# instead of `kind`, the build in your own words:", "# build: |", "#   make PREFIX=$out install"]
    if kind == kinds.FILES and not more:
        lines += ["# install: {bin/tool: tool}     where each goes: where it comes from"]
    if kind == kinds.SCRIPT:
        lines += ["# runtime: [jq]                packages that its PATH begins with"]
    return "\n".join([*lines, ""])


def _kind_of(file: str) -> str:
    if file.endswith(".whl"):
        return kinds.PYTHON
    return kinds.AUTOTOOLS if _ARCHIVE.search(file) else kinds.FILES


def _kind_of_file(path: Path) -> str:
    if path.is_dir():
        return kinds.AUTOTOOLS if (path / "configure").exists() else kinds.FILES
    with path.open("rb") as file:
        return kinds.SCRIPT if file.read(2) == b"#!" else _kind_of(path.name)


def _version(file: str) -> str:
    found = _VERSION.search(_ARCHIVE.sub("", file).removesuffix(".orig"))
    return found[1] if found else "1.0"


def _sha256(url: str) -> str:
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        file = Path(directory) / "file"
        fetchurl({"url": url}, str(file), lambda _: None, lambda: False)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
