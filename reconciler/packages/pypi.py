"""Wheels of the Python package index, fetched by the controller's pip, whose settings (index, proxies, certificates)
count. One file is downloaded, checked against the pinned hash, and kept in the cache by that hash."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from reconciler.core.build.outputs import wrong_hash
from reconciler.core.errors import StoreError
from reconciler.core.nix.hashes import Hash
from reconciler.packages.debian import cache_directory
from reconciler.packages.recipe import PypiSpec

DEADLINE = 600.0  # seconds


def fetch(spec: PypiSpec) -> Path:
    """The wheel, from the cache or from the index; StoreError when it cannot be had, BuildError for a wrong hash."""
    kept = cache_directory() / "sources" / f"{spec.sha256.base16}-{spec.file}"
    if kept.is_file() and _sha256(kept) == spec.sha256:
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".fetch-") as directory:
        file = _download(spec, Path(directory))
        found = _sha256(file)
        if found != spec.sha256:
            raise wrong_hash(f"{file.name} of the Python project {spec.project}", spec.sha256, found)
        os.chmod(file, 0o644)
        file.replace(kept)
    return kept


def _sha256(file: Path) -> Hash:
    with file.open("rb") as stream:
        return Hash("sha256", hashlib.file_digest(stream, "sha256").digest())


def _download(spec: PypiSpec, directory: Path) -> Path:
    wanted = f"{spec.project}=={spec.version}"
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", *_tags(spec.file)]
    command += ["--disable-pip-version-check", "--quiet", "--dest", str(directory), wanted]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DEADLINE, check=False
        )
    except subprocess.TimeoutExpired:
        raise StoreError(f"pip took longer than {DEADLINE:g} s to fetch {wanted}") from None
    if done.returncode != 0:
        said = "\n".join(f"  {line}" for line in done.stderr.strip().splitlines()[-3:])
        raise StoreError(f"pip cannot fetch {wanted}:\n{said}", hint="is there a wheel of that version?")
    files = sorted(directory.iterdir())
    if [file.name.lower() for file in files] != [spec.file.lower()]:
        there = ", ".join(file.name for file in files) or "nothing"
        raise StoreError(f"pip fetched {there} for {wanted}, not {spec.file}", hint="say which one with `file:`")
    return files[0]


def _tags(file: str) -> list[str]:
    """What makes pip choose this wheel, whatever this machine is: its Python, its ABI and its platforms."""
    python, abi, platform = file.removesuffix(".whl").split("-")[-3:]
    if platform == "any":
        return []
    version = python.split(".")[-1].removeprefix("cp").removeprefix("py")
    tags = ["--python-version", version, "--implementation", python[:2], "--abi", abi.split(".")[-1]]
    return [*tags, *(word for each in platform.split(".") for word in ("--platform", each))]
