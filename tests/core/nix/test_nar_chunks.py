"""Archives larger than a chunk: the same bytes wherever the ends of chunks fall, and nothing kept is written over."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix import nar, nar_files
from reconciler.core.nix.hashes import Hash
from tests.core.nix.trees import write

# Around the size at which what stands before the contents, the contents, or what stands behind no longer fits.
EDGES = [0, 1, 7, 8, *range(nar.CHUNK - 168, nar.CHUNK + 17, 8), nar.CHUNK - 1, nar.CHUNK + 1, 2 * nar.CHUNK, 600_001]


def tree(size: int) -> nar.Directory:
    """A small file, one of `size` bytes, and what comes behind it."""
    pattern = bytes(range(1, 252))  # of a prime length, so that no shift goes unseen
    contents = (pattern * (size // len(pattern) + 1))[:size]
    return nar.Directory({"a": nar.File(b"first"), "b": nar.File(contents, True), "c": nar.Link("a")})


@pytest.mark.parametrize("size", EDGES)
def test_the_archive_is_the_same_wherever_a_chunk_ends(size: int, tmp_path: Path) -> None:
    node = tree(size)
    write(node, tmp_path / "tree")
    expected = nar.encode(node)
    chunks = list(nar.dump(str(tmp_path / "tree")))
    assert b"".join(chunks) == expected
    assert all(0 < len(chunk) <= nar.CHUNK for chunk in chunks)
    assert nar.hash_path(str(tmp_path / "tree")) == (Hash.sha256(expected), len(expected))
    assert b"".join(nar.flat(str(tmp_path / "tree/b"))) == nar.encode(nar.File(tree(size).entries["b"].contents))  # type: ignore[union-attr]


@pytest.mark.parametrize("piece", [1, 7, 4096, nar.CHUNK - 1, nar.CHUNK])
def test_a_file_larger_than_a_chunk_is_unpacked_whatever_the_stream_gives_at_a_time(piece: int, tmp_path: Path) -> None:
    node = tree(nar.CHUNK + 100 if piece > 1 else 5000)
    data = nar.encode(node)

    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(piece, size or 0))

    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert nar.restore(Slow(data), fd, "out") == len(data)
    finally:
        os.close(fd)
    assert b"".join(nar.dump(str(tmp_path / "out"))) == data


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "tree" / "shrinking"
    file.parent.mkdir()
    file.write_bytes(bytes(3 * nar.CHUNK))
    chunks = nar_files.dump(str(file.parent))
    next(chunks)
    os.truncate(file, nar.CHUNK)
    with pytest.raises(StoreError, match="tree: 'shrinking': changed while it was read"):
        list(chunks)
