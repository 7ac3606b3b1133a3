"""What the benchmarks time of ours does what Nix's command does: each verb once, on little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.exporting import export_paths
from reconciler.core.store.store import Store
from tests.benchmarks import material
from tests.benchmarks.child import VERBS
from tests.benchmarks.store import CHILD, SOURCE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def ours(verb: str, *arguments: object, stdin: bytes = b"") -> bytes:
    command = [sys.executable, "-I", "-S", str(CHILD), str(SOURCE), verb, *map(str, arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False, env={}, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert int(done.stderr.rpartition(b"peak ")[2]) > 1000
    return done.stdout


def test_dump_restore_and_hash_are_those_of_nix(nix: RealNix, tmp_path: Path) -> None:
    tree = material.tree(tmp_path / "tree", 50, 10**6)
    archive = ours("dump", tree)
    assert archive == nix.run("nix-store", "--dump", tree).stdout
    ours("restore", tmp_path / "out", stdin=archive)
    assert nar.hash_path(str(tmp_path / "out")) == nar.hash_path(str(tree))
    assert ours("hash_tree", tree).decode().strip() == nix.output("nix-hash", "--type", "sha256", tree)


def test_what_is_added_and_imported_is_what_nix_adds(nix: RealNix, tmp_path: Path) -> None:
    files = material.small_files(tmp_path / "files", 5)
    theirs = nix.output("nix-store", "--add", *sorted(files.iterdir()))
    assert ours("add", tmp_path / "ours", files).decode().split() == theirs.split()
    stream = bytearray()
    with Store.open(str(tmp_path / "ours")) as store:
        export_paths(store, store.closure(store.valid(map(StorePath.parse, theirs.split()))), stream.extend)
    assert sorted(ours("import_stream", tmp_path / "imported", stdin=bytes(stream)).decode().split()) == sorted(
        theirs.split()
    )
    RealNix(tmp_path / "imported").verify()


def test_closure_collection_and_environment_work_on_the_stores_made_for_them(tmp_path: Path, nix: RealNix) -> None:
    top = material.graph(nix.root, 30)
    assert sorted(ours("closure", nix.root, top).decode().split()) == sorted(
        nix.output("nix-store", "-qR", str(top)).split()
    )
    assert int(ours("collect", nix.root)) > 0
    paths = material.packages(nix.root, 3)
    (tmp_path / "listing").write_text("\n".join(map(str, paths)))
    made = ours("environment", nix.root, tmp_path / "listing").decode().strip()
    assert made == nix.output("nix-store", "-q", "--outputs", nix.output("nix-store", "-q", "--deriver", made))
    nix.verify()


def test_no_verb_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [verb for verb in VERBS if f'ours("{verb}"' not in text] == []
    assert ours("start") == b""
