"""Store paths. Every path below was printed by real Nix."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import FormatError
from reconciler.core.nix import nar, store_path
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from tests.core.nix.trees import golden

HELLO = b"hello\n"
PART = "i9pmrzmpshapij2kin22pff6fc2adavx"


def test_text_paths() -> None:
    dep = store_path.text_path("dep.txt", b"a text\n")
    assert str(dep) == "/nix/store/lg77n03xnih9c0g5l7vcsa3gbbrsqqq4-dep.txt"
    greet = store_path.text_path("greet.txt", f"see {dep}\n".encode(), [dep])
    assert str(greet) == "/nix/store/5hphhn84kb6qgg6qjja1ghkr3lcvcm1d-greet.txt"


def test_source_paths() -> None:
    path = store_path.source_path("tree", Hash.sha256(golden("tree")))
    assert str(path) == "/nix/store/mrgq7g2dvmb3v057n7d988vrxps151rj-tree"


@pytest.mark.parametrize(
    ("algorithm", "recursive", "part"),
    [
        ("md5", False, "dra1cz5vbrhclpv4y1q0psnbkxz581bk"),
        ("md5", True, "l2ycihp9r6lnfifs72r40m62fwicg5iz"),
        ("sha1", False, "svdva85yi507g9vncgsaxvnd1r808h4w"),
        ("sha1", True, "hzq8n5jpi3g2d0xhlvqd8q1gx5c9s6i3"),
        ("sha256", False, "gy454w1cxaq731grqwylhzf4pp9r5izh"),
        ("sha256", True, PART),
        ("sha512", False, "9a8mxachqmcv8x2cfijdps9dyxgyyrzm"),
        ("sha512", True, "8xkszhbayigjg9vbrrxfa1hp9qflbh6b"),
    ],
)
def test_fixed_paths(algorithm: str, recursive: bool, part: str) -> None:
    data = nar.encode(nar.File(HELLO)) if recursive else HELLO
    content_hash = Hash(algorithm, hashlib.new(algorithm, data).digest())
    assert str(store_path.fixed_path("hello.txt", content_hash, recursive)) == f"/nix/store/{part}-hello.txt"


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("hello-2.10", ("hello", "2.10")),
        ("a-b-c", ("a-b-c", "")),
        ("hello", ("hello", "")),
        ("foo-1.0-dev", ("foo", "1.0-dev")),
        ("x-", ("x-", "")),
        ("x--1", ("x", "-1")),
        ("-1", ("", "1")),
        ("a-_b", ("a", "_b")),
        ("gtk+-2.4", ("gtk+", "2.4")),
        ("a-1-2", ("a", "1-2")),
        ("nix-é", ("nix", "é")),
        ("", ("", "")),
        ("x-y-1z", ("x-y", "1z")),
    ],
)
def test_names_are_split_as_nix_splits_them(name: str, split: tuple[str, str]) -> None:
    assert store_path.parse_drv_name(name) == split


@pytest.mark.parametrize("name", ["a", "hello-2.10.drv", "+-._?=", "x" * 211, ".hidden", "...", "a-..", "..a"])
def test_a_name_that_nix_reads_is_read(name: str) -> None:
    path = StorePath.parse(f"/nix/store/{PART}-{name}")
    assert (path.hash_part, path.name, str(path)) == (PART, name, f"/nix/store/{PART}-{name}")
    assert StorePath.from_base_name(path.base_name) == path


@pytest.mark.parametrize(
    "name", ["", "x" * 212, ".", "..", ".-a", "..-a", "a/b", "a b", "ä", "a\n", "a\0", "a~", "a:b", "$(id)"]
)
def test_a_name_that_nix_refuses_is_refused(name: str) -> None:
    with pytest.raises(FormatError):
        StorePath.parse(f"/nix/store/{PART}-{name}")


@pytest.mark.parametrize(
    "text",
    ["", "/nix/store", "/nix/store/", "/nix/store/..", "/nix/store/../../etc/shadow", f"/nix/store/{PART}",
     f"/nix/store/{PART}_a", f"/nix/store/{PART[:-1]}e-a", f"/nix/store/{PART}-a/bin", f"/tmp/{PART}-a",
     f"nix/store/{PART}-a", f"/nix/store//{PART}-a", f"/nix/store/{PART.upper()}-a"],
)  # fmt: skip
def test_what_is_no_store_path_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        StorePath.parse(text)


def test_a_path_that_begins_with_a_dot_is_never_made() -> None:
    with pytest.raises(FormatError, match=r"'\.hidden' cannot name a store path"):
        store_path.text_path(".hidden", b"")


@settings(max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=20, max_size=20), st.from_regex(r"[a-z+?=A-Z0-9][\-.0-9a-z_]{0,9}", fullmatch=True)
        ),
        max_size=8,
    )
)
def test_paths_are_ordered_as_their_texts_are(parts: list[tuple[bytes, str]]) -> None:
    from reconciler.core.nix import base32

    paths = [StorePath(base32.encode(data), name) for data, name in parts]
    assert list(map(str, sorted(paths))) == sorted(map(str, paths))
