"""Export streams: real Nix imports ours, we import real Nix's, and hostile ones are refused within bounds."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, ReconcilerError, StoreError
from reconciler.core.nix import derivation, export, nar
from reconciler.core.nix.derivation import Derivation, Output
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import exporting
from reconciler.core.store.exporting import export_paths, import_paths
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.store.verify import verify
from tests.core.nix.trees import TREE
from tests.core.store import rot
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Store]:
    """A second, empty store."""
    with Store.open(str(tmp_path / "other"), create=True) as opened:
        yield opened


def populate(store: Store) -> list[StorePath]:
    """Texts, a tree, a derivation, and a path with a deriver that refers to itself."""
    leaf = store.add_text("leaf", b"1")
    tree = store.add_tree("tree", TREE)
    top = store.add_text("top", b"2", [leaf, tree])
    plain = Derivation({"out": Output(None)}, {}, (leaf,), "x86_64-linux", "/bin/sh", (), {"name": "x"})
    drv = derivation.with_outputs(plain, "x", store.read_derivation)
    drv_path = store.write_derivation(drv, "x")
    out = drv.output_paths()["out"]
    data = nar.encode(nar.File(f"{out} {leaf}".encode()))
    store.add_nar(PathInfo(out, Hash.sha256(data), len(data), (leaf, out), deriver=drv_path), io.BytesIO(data))
    return store.closure([top, drv_path, out])


def exported(store: Store, paths: list[StorePath]) -> bytes:
    stream = io.BytesIO()
    export_paths(store, paths, stream.write)
    return stream.getvalue()


def told(store: Store) -> list[tuple[object, ...]]:
    infos = [row.info() for row in store.rows()]
    return [(info.path, info.nar_hash, info.nar_size, info.references, info.deriver) for info in infos]


# --- both ways --------------------------------------------------------------------------------------------------------


def test_our_stream_is_the_one_of_nix_byte_for_byte(store: Store, nix: RealNix) -> None:
    paths = populate(store)
    theirs = nix.run("nix-store", "--export", *map(str, reversed(paths))).stdout
    assert exported(store, paths) == theirs
    assert exported(store, paths[-1:]) == nix.run("nix-store", "--export", str(paths[-1])).stdout


def test_any_choice_of_paths_comes_in_the_order_of_nix(store: Store, nix: RealNix) -> None:
    """The order follows from the references among those that are wanted, and not from what lies between them."""
    with store.batch() as batch:
        paths = [batch.add_text("leaf", b"")]
        for number in range(14):
            paths.append(batch.add_text(f"n{number}", b"", {paths[number // 2], paths[number // 3], paths[-1]}))
    for step in (1, 2, 3, 5):
        some = paths[::step]
        assert exported(store, some) == nix.run("nix-store", "--export", *map(str, some)).stdout


def test_nix_imports_our_stream(store: Store, other: Store, nix: RealNix) -> None:
    paths = populate(store)
    oracle = RealNix(other.root)
    said = oracle.run("nix-store", "--import", stdin=exported(store, paths)).stdout.decode().split()
    assert said == [str(path) for path in paths]
    assert told(other) == told(store)
    oracle.verify()
    nix.verify()


def test_we_import_the_stream_of_nix(store: Store, other: Store, nix: RealNix) -> None:
    paths = populate(store)
    stream = io.BytesIO(nix.run("nix-store", "--export", *map(str, paths)).stdout)
    assert import_paths(other, stream) == paths
    assert told(other) == told(store)
    assert verify(other).findings == ()
    RealNix(other.root).verify()


def test_what_is_there_is_passed_over(store: Store, other: Store) -> None:
    paths = populate(store)
    data = exported(store, paths)
    import_paths(other, io.BytesIO(exported(store, paths[:2])))
    inode = os.lstat(other.real(paths[0])).st_ino
    assert import_paths(other, io.BytesIO(data)) == paths
    assert import_paths(other, io.BytesIO(data)) == paths
    assert os.lstat(other.real(paths[0])).st_ino == inode
    RealNix(other.root).verify()


def test_a_stream_of_nothing_adds_nothing(other: Store) -> None:
    assert import_paths(other, io.BytesIO(export.END)) == []


def test_more_paths_than_become_valid_at_once(store: Store, other: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporting, "_AT_ONCE", 7)
    with store.batch() as batch:
        paths = [batch.add_text("leaf", b"")]
        for number in range(30):
            paths.append(batch.add_text(f"n{number}", b"", paths[-3:]))
    closure = store.closure(paths)
    assert import_paths(other, io.BytesIO(exported(store, paths))) == closure
    RealNix(other.root).verify()


def test_a_path_that_has_rotted_is_not_exported(store: Store) -> None:
    tree = store.add_tree("tree", TREE)
    rot.flip_a_bit(Path(store.real(tree)))
    stream = io.BytesIO()
    with pytest.raises(StoreError, match=f"{tree}: its contents have changed"):
        export_paths(store, [tree], stream.write)
    with Store.open(f"{store.root}/second", create=True) as second, pytest.raises(FormatError, match="cut short"):
        import_paths(second, io.BytesIO(stream.getvalue()))


def test_a_path_that_is_not_valid_is_not_exported(store: Store) -> None:
    with pytest.raises(StoreError, match="is not valid"):
        exported(store, [StorePath("0" * 32, "absent")])


# --- hostile ----------------------------------------------------------------------------------------------------------

LEAF = StorePath("0" * 32, "leaf")
TOP = StorePath("1" * 32, "top")
BODY = nar.encode(nar.File(b"x"))
ONE = export.PATH + BODY + export.trailer(LEAF, (), None)


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def with_count(count: int) -> bytes:
    """A trailer that says it has so many references."""
    return export.trailer(LEAF, (), None).replace(number(0), number(count), 1)


def named(path: str) -> bytes:
    return number(export.TRAILER) + nar_string(path) + number(0) + nar_string("") + number(0)


def nar_string(text: str) -> bytes:
    return number(len(text)) + text.encode() + bytes(-len(text) % 8)


HOSTILE: dict[str, bytes] = {
    "a number that is neither 0 nor 1": number(2) + ONE[8:],
    "2^63 as a number": number(2**63) + ONE[8:],
    "no archive": export.PATH + b"x" * 200,
    "another magic": export.PATH + BODY + number(0x4558494F) + export.trailer(LEAF, (), None)[8:],
    "2^63 references": export.PATH + BODY + with_count(2**63),
    "2^40 references": export.PATH + BODY + with_count(2**40) + bytes(1000),
    "a path of 2^63 bytes": export.PATH + BODY + number(export.TRAILER) + number(2**63),
    "an archive of 2^63 bytes": export.PATH + BODY[:-40] + number(2**63) + b"x" * 100,
    "a path outside": export.PATH + BODY + named("/etc/passwd"),
    "a path that leads out": export.PATH + BODY + named("/nix/store/../../etc/passwd"),
    "a path below a path": export.PATH + BODY + named(f"{LEAF}/below"),
    "no name": export.PATH + BODY + named(""),
    "not a closure": export.PATH + BODY + export.trailer(TOP, (LEAF,), None) + export.END,
    "referrers first": export.PATH + BODY + export.trailer(TOP, (LEAF,), None) + ONE + export.END,
    "a derivation that is none": export.PATH
    + BODY
    + export.trailer(StorePath("0" * 32, "x.drv"), (), None)
    + export.END,
    "no end": ONE,
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_stream_is_refused_and_nothing_is_registered(data: bytes, other: Store, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises((FormatError, StoreError)):
        import_paths(other, io.BytesIO(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 20_000_000
    assert list(other.rows()) == []
    other.close()
    RealNix(other.root).run("nix-store", "--gc")
    assert os.listdir(other.store_dir) == [".links"]
    assert {entry.name for entry in tmp_path.iterdir()} <= {"other", "other.home", "root", "root.home"}


def test_a_stream_cut_at_any_byte_is_refused(store: Store, other: Store) -> None:
    data = exported(store, populate(store)[:2])
    for at in range(0, len(data), 3):
        with pytest.raises(ReconcilerError, match="cut short"):
            import_paths(other, io.BytesIO(data[:at]))
    assert list(other.rows()) == []
    assert len(import_paths(other, io.BytesIO(data))) == 2


def test_memory_does_not_grow_with_an_archive(store: Store, other: Store, tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        file.truncate(40_000_000)
    path = store.add_path("large", str(tmp_path / "large"))
    with open(tmp_path / "stream", "wb") as stream:
        export_paths(store, [path], stream.write)
    with open(tmp_path / "stream", "rb") as stream:
        tracemalloc.start()
        import_paths(other, stream)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 6_000_000
    assert other.info(path).nar_hash == store.info(path).nar_hash
