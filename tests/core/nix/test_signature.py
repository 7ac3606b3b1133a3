"""Fingerprints, keys and signatures, against what real Nix signed (tests/golden/closure)."""

from __future__ import annotations

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import narinfo
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.signature import PublicKey, Signature, any_trusted, fingerprint
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import replace
from tests.core.nix.closure import APP, CLOSURE, FOLDER, LEAF, PUBLIC

KEY = PublicKey.parse(PUBLIC)
INFO = narinfo.parse((FOLDER / f"{APP.hash_part}.narinfo").read_bytes(), "golden")
SIGNATURE = INFO.signatures[0]


@pytest.mark.parametrize("path", CLOSURE, ids=str)
def test_what_nix_signed_is_trusted(path: StorePath) -> None:
    info = narinfo.parse((FOLDER / f"{path.hash_part}.narinfo").read_bytes(), "golden")
    assert KEY.verifies(info.fingerprint, info.signatures[0])


def test_the_fingerprint_is_the_text_that_nix_signs() -> None:
    found = fingerprint(APP, Hash.sha256(b"x"), 7, (LEAF, APP, LEAF))
    digits = Hash.sha256(b"x").base32
    assert found == f"1;{APP};sha256:{digits};7;{APP},{LEAF}".encode()
    assert fingerprint(LEAF, Hash.sha256(b"x"), 7, ()) == f"1;{LEAF};sha256:{digits};7;".encode()


CHANGES = {
    "the path": replace(INFO, path=LEAF),
    "the hash": replace(INFO, nar_hash=Hash.sha256(b"other")),
    "the size": replace(INFO, nar_size=INFO.nar_size + 1),
    "fewer references": replace(INFO, references=(APP,)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_signature_does_not_cover_another(change: str) -> None:
    assert not any_trusted(CHANGES[change].fingerprint, [SIGNATURE], [KEY])


def test_one_right_signature_among_many_is_enough() -> None:
    other = PublicKey("other-1", KEY.key)
    signatures = ["nonsense", str(Signature("other-1", bytes(64))), SIGNATURE]
    assert any_trusted(INFO.fingerprint, signatures, [other, KEY])
    assert not any_trusted(INFO.fingerprint, signatures, [other])
    assert not any_trusted(INFO.fingerprint, signatures, [])
    assert not any_trusted(INFO.fingerprint, [], [KEY])


def test_a_key_of_the_right_name_with_other_bytes_is_not_trusted() -> None:
    impostor = PublicKey(KEY.name, bytes(reversed(KEY.key)))
    assert not impostor.verifies(INFO.fingerprint, SIGNATURE)


def test_the_right_key_under_another_name_is_not_trusted() -> None:
    assert not PublicKey("renamed-1", KEY.key).verifies(INFO.fingerprint, SIGNATURE)


def test_keys_and_signatures_are_written_as_they_are_read() -> None:
    assert str(PublicKey.parse(f"  {PUBLIC}\n")) == PUBLIC
    assert str(Signature.parse(SIGNATURE)) == SIGNATURE


BASE64 = PUBLIC.partition(":")[2]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is no public key"),
        (BASE64, "is no public key"),
        (f":{BASE64}", "cannot name the key"),
        (f"a b:{BASE64}", "cannot name the key"),
        (f"{'k' * 201}:{BASE64}", "cannot name the key"),
        ("k:", "is not base-64"),
        ("k:!!!!", "is not base-64"),
        (f"k:{BASE64[:-1]}", "is not base-64"),
        (f"k:{BASE64[:8]} {BASE64[8:]}", "is not base-64"),
        ("k:AAAA", "has 3 bytes, not 32"),
        (f"k:{SIGNATURE.partition(':')[2]}", "has 64 bytes, not 32"),
        ("k:\u00e4", "is not base-64"),
    ],
)
def test_what_is_no_key_is_refused(text: str, told: str) -> None:
    with pytest.raises(FormatError, match=told):
        PublicKey.parse(text)


def test_what_is_no_signature_is_refused_where_it_is_read_and_trusts_nothing_where_it_is_used() -> None:
    for text in ("", "k", f"k:{BASE64}", f"golden-1 :{SIGNATURE.partition(':')[2]}"):
        with pytest.raises(FormatError):
            Signature.parse(text)
        assert not KEY.verifies(INFO.fingerprint, text)
