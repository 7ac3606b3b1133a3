"""What we built is signed on its way to daemons that trust our key, and nothing else is changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.agent.messages import PathMessage
from reconciler.core.agent.paths import from_message
from reconciler.core.errors import UsageError
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.signature import fingerprint
from reconciler.core.values import replace
from reconciler.fleet.sending import Bundle
from reconciler.fleet.signing import UNSIGNED, signed
from reconciler.packages.key_file import KEY_FILE
from reconciler.packages.keys import SecretKey, generate
from tests.fleet.values import path

BUILT = PathMessage(str(path("tool-1.0")), Hash.sha256(b"nar").nix, 3, (str(path("words-1.0")), str(path("tool-1.0"))))
SOURCE = replace(BUILT, ca=f"fixed:r:{Hash.sha256(b'nar').nix}")


@pytest.fixture
def key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SecretKey:
    file = tmp_path / "key"
    file.touch(0o600)
    file.write_text(generate("ours-1")[0])
    monkeypatch.setenv(KEY_FILE, str(file))
    return SecretKey.load(str(file))


def test_a_built_path_gets_our_signature_beside_those_that_it_has(key: SecretKey) -> None:
    cached = replace(BUILT, signatures=("cache-1:AAAA",))
    (one, other) = signed({"web01"})("web01", Bundle((cached, SOURCE))).paths
    info = from_message(one)
    assert one.signatures[0] == "cache-1:AAAA"
    text = fingerprint(info.path, info.nar_hash, info.nar_size, info.references)
    assert key.public.verifies(text, one.signatures[1])
    assert replace(one, signatures=cached.signatures) == cached
    # What follows from its contents, what we signed before, and what goes elsewhere stay as they are.
    assert other == SOURCE
    assert signed({"web01"})("web01", Bundle((one,))).paths == (one,)
    assert signed({"web01"})("web02", Bundle((cached,))).paths == (cached,)


def test_without_a_key_or_without_such_hosts_nothing_is_signed(key: SecretKey, monkeypatch: pytest.MonkeyPatch) -> None:
    assert signed(()) is UNSIGNED
    monkeypatch.delenv(KEY_FILE)
    assert signed({"web01"}) is UNSIGNED
    assert UNSIGNED("web01", Bundle((BUILT,))).paths == (BUILT,)


def test_a_key_that_cannot_be_read_is_told_before_anything_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_FILE, "/nowhere/key")
    with pytest.raises(UsageError, match="/nowhere/key: No such file"):
        signed({"web01"})
    assert signed(()) is UNSIGNED
