"""Random graphs of derivations: every .drv file and every output path, equal to real Nix's.

Each graph has a seed of its own, which a failure names: `random_graph(SEED)` makes it again.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.nix import store_path
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import replace
from tests.differential.graphs import Built, Graph, build, random_graph, write_expression
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def check(first: int, count: int, nix: RealNix, folder: Path) -> list[Built]:
    """Let Nix instantiate some graphs, and compare every file and path of each with ours."""
    folder.mkdir()
    graphs = [random_graph(f"graph {number}") for number in range(first, first + count)]
    nix.run("nix-instantiate", write_expression(graphs, folder))
    builds = [build(graph) for graph in graphs]
    store = nix.root / "nix/store"
    for graph, built in zip(graphs, builds, strict=True):
        _compare(graph, built, store)
    ours = {path.base_name for built in builds for path in built.derivations}
    theirs = {path.name for path in store.glob("*.drv")}
    assert theirs == ours, f"graphs {first} to {first + count}"
    return builds


def _compare(graph: Graph, built: Built, store: Path) -> None:
    for source in built.sources:
        assert os.path.lexists(store / source.base_name) or not _used(built, source), graph.seed
    for number, path in enumerate(built.order):
        where = f"{graph.seed}, derivation {number}: {path}"
        file = store / path.base_name
        assert file.exists(), f"{where}: Nix made no such file"
        data = file.read_bytes()
        assert built.derivations[path].serialise() == data, where
        assert Derivation.parse(data) == _read_form(built.derivations[path]), where


def _used(built: Built, source: StorePath) -> bool:
    return any(source in drv.input_sources for drv in built.derivations.values())


def _read_form(drv: Derivation) -> Derivation:
    """The same value as it is read: mappings keep no order, but inputs name their outputs in order."""
    return replace(drv, input_derivations={path: tuple(sorted(names)) for path, names in drv.input_derivations.items()})


def merged(builds: list[Built]) -> int:
    """How many derivations have two inputs whose outputs are the same: they are merged in the hash."""
    count = 0
    for built in builds:
        for drv in built.derivations.values():
            paths = [built.derivations[path].output_paths() for path in drv.input_derivations]
            count += len({tuple(sorted(found.items())) for found in paths}) < len(paths)
    return count


def test_nix_agrees_on_every_file_and_path_of_60_random_graphs(nix: RealNix, tmp_path: Path) -> None:
    builds = check(0, 60, nix, tmp_path / "expressions")
    assert merged(builds) >= 5
    nix.verify()


def test_a_difference_would_be_seen_and_name_the_seed(
    nix: RealNix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control: with the digest cut off instead of folded, the first graph is named."""
    monkeypatch.setattr(store_path, "compress", lambda digest: digest[:20])
    with pytest.raises(AssertionError, match="graph 0"):
        check(0, 3, nix, tmp_path / "expressions")


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 300, 60))
def test_nix_agrees_on_300_random_graphs(first: int, nix: RealNix, tmp_path: Path) -> None:
    builds = check(10_000 + first, 60, nix, tmp_path / "expressions")
    assert merged(builds) >= 5
    nix.verify()
