"""Wheels of the Python package index, fetched by the controller's pip, whose settings (index, proxies, certificates)
count. One file is downloaded, checked against the pinned hash, and kept in the cache by that hash."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from reconciler.core.errors import StoreError
from reconciler.packages.downloads import cache_directory, is_kept, keep, run
from reconciler.packages.specs import PypiSpec

DEADLINE = 600.0  # seconds
GLIBC = 36  # the minor version of the C library in the toolchains that come along


def fetch(spec: PypiSpec) -> Path:
    """The wheel, from the cache or from the index; StoreError when it cannot be had, BuildError for a wrong hash."""
    kept = cache_directory() / "sources" / f"{spec.sha256.base16}-{spec.file}"
    if not is_kept(kept, spec.sha256):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as directory:
            what = f"{spec.file} of the Python project {spec.project}"
            keep(_download(spec, Path(directory)), kept, spec.sha256, what)
    return kept


def newest(wanted: str, directory: Path, python: str) -> Path:
    """The wheel of `PROJECT`, or `PROJECT==VERSION`, for Python `python` (3.11, say), whatever that of this machine is,
    on a machine as this and the C library of the pinned toolchain; fetched into an empty directory. StoreError when
    there is none."""
    tags = ["--python-version", python, "--implementation", "cp"]
    tags += [word for abi in (f"cp{python.replace('.', '')}", "abi3", "none") for word in ("--abi", abi)]
    kinds = ("manylinux1", "manylinux2010", "manylinux2014", *(f"manylinux_2_{minor}" for minor in range(5, GLIBC + 1)))
    tags += [word for kind in kinds for word in ("--platform", f"{kind}_{os.uname().machine}")]
    return _pip(wanted, directory, *tags)[0]


def _download(spec: PypiSpec, directory: Path) -> Path:
    wanted = f"{spec.project}=={spec.version}"
    # Which Python it is for, the recipe says; which it needs, matters to the builder's.
    files = _pip(wanted, directory, "--ignore-requires-python", *_tags(spec.file))
    if [file.name.lower() for file in files] != [spec.file.lower()]:
        there = ", ".join(file.name for file in files) or "nothing"
        raise StoreError(f"pip fetched {there} for {wanted}, not {spec.file}", hint="say which one with `file:`")
    return files[0]


def _pip(wanted: str, directory: Path, *options: str) -> list[Path]:
    """What pip fetches; StoreError when it fails."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *options]
    done = run([*command, "--disable-pip-version-check", "--quiet", "--dest", str(directory), wanted], DEADLINE)
    if done.status != 0:
        raise StoreError(f"pip cannot fetch {wanted}:\n{done.last_lines(3)}", hint="is there a wheel of that version?")
    return sorted(directory.iterdir())


def _tags(file: str) -> list[str]:
    """What makes pip choose this wheel, whatever this machine is: its Python, its ABI and its platforms."""
    python, abi, platform = file.removesuffix(".whl").split("-")[-3:]
    if platform == "any":
        return []
    version = python.split(".")[-1].removeprefix("cp").removeprefix("py")
    tags = ["--python-version", version, "--implementation", python[:2], "--abi", abi.split(".")[-1]]
    return [*tags, *(word for each in platform.split(".") for word in ("--platform", each))]
