"""From recipes to derivations and from derivations to outputs, against real Nix on an expression that says the same.

The graphs are small enough to be compared whole: both sides make every .drv path, and every output, of the other
before anything is timed. Builds run in a sandbox on both sides, two at a time, and what they make is durable when it
is registered (`sync-before-registering = true`).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from reconciler.core.build.sandbox import TOOLCHAIN_PATHS
from reconciler.core.build.toolchain import host_system, host_toolchain
from tests.benchmarks import material, recipes
from tests.benchmarks.measure import Run, run
from tests.benchmarks.recipes import TOP, Written
from tests.benchmarks.store import CHILD, NIX, SOURCE, Case, Sides, empty_store, ours

DERIVATIONS = 2000
BUILDS = 40
JOBS = 2
AIM = 1.0

SANDBOX_PATHS = " ".join(path for path in TOOLCHAIN_PATHS if os.path.exists(path))
_NIX = {**NIX, "NIX_CONFIG": f"{NIX['NIX_CONFIG']}\nsandbox-paths = {SANDBOX_PATHS}"}


def nix(program: str, root: Path, *words: object) -> Run:
    return run([program, "--store", str(root), *map(str, words)], _NIX)


def expression(written: Written) -> tuple[object, ...]:
    return (
        *(written.expression, "-A", TOP),
        *("--argstr", "system", host_system(), "--argstr", "toolchain", host_toolchain()),
    )


# --- derivations ------------------------------------------------------------------------------------------------------


def instantiate(work: Path) -> Sides:
    written = recipes.write(work, recipes.many(DERIVATIONS))
    root = empty_store(work)
    return _compared(
        lambda one: our_instantiate(one, written),
        lambda one: nix("nix-instantiate", one, *expression(written)),
        root,
    )


def our_instantiate(root: Path, written: Written) -> Run:
    """A process with the project's libraries, which recipes are read by; else as all of ours."""
    argv = [sys.executable, "-I", CHILD, SOURCE, "instantiate", root, written.project, written.inventory, TOP]
    return run([str(word) for word in argv], {})


# --- builds -----------------------------------------------------------------------------------------------------------


def realise(work: Path) -> Sides:
    """What is built is in the store: nothing but the builds."""
    base = work / "base"
    written = recipes.write(work, recipes.builds(BUILDS))
    our_instantiate(base, written)
    (top,) = (f"/nix/store/{path.name}" for path in (base / "nix/store").glob(f"*-{TOP}-1.0.drv"))
    return _compared(
        lambda one: ours("realise", one, JOBS, top),
        lambda one: nix("nix-store", one, "--realise", f"-j{JOBS}", top),
        material.copies(base),
    )


def build(work: Path) -> Sides:
    """The whole command, from recipes or the expression to the output."""
    written = recipes.write(work, recipes.builds(BUILDS))
    return _compared(lambda one: our_build(one, written), lambda one: nix_build(one, written), empty_store(work))


def our_build(root: Path, written: Written) -> Run:
    argv = [sys.executable, "-m", "reconciler", "build", "-i", str(written.inventory), "-j", str(JOBS), TOP]
    places = {f"XDG_{kind}_HOME": str(written.project / kind) for kind in ("STATE", "CACHE")}
    # Without what somebody told Python for other work: an installed program has its bytecode.
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("RECONCILER_", "PYTHON"))}
    return run(argv, {**inherited, **places, "RECONCILER_STORE": str(root), "PYTHONPATH": str(SOURCE)})


def nix_build(root: Path, written: Written) -> Run:
    return nix("nix-build", root, "--no-out-link", f"-j{JOBS}", *expression(written))


def _compared(our_run: Callable[[Path], Run], their_run: Callable[[Path], Run], root: Callable[[], Path]) -> Sides:
    """Both sides, each time on another store that `root` makes, once they have been found to make the same."""
    our_root, their_root = root(), root()
    our_run(our_root)
    their_run(their_root)
    require_equal(our_root, their_root, "*-*")
    return Sides(lambda: our_run(root()), lambda: their_run(root()))


def require_equal(our_root: Path, their_root: Path, pattern: str) -> None:
    """End the run unless what matches `pattern` is the same store paths in both stores."""
    sides = [{path.name for path in (root / "nix/store").glob(pattern)} for root in (our_root, their_root)]
    if sides[0] != sides[1]:
        names = sorted(sides[0] ^ sides[1])
        sys.exit(f"not the same work: {len(names)} store paths are made by one side alone, as {names[0]}")


CASES = {
    "instantiate": Case(f"instantiate a graph of {DERIVATIONS:,} derivations", "nix-instantiate", instantiate, aim=AIM),
    "realise": Case(f"{BUILDS} small builds, {JOBS} at a time", f"nix-store --realise -j{JOBS}", realise, aim=AIM),
    "build": Case("`reconciler build` of the same from recipes", f"nix-build -j{JOBS}", build, aim=AIM),
}
