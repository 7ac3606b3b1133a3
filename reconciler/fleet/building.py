"""build: packages made in the controller's store; made twice, when asked, and compared."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

from reconciler.core.build.events import BuildOptions
from reconciler.core.build.realise import realise
from reconciler.core.errors import ReconcilerError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.fleet.choosing import TARGET, Makers
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.events import Observer
from reconciler.fleet.places import require_builders, require_place
from reconciler.fleet.pool import Pool
from reconciler.fleet.project import Project
from reconciler.packages.model import Package


@dataclass(frozen=True)
class BuildRequest:
    """What to build: references, for a system; how many at a time; whether to leave a failed build's directory, and
    whether to build a second time and compare; on which host of the inventory, where that is not this controller.
    `jobs` is None for one build a CPU of whoever builds."""

    references: tuple[str, ...]
    system: str
    jobs: int | None = None
    keep_failed: bool = False
    check: bool = False
    build_on: str = ""

    def __post_init__(self) -> None:
        if self.build_on == TARGET:
            raise UsageError("--build-on target: no host is deployed to here", "--build-on HOST names one that builds")


@dataclass(frozen=True)
class Difference:
    """An output that came out otherwise the second time: the files that differ, relative to it."""

    output: StorePath
    files: tuple[str, ...]


@dataclass(frozen=True)
class Built:
    """One package: `built` whether it was built now, `differences` of a second build; None where there was none."""

    reference: str
    package: Package
    built: bool
    differences: tuple[Difference, ...] | None = None


def build(project: Project, request: BuildRequest, observer: Observer) -> tuple[Built, ...]:
    """Make packages valid in the controller's store. BuildError when one fails; all others are made before."""
    packages = [project.resolver.resolve(reference, request.system) for reference in request.references]
    if request.check:
        _require_derivations(request, packages)
    require_place(project.inventory, request.build_on)
    limits = project.settings.builds
    require_builders(project, request.build_on, ())
    with project.open_store() as store, _pool(project, request, observer) as pool:
        jobs = request.jobs or os.cpu_count() or 1
        workshop = Workshop(store, project.resolver, observer, jobs, request.keep_failed, limits=limits, pool=pool)
        done = set(workshop.build(packages))
        if request.check:
            # Also those that a cache had: only what is built here can be compared.
            workshop.instantiate_packages(packages)
        return tuple(
            Built(
                reference,
                package,
                package.derivation in done,
                _again(store, package, observer, pool) if request.check else None,
            )
            for reference, package in zip(request.references, packages, strict=True)
        )


def _pool(project: Project, request: BuildRequest, observer: Observer) -> Pool:
    makers = Makers.of(project.inventory, project.settings)
    return Pool(
        project, makers, observer, otherwise=request.build_on, jobs=request.jobs, keep_failed=request.keep_failed
    )


def _require_derivations(request: BuildRequest, packages: Sequence[Package]) -> None:
    for reference, package in zip(request.references, packages, strict=True):
        if package.derivation is None:
            raise UsageError(
                f"{reference} is not built but fetched: there is nothing to build twice", "--check is for recipes"
            )


def _again(store: Store, package: Package, observer: Observer, pool: Pool) -> tuple[Difference, ...]:
    """Build one package a second time, in a store of its own that holds its inputs, and compare."""
    assert package.derivation is not None
    with (
        tempfile.TemporaryDirectory(prefix="reconciler-check-", ignore_cleanup_errors=True) as scratch,
        Store.open(scratch, create=True) as second,
    ):
        _copy_inputs(store, second, package.derivation)
        options = BuildOptions(
            limits=pool.project.settings.builds,
            machine=pool.makers.controller.machine,
            on_event=lambda event: observer.building("again", event),
        )
        realise(second, [package.derivation], options)
        found = [
            Difference(output, tuple(_differing(store.real(output), second.real(output))))
            for output in package.outputs.values()
            if second.info(output).nar_hash != store.info(output).nar_hash
        ]
        _make_removable(scratch)
        return tuple(found)


def _copy_inputs(store: Store, second: Store, derivation: StorePath) -> None:
    drv = store.read_derivation(derivation)
    wanted = [derivation]
    for path, names in drv.input_derivations.items():
        outputs = store.derivation_outputs(path)
        wanted += [outputs[name] for name in names]
    with second.batch() as batch:
        for path in store.closure(wanted):
            batch.add_nar(store.info(path), nar.ChunkReader(store.nar(path)))


def _differing(one: str, other: str) -> list[str]:
    """The files below `one` and `other` that are not the same, in order."""
    names = sorted(_files(one) | _files(other))
    return [name for name in names if _hash(one, name) != _hash(other, name)]


def _files(top: str) -> set[str]:
    if os.path.islink(top) or not os.path.isdir(top):
        return {"."}
    found: set[str] = set()
    for directory, folders, files in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(directory, name))]
        found.update(os.path.relpath(os.path.join(directory, name), top) for name in (*files, *links))
    return found


def _hash(top: str, name: str) -> object:
    try:
        return nar.hash_path(os.path.normpath(os.path.join(top, name)))
    except (OSError, ReconcilerError):
        return None


def _make_removable(top: str) -> None:
    for directory, _, _ in os.walk(top):
        os.chmod(directory, 0o700)
