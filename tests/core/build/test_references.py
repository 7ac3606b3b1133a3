"""The scanner finds every hash part, wherever the archive is cut."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from reconciler.core.build.references import Scanner
from reconciler.core.nix import base32
from reconciler.core.nix.store_path import StorePath

parts = st.binary(min_size=20, max_size=20).map(base32.encode)


def scan(candidates: list[StorePath], data: bytes, cuts: list[int]) -> tuple[StorePath, ...]:
    scanner = Scanner(candidates)
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        scanner.feed(data[start:end])
    return scanner.found


@given(
    st.lists(parts, min_size=1, max_size=6, unique=True),
    st.lists(st.binary(max_size=40), max_size=6),
    st.lists(st.integers(0, 500), max_size=8),
    st.integers(0, 200),
)
def test_what_occurs_is_found_and_nothing_else(
    hash_parts: list[str], between: list[bytes], cuts: list[int], strangers: int
) -> None:
    """Also with so many candidates that the other way of searching is taken."""
    present, absent = hash_parts[::2], hash_parts[1::2]
    data = b"".join(text + part.encode() for text, part in zip([*between, *[b"-"] * 6], present, strict=False)) + b"."
    generator = random.Random(strangers)
    others = [base32.encode(generator.randbytes(20)) for _ in range(strangers)]
    candidates = [StorePath(part, "x") for part in dict.fromkeys([*present, *absent, *others])]
    expected = tuple(sorted(path for path in candidates if path.hash_part.encode() in data))
    assert scan(candidates, data, cuts) == expected
    assert {StorePath(part, "x") for part in present} <= set(expected)


def test_hash_parts_that_overlap_other_digits_are_found_among_many() -> None:
    wanted = StorePath("0" * 16 + "1" * 16, "x")
    others = [StorePath(base32.encode(random.Random(number).randbytes(20)), "x") for number in range(100)]
    data = b"0" * 40 + b"1" * 40
    assert scan([wanted, *others], data, [41, 55]) == (wanted,)


def test_a_hash_part_that_lacks_one_digit_is_not_found() -> None:
    path = StorePath("a" * 32, "x")
    assert scan([path], b"-" + b"a" * 31 + b"-" + b"a" * 31, []) == ()
