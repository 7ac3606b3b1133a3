"""Debian packages (.deb), fetched by apt with a configuration of our own (debian.py), and kept by their hash.

What the mirrors of this machine no longer have is fetched from the package's `url`, where it has one.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from reconciler.core.build.fetch import fetchurl
from reconciler.core.errors import StoreError
from reconciler.core.fs import FileLock
from reconciler.packages.debian import Apt
from reconciler.packages.downloads import cache_directory, is_kept, keep
from reconciler.packages.toolchain import Deb


def fetch(debs: Sequence[Deb]) -> list[Path]:
    """The files of packages, from the cache or from a mirror. StoreError where one cannot be had, BuildError for a
    wrong hash."""
    kept = {deb: _kept(deb) for deb in debs}
    missing = [deb for deb, file in kept.items() if not is_kept(file, deb.sha256)]
    if missing:
        folder = cache_directory() / "debs"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(str(cache_directory() / "apt.lock")), tempfile.TemporaryDirectory(dir=folder) as directory:
            for deb, file in _download(missing, Path(directory)).items():
                keep(file, kept[deb], deb.sha256, f"the package {deb.file}")
    return list(kept.values())


def prepared(architecture: str) -> Apt:
    """apt for the packages of an architecture."""
    return Apt.prepare(cache_directory() / f"apt-{architecture}", architecture)


def versions(apt: Apt, packages: Iterable[str]) -> dict[str, list[str]]:
    """Which versions of packages apt knows, the newest first; an empty list where it knows none."""
    found: dict[str, list[str]] = {package: [] for package in packages}
    for line in apt.ask("madison", *found).splitlines():
        package, version, _ = (part.strip() for part in line.split("|", 2))
        if version not in found.get(package, [version]):
            found[package].append(version)
    return found


def _kept(deb: Deb) -> Path:
    return cache_directory() / "debs" / f"{deb.sha256.base16}-{deb.file}"


def _download(debs: Sequence[Deb], directory: Path) -> dict[Deb, Path]:
    """Fetch packages of one or several architectures into `directory`."""
    files: dict[Deb, Path] = {}
    native = _native(debs)
    apt = prepared(native)
    known = versions(apt, (deb.package for deb in debs))
    if any(deb.version not in known[deb.package] for deb in debs):
        apt.update()
        known = versions(apt, (deb.package for deb in debs))
    lost = [deb for deb in debs if deb.version not in known[deb.package]]
    _check_lost(lost, known)
    at_hand = [deb for deb in debs if deb not in lost]
    if at_hand:
        apt.run("download", *(f"{deb.package}={deb.version}" for deb in at_hand), cwd=directory)
    for deb in at_hand:
        files[deb] = directory / f"{deb.package}_{deb.version.replace(':', '%3a')}_{deb.architecture}.deb"
    for deb in lost:
        files[deb] = directory / deb.file
        fetchurl({"url": deb.url or ""}, str(files[deb]), _quiet, _never)
    return files


def _native(debs: Sequence[Deb]) -> str:
    """The one architecture of packages, besides `all`."""
    native = sorted({deb.architecture for deb in debs} - {"all"}) or ["amd64"]
    if len(native) > 1:
        raise StoreError(f"the packages of a toolchain are of one architecture, and these are of {', '.join(native)}")
    return native[0]


def _check_lost(lost: Sequence[Deb], known: Mapping[str, Sequence[str]]) -> None:
    without = [deb for deb in lost if deb.url is None]
    if without:
        shown = "".join(
            f"\n  {deb.package} {deb.version}: the mirrors have {', '.join(known[deb.package]) or 'none'}"
            for deb in without
        )
        raise StoreError(
            f"packages of the toolchain are not on this machine's mirrors now:{shown}",
            hint="mirrors keep only current versions: pin what they have with `reconciler packages toolchain NAME`, "
            "or give a package a `url` (of snapshot.debian.org)",
        )


def _quiet(_: str) -> None:
    pass


def _never() -> bool:
    return False
