"""Archives: golden bytes, round trips judged by real Nix, and everything that the reader must refuse."""

from __future__ import annotations

import io
import os
import re
import socket
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.nix import nar, nar_format
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.nar_format import ENTRY, MAGIC, NODE, string
from tests.conftest import make_writable
from tests.core.nix.trees import TREES, golden, write
from tests.oracle import program


def unpack(data: bytes, parent: Path, name: str = "x") -> Path:
    fd = os.open(parent, os.O_RDONLY)
    try:
        nar.restore(io.BytesIO(data), fd, name)
    finally:
        os.close(fd)
    return parent / name


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "in"
    path.mkdir()
    yield path
    make_writable(path)


# --- right archives ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_a_tree_in_memory_has_the_archive_that_nix_dumps(name: str) -> None:
    assert nar.encode(TREES[name]) == golden(name)
    assert nar.decode(golden(name)) == TREES[name]


@pytest.mark.parametrize("name", TREES)
def test_files_have_the_archive_that_nix_dumps(name: str, directory: Path) -> None:
    write(TREES[name], directory / "x")
    assert b"".join(nar.dump(str(directory / "x"))) == golden(name)


@pytest.mark.nix
@pytest.mark.parametrize("name", TREES)
def test_nix_dumps_the_golden_archive_of_what_we_unpack(name: str, directory: Path) -> None:
    path = unpack(golden(name), directory)
    dumped = subprocess.run([program("nix-store"), "--dump", path], capture_output=True, check=True)
    assert dumped.stdout == golden(name)


def test_what_is_unpacked_has_the_canonical_form(directory: Path) -> None:
    old = os.umask(0o077)
    try:
        top = unpack(golden("tree"), directory)
    finally:
        os.umask(old)
    for path in [top, *top.rglob("*")]:
        status = path.lstat()
        assert status.st_mtime_ns == 1_000_000_000
        assert (status.st_uid, status.st_gid) == (os.geteuid(), os.getegid())
        if not path.is_symlink():
            executable = path.is_dir() or path.name == "run"
            assert stat.S_IMODE(status.st_mode) == (0o555 if executable else 0o444)


