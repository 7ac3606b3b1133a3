"""Archives that must be refused (tests/golden/hostile/nar): nothing written outside, no recursion, memory bounded."""

from __future__ import annotations

import io
import os
import subprocess
import tracemalloc
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar, nar_format
from reconciler.core.nix.export import Exports
from reconciler.core.nix.nar_format import CLOSE, DIRECTORY, ENTRY, MAGIC, NODE, REGULAR, Reader, string
from tests.conftest import make_writable
from tests.core.nix import hostile
from tests.core.nix.hostile import Row
from tests.core.nix.trees import golden
from tests.oracle import program

ROWS = hostile.rows()
# Two buffers of a reader, and what the interpreter needs around them.
MEMORY = 8 * nar.CHUNK


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "in"
    (path / "outside").mkdir(parents=True)
    yield path
    make_writable(path)


def unpack(stream: Reader, parent: Path) -> None:
    fd = os.open(parent, os.O_RDONLY)
    try:
        nar.restore(stream, fd, "x")
    finally:
        os.close(fd)


def refused(chunks: Iterable[bytes], directory: Path, told: str) -> None:
    """Refused with these words, whoever reads it; nothing outside of the new entry; memory bounded."""
    open_before = len(os.listdir("/proc/self/fd"))
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="bad archive") as caught:
            unpack(nar.ChunkReader(chunks), directory)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert told in caught.value.message
    assert peak < MEMORY
    assert not list((directory / "outside").iterdir())
    assert set(os.listdir(directory)) <= {"outside", "x"}
    assert len(os.listdir("/proc/self/fd")) == open_before


def test_the_files_are_those_of_the_table_and_as_the_script_makes_them() -> None:
    assert {path.stem for path in hostile.FOLDER.glob("*.nar")} == {row.name for row in ROWS} == set(hostile.CASES)
    for row in ROWS:
        assert (row.data, row.nix28, row.told) == hostile.CASES[row.name]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_hostile_archive_is_refused_and_writes_nothing_outside(row: Row, directory: Path) -> None:
    refused([row.data], directory, row.told)
    with pytest.raises(FormatError, match="bad archive"):
        nar.decode(row.data)


@pytest.mark.parametrize(
    ("name", "limit", "value"),
    [("depth-64-file", "MAX_DEPTH", 65), ("name-of-256", "MAX_NAME", 256), ("target-of-4096", "MAX_TARGET", 4096)],
)
def test_a_reader_without_a_limit_would_be_seen(
    name: str, limit: str, value: int, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive control."""
    row = next(row for row in ROWS if row.name == name)
    monkeypatch.setattr(nar_format, limit, value)
    with pytest.raises((pytest.fail.Exception, OSError)):
        refused([row.data], directory, row.told)


@pytest.mark.nix
def test_real_nix_answers_as_the_table_says(tmp_path: Path) -> None:
    found = {}
    asked = [row for row in ROWS if row.nix28 != "-"]
    for row in asked:
        (tmp_path / row.name).mkdir()
        command = [program("nix-store"), "--restore", str(tmp_path / row.name / "x")]
        done = subprocess.run(command, input=row.data, capture_output=True, check=False)
        found[row.name] = str(done.returncode)
    make_writable(tmp_path)
    assert found == {row.name: row.nix28 for row in asked}


def endless(head: bytes, piece: bytes, count: int) -> Iterator[bytes]:
    yield head
    many = piece * 100
    for _ in range(count // 100):
        yield many


@pytest.mark.parametrize("levels", [10**5, 10**6])
def test_absurd_depth_is_refused_at_once(levels: int, directory: Path) -> None:
    level = DIRECTORY + ENTRY + string(b"d") + NODE
    refused(endless(MAGIC, level, levels), directory, "nested deeper than 63")


@pytest.mark.parametrize("size", [2**40, 2**63])
def test_a_stream_that_ends_long_before_the_length_it_claims_takes_bounded_memory(size: int, directory: Path) -> None:
    head = MAGIC + REGULAR + size.to_bytes(8, "little")
    refused(endless(head, bytes(1000), 20_000), directory, "cut short")
    assert (directory / "x").stat().st_size == 20_000_000


def test_entries_without_end_take_bounded_memory() -> None:
    """Kept by nobody who only checks; on disk they are bounded by whoever knows the archive's size (`Bounded`)."""

    def chunks() -> Iterator[bytes]:
        yield MAGIC + DIRECTORY
        for number in range(20_000):
            yield ENTRY + string(b"%05d" % number) + NODE + REGULAR + bytes(8) + CLOSE + CLOSE

    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="cut short"):
            Exports(nar.ChunkReader(chunks())).archive(len)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY


def test_an_archive_cut_short_at_any_byte_is_refused() -> None:
    data = golden("tree")
    for end in range(len(data)):
        with pytest.raises(FormatError, match="cut short"):
            nar.decode(data[:end])


def test_an_archive_cut_short_anywhere_is_refused_while_it_is_unpacked(directory: Path) -> None:
    data = golden("tree")
    for end in range(0, len(data), 97):
        (directory / str(end)).mkdir()
        with pytest.raises(FormatError, match="cut short"):
            unpack(io.BytesIO(data[:end]), directory / str(end))
    make_writable(directory)
    assert not list((directory / "outside").iterdir())


def test_what_is_restored_over_is_left_as_it_was(directory: Path) -> None:
    """A link where the new entry should be is not followed: not even to make what it points at."""
    (directory / "x").symlink_to("outside/made")
    with pytest.raises(FileExistsError):
        unpack(io.BytesIO(golden("tree")), directory)
    with pytest.raises(FileExistsError):
        unpack(io.BytesIO(golden("hello")), directory)
    assert not list((directory / "outside").iterdir())
    assert os.readlink(directory / "x") == "outside/made"
