"""A first recipe for a package: from a URL, from a file or directory, or from nothing."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.build.fetch import fetchurl
from reconciler.core.errors import UsageError
from reconciler.core.nix.store_path import parse_drv_name
from reconciler.packages import kinds
from reconciler.packages.specs import NAME

_URL = re.compile(r"(?:https?|file)://\S+")
_ARCHIVE = re.compile(r"\.(?:tar|tar\.[a-z0-9]+|tgz|tbz2|txz|zip)$")
_VERSION = re.compile(r"[-_v]([0-9]+(?:\.[0-9A-Za-z]+)+)")
_SAMPLE = '#!/bin/sh\necho "{name} says hello"\n'


@dataclass(frozen=True)
class Scaffold:
    """A recipe's text, and a sample source beside it (its name and text), where it needs one."""

    recipe: str
    sample: tuple[str, str] | None = None


def scaffold(name: str, source: str | None, folder: Path) -> Scaffold:
    """The recipe of a new package. A URL is fetched for its hash. UsageError for a name or source that cannot be."""
    if not NAME.fullmatch(name) or parse_drv_name(f"{name}-1")[0] != name:
        raise UsageError(f"'{name}' cannot name a package", "letters, digits and _ + . -; no digit after a dash")
    if source is None:
        return Scaffold(_text("1.0", kinds.SCRIPT, f"{{path: {name}.sh}}"), (f"{name}.sh", _SAMPLE.format(name=name)))
    if _URL.fullmatch(source):
        file = source.partition("?")[0].rstrip("/").rpartition("/")[2]
        kind = _kind_of(file)
        return Scaffold(_text(_version(file), kind, f"{{url: {source}, sha256: {_sha256(source)}}}"))
    path = Path(source)
    if not path.exists():
        raise UsageError(f"there is no file or directory '{source}'", "a URL, or a path")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UsageError(
            f"'{source}' does not lie below {folder}", f"keep sources beside the recipe: cp -r it to {folder}"
        )
    relative = path.resolve().relative_to(folder.resolve())
    return Scaffold(_text("1.0", _kind_of_file(path), f"{{path: {relative}}}"))


def _text(version: str, kind: str, source: str) -> str:
    lines = [f"version: {version}", "description: what it is, in a line", "toolchain: host"]
    lines += [f"kind: {kind}", f"source: {source}"]
    if kind == kinds.AUTOTOOLS:
        lines += ["# patches: [fix.patch]         files beside the recipe, applied before the build"]
        lines += ["# instead of `kind`, the build in your own words:", "# build: |", "#   make PREFIX=$out install"]
    if kind == kinds.FILES:
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
    found = _VERSION.search(_ARCHIVE.sub("", file))
    return found[1] if found else "1.0"


def _sha256(url: str) -> str:
    with tempfile.TemporaryDirectory(prefix="reconciler-") as directory:
        file = Path(directory) / "file"
        fetchurl({"url": url}, str(file), lambda _: None, lambda: False)
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