NAMES = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda name: name not in (".", "..")
)
NODES = st.recursive(
    st.builds(nar.File, st.binary(max_size=40), st.booleans()) | st.builds(nar.Link, NAMES),
    lambda inner: st.builds(nar.Directory, st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node=NODES)
def test_every_tree_comes_back_from_its_archive_and_from_disk(node: nar.Node, directory: Path) -> None:
    data = nar.encode(node)
    assert nar.decode(data) == node
    name = f"x{len(os.listdir(directory))}"
    path = unpack(data, directory, name)
    assert b"".join(nar.dump(str(path))) == data
    assert nar.hash_path(str(path)) == (Hash.sha256(data), len(data))


@pytest.mark.nix
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(node=NODES)
def test_nix_dumps_the_same_archive_of_any_tree(node: nar.Node, directory: Path) -> None:
    path = unpack(nar.encode(node), directory, f"x{len(os.listdir(directory))}")
    assert subprocess.run([program("nix-store"), "--dump", path], capture_output=True, check=True).stdout == nar.encode(
        node
    )


@pytest.mark.parametrize("size", [0, 1, 7, 8, nar.CHUNK - 97, nar.CHUNK - 96, nar.CHUNK, nar.CHUNK + 1, 3 * nar.CHUNK])
def test_files_of_all_sizes_pass_in_chunks(size: int, directory: Path) -> None:
    contents = os.urandom(size)
    (directory / "f").write_bytes(contents)
    chunks = list(nar.dump(str(directory / "f")))
    assert b"".join(chunks) == nar.encode(nar.File(contents))
    assert all(0 < len(chunk) <= nar.CHUNK for chunk in chunks)
    assert unpack(b"".join(chunks), directory).read_bytes() == contents


@pytest.mark.parametrize("step", [1, 3, 64, 1000])
def test_a_stream_that_gives_few_bytes_at_a_time_is_read(step: int, directory: Path) -> None:
    data = golden("tree")
    fd = os.open(directory, os.O_RDONLY)
    try:
        chunks = (data[at : at + step] for at in range(0, len(data), step))
        assert nar.restore(nar.ChunkReader(chunks), fd, "x") == len(data)
    finally:
        os.close(fd)
    assert b"".join(nar.dump(str(directory / "x"))) == data


def test_bytes_after_the_archive_are_not_counted(directory: Path) -> None:
    fd = os.open(directory, os.O_RDONLY)
    try:
        assert nar.restore(io.BytesIO(golden("hello") + b"rest"), fd, "x") == len(golden("hello"))
    finally:
        os.close(fd)
    with pytest.raises(FormatError, match="bytes after its end"):
        nar.decode(golden("hello") + b"rest")


def test_a_flat_file_is_archived_without_its_executable_bit(directory: Path) -> None:
    write(nar.File(b"hello\n", executable=True), directory / "f")
    (directory / "link").symlink_to("f")
    assert b"".join(nar.flat(str(directory / "link"))) == golden("hello")


# --- the limits -------------------------------------------------------------------------------------------------------


def nested(levels: int, leaf: nar.Node) -> nar.Node:
    node = leaf
    for _ in range(levels):
        node = nar.Directory({"d": node})
    return node


def raw_nested(levels: int) -> Iterator[bytes]:
    yield MAGIC
    for _ in range(levels):
        yield nar_format.DIRECTORY + ENTRY + string(b"d") + NODE


def test_the_limits_are_those_at_the_head_of_the_format() -> None:
    told = re.search(
        r"a name has at most (\d+) bytes, a target 1 to (\d+) without NUL, a node at most (\d+) directories",
        (nar_format.__doc__ or "").replace("\n", " "),
    )
    assert told is not None
    assert tuple(map(int, told.groups())) == (nar.MAX_NAME, nar.MAX_TARGET, nar.MAX_DEPTH - 1)


def test_63_directories_may_stand_above_a_node_and_64_may_not(directory: Path) -> None:
    deepest = nested(63, nar.File(b"x"))
    path = unpack(nar.encode(deepest), directory)
    assert nar.decode(b"".join(nar.dump(str(path)))) == deepest
    with pytest.raises(FormatError, match="nested deeper than 63"):
        nar.encode(nested(64, nar.File(b"x")))
    with pytest.raises(FormatError, match="nested deeper than 63"):
        unpack(b"".join(raw_nested(65)), directory, "y")


def test_files_that_lie_too_deep_are_not_dumped(directory: Path) -> None:
    (directory / "/".join("d" * 64)).mkdir(parents=True)
    with pytest.raises(StoreError, match="nested deeper than 63"):
        list(nar.dump(str(directory)))


def test_the_longest_names_and_targets_pass(directory: Path) -> None:
    tree = nar.Directory({"n" * 255: nar.Link("t" * 4095)})
    path = unpack(nar.encode(tree), directory)
    assert nar.decode(b"".join(nar.dump(str(path)))) == tree


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/", "a\0", "n" * 256, "ä" * 128])
def test_names_that_cannot_be_are_not_encoded(name: str) -> None:
    with pytest.raises(FormatError, match="cannot name an entry"):
        nar.encode(nar.Directory({name: nar.File(b"")}))


@pytest.mark.parametrize("target", ["", "a\0b", "t" * 4096])
def test_targets_that_cannot_be_are_not_encoded(target: str) -> None:
    with pytest.raises(FormatError, match="cannot be archived"):
        nar.encode(nar.Link(target))


# --- wrong archives (more: test_hostile_archives) ---------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, len(golden("tree")) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_changes_the_archive_that_is_read(at: int, bit: int) -> None:
    data = bytearray(golden("tree"))
    data[at] ^= 1 << bit
    try:
        node = nar.decode(bytes(data))
    except FormatError:
        return
    assert nar.encode(node) == bytes(data)


@pytest.mark.parametrize("there", ["file", "directory", "link"])
def test_what_is_there_is_never_replaced(there: str, directory: Path) -> None:
    outside = directory / "outside"
    outside.mkdir()
    if there == "file":
        (directory / "x").write_text("kept")
    elif there == "directory":
        (directory / "x").mkdir()
    else:
        (directory / "x").symlink_to("outside")
    for name in TREES:
        with pytest.raises(FileExistsError):
            unpack(golden(name), directory)
    assert not list(outside.iterdir())
    assert there != "file" or (directory / "x").read_text() == "kept"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_an_archive_is_unpacked_only_as_an_entry(name: str, directory: Path) -> None:
    with pytest.raises(FormatError, match="cannot name an entry"):
        unpack(golden("hello"), directory, name)


def test_fifos_and_sockets_are_not_dumped(directory: Path) -> None:
    os.mkfifo(directory / "fifo")
    with pytest.raises(StoreError, match="'fifo': neither file, link nor directory"):
        list(nar.dump(str(directory)))
    (directory / "fifo").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(directory / "socket"))
        with pytest.raises(StoreError, match="'socket': neither file, link nor directory"):
            list(nar.dump(str(directory)))


def test_a_file_that_shrinks_while_it_is_read_is_noticed(directory: Path) -> None:
    big = directory / "big"
    big.write_bytes(bytes(3 * nar.CHUNK))
    chunks = nar.dump(str(big))
    next(chunks)
    os.truncate(big, 10)
    with pytest.raises(StoreError, match="changed while it was read"):
        list(chunks)
