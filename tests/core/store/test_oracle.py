"""The judge itself: what real Nix is asked after every test must go red when a store is not right."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.nix import nar
from reconciler.core.store.store import Store
from tests.core.nix.trees import TREE
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def change_a_byte(tree: Path) -> None:
    (tree / "a").chmod(0o644)
    (tree / "a").write_bytes(b"hellO\n")


def add_a_file(tree: Path) -> None:
    tree.chmod(0o755)
    (tree / "new").touch()


def lose_the_executable_bit(tree: Path) -> None:
    (tree / "run").chmod(0o444)


def lose_it_all(tree: Path) -> None:
    tree.parent.joinpath("elsewhere").mkdir()
    tree.chmod(0o755)
    os.rename(tree, tree.parent / "elsewhere/x")


def register_another_hash(tree: Path) -> None:
    connection = sqlite3.connect(tree.parents[1] / "var/nix/db/db.sqlite")
    connection.execute("update ValidPaths set hash = ? where path like '%-tree'", (f"sha256:{'0' * 64}",))
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "fault", [change_a_byte, add_a_file, lose_the_executable_bit, lose_it_all, register_another_hash]
)
def test_a_store_with_a_fault_is_not_let_pass(fault: Callable[[Path], None], store_root: Path, nix: RealNix) -> None:
    with Store.open(str(store_root), create=True) as store:
        real = Path(store.real(store.add_tree("tree", TREE)))
        store.add_tree("other", nar.File(b"x"))
    nix.verify()
    fault(real)
    with pytest.raises(AssertionError):
        nix.verify()


def test_a_run_that_fails_says_what_nix_said(nix: RealNix) -> None:
    with pytest.raises(AssertionError, match="is not in the Nix store"):
        nix.run("nix-store", "-q", "--references", "/etc/passwd")
