"""The text of --dump-db and its kin, against what real Nix printed (tests/golden/closure)."""

from __future__ import annotations

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar, registration
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.registration import Registration
from reconciler.core.values import replace
from tests.core.nix.closure import APP, APP_TREE, DERIVER, FOLDER, LEAF
from tests.core.nix.trees import TREE
from tests.oracle import RealNix

DATA = (FOLDER / "dump-db").read_bytes()


def described(tree: nar.Node) -> tuple[Hash, int]:
    data = nar.encode(tree)
    return Hash.sha256(data), len(data)


EXPECTED = [
    Registration(APP, *described(APP_TREE), DERIVER, (APP, LEAF)),
    Registration(LEAF, *described(TREE), None, ()),
]
PLAIN = [replace(one, nar_hash=None, nar_size=None) for one in EXPECTED]


def read(*chunks: bytes, hashes: bool = True) -> list[Registration]:
    return list(registration.parse(chunks, "dump", hashes))


def test_what_nix_dumped_is_read_and_written_byte_for_byte() -> None:
    assert read(DATA) == EXPECTED
    assert b"".join(one.serialise() for one in EXPECTED) == DATA


def test_without_hashes_it_is_what_register_validity_reads() -> None:
    text = b"".join(one.serialise() for one in PLAIN)
    assert text == f"{APP}\n{DERIVER}\n2\n{APP}\n{LEAF}\n{LEAF}\n\n0\n".encode()
    assert read(text, hashes=False) == PLAIN


@pytest.mark.parametrize("step", [1, 3, 50])
def test_the_text_may_come_in_pieces_of_any_size(step: int) -> None:
    assert read(*(DATA[at : at + step] for at in range(0, len(DATA), step))) == EXPECTED


@pytest.mark.nix
def test_nix_loads_what_we_write_and_dumps_the_same(nix: RealNix) -> None:
    """In its order: by path."""
    text = b"".join(one.serialise() for one in EXPECTED)
    nix.run("nix-store", "--load-db", stdin=text)
    assert nix.run("nix-store", "--dump-db").stdout == text


def test_nothing_is_nothing() -> None:
    assert read() == []
    assert read(b"") == []


def test_what_came_before_a_fault_has_been_given() -> None:
    found = registration.parse([DATA + b"nonsense\n"], "dump", True)
    assert [next(found), next(found)] == EXPECTED
    with pytest.raises(FormatError, match=r"dump: line 13: 'nonsense' is no store path"):
        next(found)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"/nix/store", b"/gnu/store", "line 1: .* is no store path"),
        (b"\n400ad8", b"\nsha256:400ad8", "line 2: .* is no sha256 in base-16"),
        (b"\n400ad8", b"\n400AD8", "line 2: "),
        (b"\n592\n", b"\n-1\n", "line 3: the size of a NAR expected, not '-1'"),
        (b"\n592\n", b"\n\n", "line 3: the size of a NAR expected, not ''"),
        (b"\n592\n", b"\n" + b"9" * 400 + b"\n", "line 3: the size of a NAR"),
        (b"q5k-app-1.0.drv\n2", b"q5k-app-1.0.drv\n3", "line 9: 'c4986d.*' is no store path"),
        (b"q5k-app-1.0.drv\n2", b"q5k-app-1.0.drv\n100001", "line 5: 100001 references; 100000 are allowed"),
        (b"q5k-app-1.0.drv\n2", b"q5k-app-1.0.drv\n", "line 5: the number of references expected"),
        (b"/nix/store/9fx", b"/nix/store/" + b"9" * 600, "line 4: a line of more than 512 bytes"),
        (b"-tree\n", b"-tr\xe4\n", "line 7: .*tr.*xe4"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: bytes, new: bytes, told: str) -> None:
    assert old in DATA
    with pytest.raises(FormatError, match=told):
        read(DATA.replace(old, new, 1))


def test_a_line_that_never_ends_is_refused_before_it_is_kept() -> None:
    endless = iter(lambda: b"x" * 400, b"")
    with pytest.raises(FormatError, match="a line of more than 512 bytes"):
        list(registration.parse(endless, "dump", True))


def test_a_text_cut_short_is_refused() -> None:
    for end in range(1, len(DATA)):
        if DATA[:end] in (EXPECTED[0].serialise(), DATA):
            continue
        with pytest.raises(FormatError, match=r"the text ends|cut short|expected"):
            read(DATA[:end])


def test_a_hash_goes_with_a_size() -> None:
    with pytest.raises(FormatError, match="a hash without a size"):
        replace(EXPECTED[0], nar_size=None)
