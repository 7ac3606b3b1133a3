"""The store against real Nix at equal durability: whole processes on both sides, by turns.

Nix runs with `sync-before-registering = true`: it then promises what we always promise, that what is registered is on
the disk. What neither makes durable (an unpacked tree that is nobody's store path) is durable on neither side.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import material
from tests.benchmarks.measure import Comparison, Run, compare, run

SOURCE = Path(__file__).parents[2]
CHILD = Path(__file__).with_name("child.py")
ROUNDS = 5
AIM = 1.5

NIX = {
    **{key: value for key, value in os.environ.items() if not key.startswith("NIX_")},
    "NIX_CONFIG": "sync-before-registering = true\nsubstitute = false\nsandbox = true\nbuild-users-group =",
    "LC_ALL": "C.UTF-8",
}


@dataclass(frozen=True)
class Sides:
    """Both sides of a comparison; each makes ready what it needs before the clock runs."""

    ours: Callable[[], Run]
    theirs: Callable[[], Run]


@dataclass(frozen=True)
class Case:
    title: str
    command: str
    prepare: Callable[[Path], Sides]
    rounds: int = ROUNDS
    aim: float = AIM


def ours(verb: str, *arguments: object, stdin: Path | None = None) -> Run:
    argv = [sys.executable, "-I", "-S", str(CHILD), str(SOURCE), verb, *map(str, arguments)]
    return run(argv, {}, stdin)


def nix(*words: object, stdin: Path | None = None) -> Run:
    return run([str(word) for word in words], NIX, stdin)


# --- archives ---------------------------------------------------------------------------------------------------------


def dump(work: Path) -> Sides:
    tree = _tree(work)
    return Sides(lambda: ours("dump", tree), lambda: nix("nix-store", "--dump", tree))


def restore(work: Path) -> Sides:
    from reconciler.core.nix import nar

    archive, out = work / "archive.nar", material.fresh(work, "out")
    with archive.open("wb") as file:
        file.writelines(nar.dump(str(_tree(work))))
    return Sides(
        lambda: ours("restore", out(), stdin=archive),
        lambda: nix("nix-store", "--restore", out(), stdin=archive),
    )


def hash_tree(work: Path) -> Sides:
    tree = _tree(work)
    return Sides(lambda: ours("hash_tree", tree), lambda: nix("nix-hash", "--type", "sha256", tree))


def _tree(work: Path) -> Path:
    return material.tree(work / "tree", 5000, 200 * 10**6)


# --- adding -----------------------------------------------------------------------------------------------------------


def add(work: Path) -> Sides:
    files = material.small_files(work / "files", 10_000)
    names = sorted(files.iterdir())
    root = empty_store(work)
    return Sides(
        lambda: ours("add", root(), files),
        lambda: nix("nix-store", "--store", root(), "--add", *names),
    )


def import_stream(work: Path) -> Sides:
    from reconciler.core.store.exporting import export_paths
    from reconciler.core.store.store import Store

    files = material.small_files(work / "files", 10_000)
    stream = work / "stream"
    with Store.open(str(work / "source"), create=True) as store, stream.open("wb") as file:
        with store.batch() as batch:
            paths = [batch.add_path(each.name, str(each)) for each in sorted(files.iterdir())]
        export_paths(store, paths, file.write)
    root = empty_store(work)
    return Sides(
        lambda: ours("import_stream", root(), stdin=stream),
        lambda: nix("nix-store", "--store", root(), "--import", stdin=stream),
    )


def empty_store(work: Path) -> Callable[[], Path]:
    """Each time the root of another empty store, which Nix made."""
    target = material.fresh(work, "root")

    def root() -> Path:
        made = target()
        nix("nix-store", "--store", made, "--verify")
        os.sync()
        return made

    return root


# --- questions, garbage, environments ---------------------------------------------------------------------------------


def closure(work: Path) -> Sides:
    root = work / "root"
    top = material.graph(root, 5000)
    return Sides(lambda: ours("closure", root, top), lambda: nix("nix-store", "--store", root, "-qR", top))


def collect(work: Path) -> Sides:
    base = work / "base"
    material.graph(base, 5000)
    root = material.copies(base)
    return Sides(lambda: ours("collect", root()), lambda: nix("nix-store", "--store", root(), "--gc"))


def environment(work: Path) -> Sides:
    base, listing = work / "base", work / "listing"
    paths = material.packages(base, 160)
    listing.write_text("\n".join(map(str, paths)))
    root, profile = material.copies(base), material.fresh(work, "profile")
    return Sides(
        lambda: ours("environment", root(), listing),
        lambda: nix("nix-env", "--store", root(), "-p", profile(), "-ir", *paths),
    )


CASES = {
    "dump": Case("dump of a tree of 5,000 files, 200 MB", "nix-store --dump", dump),
    "restore": Case("restore of its archive", "nix-store --restore", restore),
    "hash": Case("hash of the tree", "nix-hash --type sha256", hash_tree),
    "add": Case("add of 10,000 small files", "nix-store --add", add, rounds=3),
    "import": Case("import of an export stream of 10,000 small paths", "nix-store --import", import_stream, rounds=3),
    "closure": Case("closure query of 5,000 paths", "nix-store -qR", closure),
    "gc": Case("collection of 5,000 dead paths", "nix-store --gc", collect),
    "environment": Case("user environment of 160 packages", "nix-env -ir", environment),
}


def rows(scratch: Path, cases: Iterable[Case] = tuple(CASES.values())) -> list[str]:
    """The lines of a table. The last column takes from ours what `start` takes, the interpreter and its imports."""
    start = min(ours("start").wall for _ in range(10))
    made = [
        f"Start of ours, in each of its times: {start:.2f} s.\n",
        "| what; Nix's command | ours, median (least) | Nix | ratio | of the least | without our start | our peak |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases:
        with material.disk(scratch) as work:
            sides = case.prepare(work)
            made.append(_row(case, compare(sides.ours, sides.theirs, case.rounds), start))
        print(made[-1], file=sys.stderr, flush=True)
    return made


def _row(case: Case, found: Comparison, start: float) -> str:
    least = found.our_least / found.their_least
    missed = " (aim missed)" if found.ratio > case.aim else ""
    return (
        f"| {case.title}; `{case.command}` | {found.ours:.2f} s ({found.our_least:.2f}) "
        f"| {found.theirs:.2f} s ({found.their_least:.2f}) | {found.ratio:.2f}{missed} | {least:.2f} "
        f"| {(found.our_least - start) / found.their_least:.2f} | {found.peak:.0f} MiB |"
    )
