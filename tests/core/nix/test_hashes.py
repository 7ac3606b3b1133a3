"""Base-32 and the spellings of hashes. The values were printed by nix-hash and `nix hash`."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.core.errors import FormatError
from reconciler.core.nix import base32
from reconciler.core.nix.hashes import SIZES, Hash

# Of "hello\n".
PRINTED = [
    ("md5", "4425hx5d1mc9y39llj4k4nm55i", "md5-sZRqySSS0jR8YjW00mERhA=="),
    ("sha1", "iwjz551fyw0cxcjgf4l6c879zabd6wpm", "sha1-9XLTlvrpIGYocU+yzgD3LpTyJY8="),
    (
        "sha256",
        "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq",
        "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=",
    ),
    (
        "sha512",
        "0lrc0dwnvipqviibf7qfm1y492qvjwb1zhkcyi05cndmva1mr5gjcgrnz1x36djmk0sfg8djd2n0qv68vib2jg590mwznar9jcjphp7",
        "sha512-58IrmUxZ2c8rSOVJseJGZmNgRZMNPafBrLKZ0cO3+TH5Sq5B7dosKyB6NuEPi8uNRSI+VIePWzFufOO2vAGWKQ==",
    ),
]


@pytest.mark.parametrize(("algorithm", "digits", "sri"), PRINTED)
def test_a_hash_is_spelled_as_nix_spells_it_and_read_back_from_every_spelling(
    algorithm: str, digits: str, sri: str
) -> None:
    digest = hashlib.new(algorithm, b"hello\n").digest()
    value = Hash(algorithm, digest)
    assert (value.base32, value.sri, value.nix) == (digits, sri, f"{algorithm}:{digits}")
    for text in (value.nix, value.sri, value.hex_prefixed):
        assert Hash.parse(text) == value
        assert Hash.parse(text, algorithm) == value
    for bare in (value.base32, value.base16, value.sri.partition("-")[2]):
        assert Hash.parse(bare, algorithm) == value


@pytest.mark.parametrize(
    "text",
    ["", "sha256:", "sha256", "crc:00", "sha256:zz", "sha256:" + "g" * 64, "sha256:" + "z" * 52, "sha256:" + "e" * 52,
     "sha256-" + "!" * 44, "sha1:" + "0" * 64, "0" * 64],
)  # fmt: skip
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        Hash.parse(text)


ABC = Hash.sha256(b"abc")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("md4:00", "'md4:00' is no hash: it should begin with one of md5, sha1, sha256, sha512"),
        (ABC.base16, "should begin with one of"),
        (f"sha256:{ABC.base16[1:]}", "has 64 in base-16, 52 in base-32, 44 in base-64, and this has 63 characters"),
        (f"sha256:{'g' + ABC.base16[1:]}", "a character that is not hexadecimal"),
        ("sha256:" + "\u0660" * 64, "a character that is not hexadecimal"),
        (f"sha256:{'z' + ABC.base32[1:]}", "its first digit is too large"),
        (f"sha256:{'e' + ABC.base32[1:]}", "it holds 'e'"),
        (f"sha256-{ABC.base16}", "a sha256 hash has 44 in base-64, and this has 64 characters"),
        (f"sha256-{ABC.base32}", "a sha256 hash has 44 in base-64, and this has 52 characters"),
        (f"sha256-{ABC.base64[:-1]}!", "a character that is not base-64"),
        (f"sha256-{ABC.base64[:-1]}\n", "a character that is not base-64"),
        (f"sha256-{ABC.base64[:-2]}1=", "a character that is not base-64"),
        (f"sha256:{'0' * 100000}", "…' is no hash"),
    ],
)
def test_the_message_says_what_is_wrong_with_a_hash(text: str, told: str) -> None:
    with pytest.raises(FormatError, match=re.escape(told)) as caught:
        Hash.parse(text)
    assert len(caught.value.message) < 400


def test_hexadecimal_letters_may_be_large_as_in_nix() -> None:
    assert Hash.parse(f"sha256:{ABC.base16.upper()}") == ABC


def test_a_hash_of_another_algorithm_than_wanted_is_refused() -> None:
    with pytest.raises(FormatError, match="a sha1 hash where a sha256 hash is wanted"):
        Hash.parse("sha1:iwjz551fyw0cxcjgf4l6c879zabd6wpm", "sha256")


@settings(max_examples=100)
@given(st.binary(max_size=70))
def test_base32_gives_back_the_bytes(data: bytes) -> None:
    text = base32.encode(data)
    assert len(text) == base32.encoded_length(len(data))
    assert base32.decode(text) == data


@pytest.mark.parametrize("text", ["0", "000", "zz", "1o", "E0", "zzzzzzzzzzzzzzzzzzzzzzzzzz", "+1"])
def test_base32_refuses_what_no_bytes_encode_to(text: str) -> None:
    with pytest.raises(FormatError):
        base32.decode(text)


def test_sizes_hold_for_every_algorithm() -> None:
    assert {name: hashlib.new(name).digest_size for name in SIZES} == SIZES
