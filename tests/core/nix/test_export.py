"""Export streams: the one that real Nix wrote (tests/golden/closure), and all that must be refused."""

from __future__ import annotations

import io
import tracemalloc
from collections.abc import Iterator

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import export, nar
from reconciler.core.nix.export import END, PATH, Exports, Trailer
from reconciler.core.nix.nar_format import Reader, string
from reconciler.core.nix.store_path import StorePath
from tests.core.nix.closure import APP, APP_TREE, DERIVER, FOLDER, LEAF
from tests.core.nix.trees import TREE
from tests.oracle import RealNix

GOLDEN = (FOLDER / "export").read_bytes()
ONE = PATH + nar.encode(TREE) + export.trailer(LEAF, (), None) + END


def read(stream: Reader) -> list[tuple[bytes, Trailer]]:
    """All of a stream: each archive and its trailer."""
    exports = Exports(stream)
    found = []
    while exports.more():
        archive = io.BytesIO()
        size = exports.archive(archive.write)
        assert size == len(archive.getvalue())
        found.append((archive.getvalue(), exports.trailer()))
    return found


EXPECTED = [
    (nar.encode(TREE), Trailer(LEAF, (), None)),
    (nar.encode(APP_TREE), Trailer(APP, (APP, LEAF), DERIVER)),
]


def test_what_nix_exported_is_read() -> None:
    assert read(io.BytesIO(GOLDEN)) == EXPECTED


def test_the_same_is_written_byte_for_byte() -> None:
    parts = []
    for archive, end in EXPECTED:
        parts += [PATH, archive, export.trailer(end.path, reversed(end.references), end.deriver)]
    assert b"".join([*parts, END]) == GOLDEN


@pytest.mark.nix
def test_nix_imports_what_we_write(nix: RealNix) -> None:
    reference = (APP, LEAF)
    data = PATH + nar.encode(TREE) + export.trailer(LEAF, (), None) + PATH + nar.encode(APP_TREE)
    printed = nix.run("nix-store", "--import", stdin=data + export.trailer(APP, reference, None) + END)
    assert printed.stdout.decode().split() == [str(LEAF), str(APP)]
    assert set(nix.output("nix-store", "--query", "--references", str(APP)).split()) == set(map(str, reference))
    nix.verify()


@pytest.mark.parametrize("step", [1, 7, 100, 4096])
def test_a_stream_that_gives_few_bytes_at_a_time_is_read(step: int) -> None:
    chunks = (GOLDEN[at : at + step] for at in range(0, len(GOLDEN), step))
    assert read(nar.ChunkReader(chunks)) == EXPECTED


def test_nothing_is_taken_beyond_the_end() -> None:
    stream = io.BytesIO(END + b"rest")
    assert not Exports(stream).more()
    assert stream.read() == b"rest"


def test_an_empty_stream_has_no_path() -> None:
    assert read(io.BytesIO(END)) == []


def test_the_signature_of_a_very_old_nix_is_passed_over() -> None:
    old = ONE[: -len(END) - 8] + PATH + string(b"a signature") + END
    assert read(io.BytesIO(old)) == read(io.BytesIO(ONE))


def test_an_archive_of_any_size_takes_bounded_memory() -> None:
    size = 64 * 1024 * 1024
    piece = bytes(1024 * 1024)

    def chunks() -> Iterator[bytes]:
        yield PATH + nar.encode(nar.File(b"")).replace(string(b"contents") + bytes(8), string(b"contents"))[:-16]
        yield size.to_bytes(8, "little")
        for _ in range(size // len(piece)):
            yield piece
        yield string(b")") + export.trailer(LEAF, (), None) + END

    exports = Exports(nar.ChunkReader(chunks()))
    assert exports.more()
    tracemalloc.start()
    try:
        written = []
        exports.archive(lambda data: written.append(len(data)))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(written) == size + len(nar.encode(nar.File(b"")))
    assert peak < 8 * 1024 * 1024
    assert exports.trailer().path == LEAF
    assert not exports.more()


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


END_OF_ONE = export.trailer(LEAF, (), None)
WRONG = {
    "a number that is neither": (number(2), "the number 2 stands where"),
    "no trailer": (PATH + nar.encode(TREE) + END, "something else than its trailer"),
    "another magic": (PATH + nar.encode(TREE) + number(0x4558494F) + END_OF_ONE[8:], "something else than its trailer"),
    "a wrong archive": (PATH + nar.encode(TREE).replace(b"type", b"tipe", 1) + END_OF_ONE, "bad archive"),
    "a path elsewhere": (PATH + nar.encode(TREE) + END_OF_ONE.replace(b"/nix/", b"/gnu/"), "is no store path"),
    "a path that escapes": (
        PATH + nar.encode(TREE) + number(export.TRAILER) + string(b"/nix/store/../../etc/x"),
        "is no store path",
    ),
    "a path of 2^40 bytes": (
        PATH + nar.encode(TREE) + number(export.TRAILER) + number(1 << 40) + bytes(64),
        "a string of 1099511627776 bytes",
    ),
    "2^63 references": (
        PATH + nar.encode(TREE) + number(export.TRAILER) + string(str(LEAF).encode()) + number(1 << 63),
        "has 9223372036854775808 references",
    ),
    "a reference that is none": (
        PATH + nar.encode(TREE) + number(export.TRAILER) + string(str(LEAF).encode()) + number(1) + string(b"x"),
        "is no store path",
    ),
    "padding": (
        PATH + nar.encode(TREE) + export.trailer(APP, (), None).replace(b"-1.0\0", b"-1.0\1"),
        "padding that is not zeros",
    ),
    "a signature of 2^40 bytes": (PATH + nar.encode(TREE) + END_OF_ONE[:-8] + PATH + number(1 << 40), "a string of"),
    "no end of a trailer": (PATH + nar.encode(TREE) + END_OF_ONE[:-8] + number(2), "does not end"),
    "a deriver that is none": (
        PATH + nar.encode(TREE) + END_OF_ONE[:-16] + string(b"/nix/store/x") + END + END,
        "is no store path",
    ),
    "bytes that are no text": (
        PATH + nar.encode(TREE) + number(export.TRAILER) + string(b"/nix/store/\xff"),
        "is no store path",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_stream_is_refused(name: str) -> None:
    data, told = WRONG[name]
    with pytest.raises(FormatError, match=told):
        read(io.BytesIO(data))


def test_a_stream_cut_short_at_any_byte_is_refused() -> None:
    for end in range(len(ONE)):
        with pytest.raises(FormatError, match="cut short"):
            read(io.BytesIO(ONE[:end]))


def test_a_trailer_is_read_to_its_last_byte_and_not_beyond() -> None:
    references = [StorePath.parse(f"/nix/store/{digit * 32}-x") for digit in "321"]
    stream = io.BytesIO(export.trailer(APP, references, DERIVER) + b"next")
    assert export.read_trailer(stream) == Trailer(APP, tuple(reversed(references)), DERIVER)
    assert stream.read() == b"next"
