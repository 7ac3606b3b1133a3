"""The database as text: what real Nix prints of ours, we print; what either prints, both take."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.dump import dump_db, load_db, register_validity
from reconciler.core.store.store import Store
from reconciler.core.store.verify import verify
from tests.core.nix.trees import TREE, write
from tests.core.store import rot
from tests.core.store.test_exporting import populate
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


@pytest.fixture
def bare(store: Store, tmp_path: Path) -> Iterator[Store]:
    """The files of a populated store, of which nothing is registered."""
    populate(store)
    root = tmp_path / "bare"
    with Store.open(str(root), create=True) as opened:
        shutil.rmtree(opened.store_dir)
        shutil.copytree(store.store_dir, opened.store_dir, symlinks=True)
        yield opened


def dumped(store: Store) -> bytes:
    return b"".join(dump_db(store))


def test_our_dump_is_the_one_of_nix_byte_for_byte(store: Store, nix: RealNix) -> None:
    assert dumped(store) == nix.run("nix-store", "--dump-db").stdout == b""
    paths = populate(store)
    assert dumped(store) == nix.run("nix-store", "--dump-db").stdout
    some = [paths[2], paths[0]]
    assert b"".join(dump_db(store, some)) == nix.run("nix-store", "--dump-db", *map(str, some)).stdout


def test_a_dump_of_either_is_loaded_by_the_other(store: Store, bare: Store) -> None:
    text = dumped(store)
    assert len(load_db(bare, io.BytesIO(text))) == 5
    assert dumped(bare) == text
    assert verify(bare).findings == ()
    oracle = RealNix(bare.root)
    oracle.verify()
    bare.close()
    rot.change_database(
        bare.state_dir, *(f"delete from {table}" for table in ("Refs", "DerivationOutputs", "ValidPaths"))
    )
    oracle.run("nix-store", "--load-db", stdin=text)
    with Store.open(bare.root) as again:
        assert dumped(again) == text
        assert verify(again).findings == ()


def test_paths_whose_files_lie_there_are_hashed_and_registered(store: Store, nix: RealNix) -> None:
    path = store.add_text("leaf", b"1")
    more = StorePath.parse(f"{path}-more")
    write(TREE, Path(store.real(more)))
    assert register_validity(store, [f"{more}\n\n2\n{path}\n{more}\n".encode()]) == [more]
    assert store.info(more).references == (path, more)
    assert store.info(more).nar_hash == Hash.sha256(nar.encode(TREE))
    assert verify(store).findings == ()
    assert dumped(store) == nix.run("nix-store", "--dump-db").stdout
    nix.verify()


def test_what_is_valid_keeps_its_registration(store: Store) -> None:
    populate(store)
    before = list(store.rows())
    load_db(store, [dumped(store)])
    register_validity(store, [f"{before[0].path}\n\n0\n".encode()])
    assert list(store.rows()) == before


REFUSED = {
    "files that are not there": ("{top}-more\n{hash}\n120\n\n0\n", StoreError),
    "a reference that is not valid": (
        "{top}\n{hash}\n120\n\n1\n/nix/store/00000000000000000000000000000000-no\n",
        StoreError,
    ),
    "a size of nothing": ("{top}\n{hash}\n0\n\n0\n", FormatError),
    "cut short": ("{top}\n{hash}\n", FormatError),
    "no path": ("/etc/passwd\n{hash}\n120\n\n0\n", FormatError),
    "a count of 2^63": ("{top}\n{hash}\n120\n\n9223372036854775808\n", FormatError),
}


@pytest.mark.parametrize(("text", "error"), REFUSED.values(), ids=REFUSED.keys())
def test_a_wrong_text_is_refused_and_nothing_is_registered(
    text: str, error: type[Exception], store: Store, bare: Store
) -> None:
    top = next(str(row.path) for row in store.rows() if str(row.path).endswith("-top"))
    with pytest.raises(error):
        load_db(bare, [text.format(top=top, hash="0" * 64).encode()])
    assert list(bare.rows()) == []


def test_a_row_that_cannot_be_right_is_not_dumped(store: Store) -> None:
    store.add_text("x", b"1")
    rot.change_database(store.state_dir, "update ValidPaths set hash = 'rubbish'")
    with pytest.raises(FormatError, match="is no hash"):
        dumped(store)
