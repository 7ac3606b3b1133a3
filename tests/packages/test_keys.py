"""Secret keys: made, kept, read, and what is said of those that are none."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, UsageError
from reconciler.core.nix.signature import PublicKey
from reconciler.packages.keys import SecretKey, generate
from tests.oracle import RealNix


def test_a_new_key_signs_what_its_public_half_verifies() -> None:
    secret, public = generate("cache.example.org-1")
    key = SecretKey.parse(secret)
    assert (key.text, str(key.public)) == (secret, public)
    signature = key.sign(b"1;/nix/store/x")
    assert signature.startswith("cache.example.org-1:")
    assert key.sign(b"1;/nix/store/x") == signature
    assert PublicKey.parse(public).verifies(b"1;/nix/store/x", signature)
    assert not PublicKey.parse(public).verifies(b"1;/nix/store/y", signature)
    assert generate("cache.example.org-1")[0] != secret
    assert key.text not in repr(key)
    assert base64.b64encode(key.seed).decode()[:20] not in repr(key)
    assert repr(key.seed) not in repr(key)


@pytest.mark.nix
def test_keys_that_nix_made_are_ours_and_ours_are_nixs(tmp_path: Path, nix: RealNix) -> None:
    nix.run("nix-store", "--generate-binary-cache-key", "nix-1", tmp_path / "secret", tmp_path / "public")
    key = SecretKey.load(str(tmp_path / "secret"))
    assert str(key.public) == (tmp_path / "public").read_text()
    assert key.text == (tmp_path / "secret").read_text()
    secret, public = generate("ours-1")
    (tmp_path / "ours").write_text(secret)
    run = nix.run(
        "nix", "--extra-experimental-features", "nix-command", "key", "convert-secret-to-public", stdin=secret.encode()
    )
    assert run.stdout.decode() == public


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it holds no secret key"),
        ("abc", "it holds no secret key"),
        ("name:!!!", "the secret key 'name' is not base-64"),
        ("name:" + base64.b64encode(bytes(32)).decode(), "'name' is a public key"),
        ("name:" + base64.b64encode(bytes(63)).decode(), "the secret key 'name' has 63 bytes, not 64"),
        ("name:" + base64.b64encode(bytes(64)).decode(), "its two halves do not belong together"),
    ],
)
def test_what_is_no_secret_key_is_told_without_being_shown(text: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(0o600)
    with pytest.raises(FormatError, match=f"{file}: .*{said}") as caught:
        SecretKey.load(str(file))
    assert not text or "AAAA" not in f"{caught.value.message} {caught.value.hint}"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_a_secret_key_that_others_may_read_or_change_is_refused(mode: int, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(generate("x")[0])
    file.chmod(mode)
    with pytest.raises(UsageError, match=rf"{file}: others may read this secret key \(mode {mode:04o}\)") as caught:
        SecretKey.load(str(file))
    assert caught.value.hint == f"chmod 600 {file}"
    file.chmod(0o400)
    assert SecretKey.load(str(file)).name == "x"


def test_a_public_key_is_not_told_to_be_hidden(tmp_path: Path) -> None:
    file = tmp_path / "key.public"
    file.write_text(generate("x")[1])
    file.chmod(0o644)
    with pytest.raises(FormatError, match=f"{file}: 'x' is a public key") as caught:
        SecretKey.load(str(file))
    assert caught.value.hint == "the secret one is needed to sign"


def test_a_key_that_is_not_there_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path}/none: No such file") as caught:
        SecretKey.load(str(tmp_path / "none"))
    assert "reconciler key generate" in str(caught.value.hint)


@pytest.mark.parametrize("name", ["", "a:b", "with space", "é", "x" * 201])
def test_names_that_no_key_can_have_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="cannot name the key"):
        generate(name)
