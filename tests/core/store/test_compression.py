"""Compressed streams: what comes out, what is refused, and how much memory that takes."""

from __future__ import annotations

import importlib
import io
import os
import shutil
import subprocess
import sys
import tracemalloc

import pytest

from reconciler.core.errors import FormatError, StoreError
from reconciler.core.store import compression
from reconciler.core.store.compression import SUFFIXES, CutShortError, Decompressed, compressor

DATA = os.urandom(100_000) + bytes(900_000) + b"abc" * 30_000
METHODS = [method for method in SUFFIXES if method != "none"]


def compressed(method: str, data: bytes = DATA) -> bytes:
    packer = compressor(method)
    pieces = [packer.compress(data[start : start + 70_000]) for start in range(0, len(data), 70_000)]
    return b"".join([*pieces, packer.flush()])


def read(method: str, data: bytes, limit: int, size: int = 50_000) -> bytes:
    reader, parts = Decompressed(method, io.BytesIO(data), limit), []
    while piece := reader.read(size):
        assert len(piece) <= size
        parts.append(piece)
    return b"".join(parts)


@pytest.mark.parametrize("method", SUFFIXES)
def test_what_was_compressed_comes_out_again_also_when_it_is_two_streams(method: str) -> None:
    once = compressed(method)
    assert compressed(method) == once
    assert read(method, once, len(DATA)) == DATA
    assert read(method, once * 2, 2 * len(DATA), size=1 << 20) == DATA * 2
    assert read(method, compressed(method, b""), 0) == b""


# Those that this machine has. Real Nix reads ours of every method, and we its, in test_cache_against_nix.
@pytest.mark.parametrize("method", [program for program in METHODS if shutil.which(program)])
def test_the_programs_of_these_names_read_ours_and_we_read_theirs(method: str) -> None:
    program = method
    ours = subprocess.run([program, "-dc"], input=compressed(method), capture_output=True, check=True).stdout
    assert ours == DATA
    theirs = subprocess.run([program, "-c"], input=DATA, capture_output=True, check=True).stdout
    assert read(method, theirs, len(DATA)) == DATA


@pytest.mark.parametrize("method", SUFFIXES)
def test_more_than_is_allowed_is_refused(method: str) -> None:
    with pytest.raises(FormatError, match=f"more than the {len(DATA) - 1} bytes"):
        read(method, compressed(method), len(DATA) - 1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("left", [0, 1, 5, 1000])
def test_what_is_cut_short_is_told_as_such(method: str, left: int) -> None:
    with pytest.raises(CutShortError, match=f"its {method} data is cut short"):
        read(method, compressed(method)[:left], len(DATA))


@pytest.mark.parametrize("method", METHODS)
def test_what_is_something_else_is_refused(method: str) -> None:
    with pytest.raises(FormatError, match=f"it is not {method}, or damaged"):
        read(method, b"something else" * 100, len(DATA))
    with pytest.raises(FormatError, match=f"it is not {method}, or damaged"):
        read(method, compressed(method) + b"something else", len(DATA))
    damaged = bytearray(compressed(method))
    damaged[len(damaged) // 2] ^= 0x55
    with pytest.raises(FormatError):
        read(method, bytes(damaged), len(DATA))


@pytest.mark.parametrize("method", ["rot13", "br", ""])
def test_a_method_that_there_is_not_is_named(method: str) -> None:
    for call in (compressor, compression.check):
        with pytest.raises(StoreError, match=f"Compression: '{method}' is not a method") as caught:
            call(method)
        assert caught.value.hint == "these can: none, xz, bzip2, gzip, zstd"


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_takes_no_memory(method: str) -> None:
    packer = compressor(method)
    bomb = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(40)), packer.flush()])
    tracemalloc.start()
    try:
        reader = Decompressed(method, io.BytesIO(bomb), 40 << 20)
        while reader.read(1 << 16):
            pass
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
    assert reader.done == 40 << 20


def test_a_window_that_would_take_too_much_memory_is_refused() -> None:
    import lzma

    chain = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 512 << 20}]
    with pytest.raises(FormatError, match="Memory usage limit exceeded"):
        read("xz", lzma.compress(b"x", lzma.FORMAT_XZ, filters=chain), 1)
    # A zstd frame whose head asks for a window of 2 GiB, and a block of one byte.
    with pytest.raises(FormatError, match="too much memory"):
        read("zstd", bytes.fromhex("28b52ffd00a8090000") + b"x", 1)


def test_without_libzstd_the_library_of_python_is_taken_and_without_that_it_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compression, "_library", lambda: None)
    try:
        importlib.import_module("compression.zstd")
    except ImportError:
        with pytest.raises(StoreError, match="Compression: zstd cannot be had on this machine") as caught:
            compression.check("zstd")
        assert caught.value.hint == "install libzstd (Debian: libzstd1)"
    else:
        assert sys.version_info >= (3, 14)
        assert read("zstd", compressed("zstd"), len(DATA)) == DATA


@pytest.mark.parametrize("module", ["lzma", "bz2"])
def test_a_python_that_was_made_without_one_says_so(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    method = {"lzma": "xz", "bz2": "bzip2"}[module]
    with pytest.raises(StoreError, match=f"Compression: {method} cannot be had on this machine") as caught:
        compression.check(method)
    assert "this Python was made without" in str(caught.value.hint)
