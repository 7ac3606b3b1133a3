"""Signature checks in pure Python, judged by RFC 8032's vectors and by OpenSSL."""

from __future__ import annotations

import random

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from reconciler.core.nix import ed25519
from tests.core.nix.trees import GOLDEN

ORDER = 2**252 + 27742317777372353535851937790883648493
PRIME = 2**255 - 19
VECTORS = [
    tuple(bytes.fromhex(part) for part in line.split(":"))
    for line in (GOLDEN / "ed25519/rfc8032.txt").read_text().splitlines()
    if not line.startswith("#")
]
# Every point whose order divides 8, in each of its spellings.
SMALL = [
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]


def test_all_vectors_of_the_rfc_are_here() -> None:
    assert [len(message) for _, message, _ in VECTORS] == [0, 1, 2, 1023, 64]


@pytest.mark.parametrize("number", range(len(VECTORS)))
def test_the_signatures_of_the_rfc_are_right_and_no_other_message_has_them(number: int) -> None:
    public, message, signature = VECTORS[number]
    assert ed25519.verify(public, message, signature)
    assert not ed25519.verify(public, message + b"\0", signature)
    assert not ed25519.verify(VECTORS[number - 1][0], message, signature)


@pytest.mark.parametrize("at", range(0, 64, 3))
def test_a_signature_with_a_flipped_bit_is_wrong(at: int) -> None:
    public, message, signature = VECTORS[1]
    changed = bytearray(signature)
    changed[at] ^= 1 << at % 8
    assert not ed25519.verify(public, message, bytes(changed))


def test_a_second_signature_made_by_adding_the_order_is_refused() -> None:
    public, message, signature = VECTORS[2]
    scalar = int.from_bytes(signature[32:], "little")
    for times in range(1, 8):
        more = scalar + times * ORDER
        assert not ed25519.verify(public, message, signature[:32] + more.to_bytes(32, "little"))


@pytest.mark.parametrize("point", SMALL)
def test_points_of_small_order_and_second_spellings_are_neither_keys_nor_in_signatures(point: str) -> None:
    """With such a key, R the neutral point and S = 0 would be right for one message in eight, or for every one."""
    key = bytes.fromhex(point)
    for message in range(8):
        assert not ed25519.verify(key, bytes([message]), bytes.fromhex(SMALL[0]) + bytes(32))
    public, text, signature = VECTORS[0]
    assert not ed25519.verify(public, text, key + signature[32:])


@pytest.mark.parametrize("key", [PRIME + 3, PRIME + 18, 2**255 - 1, 2, 2**255 + 2])
def test_what_is_no_point_is_no_key(key: int) -> None:
    _, message, signature = VECTORS[0]
    assert not ed25519.verify(key.to_bytes(32, "little"), message, signature)


def test_lengths_other_than_the_formats_are_wrong_and_raise_nothing() -> None:
    public, message, signature = VECTORS[0]
    for length in (0, 31, 33, 64):
        assert not ed25519.verify((public * 2)[:length], message, signature)
    for length in (0, 63, 65, 128):
        assert not ed25519.verify(public, message, (signature * 2)[:length])


def test_openssl_and_we_agree_on_random_keys_messages_and_damage() -> None:
    chance = random.Random(25519)
    for _ in range(40):
        key = Ed25519PrivateKey.from_private_bytes(chance.randbytes(32))
        message = chance.randbytes(chance.randrange(200))
        signature = bytearray(key.sign(message))
        public = bytearray(key.public_key().public_bytes_raw())
        assert ed25519.verify(bytes(public), message, bytes(signature))
        damaged = chance.choice([public, signature])
        damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        assert ed25519.verify(bytes(public), message, bytes(signature)) == _openssl(
            bytes(public), message, bytes(signature)
        )


def _openssl(public: bytes, message: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True
