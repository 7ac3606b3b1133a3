"""Real Nix substitutes from caches that we filled, and finds our signatures to be its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.compression import SUFFIXES
from reconciler.core.store.store import Store
from reconciler.packages.cache import push
from reconciler.packages.keys import SecretKey, generate
from tests.conftest import make_writable
from tests.core.store.test_substitute import closure
from tests.core.store.web_server import serving
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

KEY = SecretKey.parse(generate("ours-1")[0])
COMMANDS = ("--extra-experimental-features", "nix-command")


@pytest.fixture
def paths(store: Store) -> list[StorePath]:
    return closure(store)


def client(root: Path, cache: str, trusted: str = str(KEY.public)) -> RealNix:
    """A Nix that may take what it lacks from that cache."""
    lines = [f"substituters = {cache}", f"trusted-public-keys = {trusted}", "narinfo-cache-negative-ttl = 0"]
    return RealNix(root, substitute=True, config="\n".join(lines))


@pytest.mark.parametrize("method", SUFFIXES)
def test_nix_substitutes_what_we_pushed_from_files_and_over_http(
    method: str, store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    directory, top = tmp_path / "cache", str(paths[-1])
    push(store, [paths[-1]], str(directory), KEY, compression=method)
    with serving(directory) as server:
        for name, cache in (("file", f"file://{directory}"), ("http", server.url)):
            nix = client(tmp_path / name, cache)
            assert nix.output("nix-store", "--realise", top) == top
            assert (
                nix.output("nix-store", "-qR", top).splitlines()
                == RealNix(store.root).output("nix-store", "-qR", top).splitlines()
            )
            nix.verify()
            nix.run("nix", *COMMANDS, "store", "verify", "--recursive", "--sigs-needed", "1", top)
    make_writable(tmp_path)


def test_nix_copies_from_ours_and_lists_it(store: Store, paths: list[StorePath], tmp_path: Path) -> None:
    directory, top = tmp_path / "cache", str(paths[-1])
    push(store, [paths[-1]], str(directory), KEY)
    nix = client(tmp_path / "there", "")
    nix.run("nix", *COMMANDS, "copy", "--from", f"file://{directory}", top)
    nix.verify()
    tree = next(path for path in paths if path.name == "tree")
    question = ("nix", *COMMANDS, "store", "ls", "--json", "--recursive", str(tree))
    listed = RealNix(store.root).output(*question)
    assert without_offsets(json.loads(run(nix, f"file://{directory}", *question))) == json.loads(listed)
    make_writable(tmp_path)


def without_offsets(listed: dict[str, Any]) -> dict[str, Any]:
    """As a store that is no cache tells it."""
    entries = {name: without_offsets(each) for name, each in listed.get("entries", {}).items()}
    kept = {key: value for key, value in listed.items() if key not in ("narOffset", "entries")}
    return {**kept, "entries": entries} if "entries" in listed else kept


def run(nix: RealNix, place: str, program: str, *arguments: str) -> bytes:
    """With another store than a root of its own."""
    command = [program, "--store", place, *arguments]
    return subprocess.run(command, env=nix.environment, capture_output=True, check=True).stdout


def test_nix_takes_nothing_that_is_unsigned_or_signed_by_another(
    store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    out = next(path for path in paths if path.name == "out-1.0")
    push(store, [out], str(tmp_path / "unsigned"), None)
    push(store, [out], str(tmp_path / "other"), SecretKey.parse(generate("ours-1")[0]))
    for name in ("unsigned", "other"):
        done = client(tmp_path / f"{name}-root", f"file://{tmp_path / name}").run(
            "nix-store", "--realise", str(out), check=False
        )
        assert done.returncode != 0
        assert b"is not signed by any of the keys in 'trusted-public-keys'" in done.stderr
    make_writable(tmp_path)


def test_our_signatures_and_narinfos_are_those_that_nix_would_write(
    store: Store, paths: list[StorePath], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(KEY.text)
    secret.chmod(0o600)
    nix = RealNix(store.root)
    for method in ("none", "xz"):
        ours, theirs = tmp_path / f"ours-{method}", tmp_path / f"theirs-{method}"
        push(store, [paths[-1]], str(ours), KEY, compression=method)
        options = f"compression={method}&secret-key={secret}&write-nar-listing=1"
        nix.run("nix", *COMMANDS, "copy", "--to", f"file://{theirs}?{options}", str(paths[-1]))
        for path in paths:
            for name in (f"{path.hash_part}.narinfo", f"{path.hash_part}.ls"):
                assert comparable((ours / name).read_text(), method) == comparable((theirs / name).read_text(), method)
    nix.run("nix", *COMMANDS, "store", "sign", "--recursive", "--key-file", secret, str(paths[-1]))
    for info in store.infos(paths):
        said = (tmp_path / "ours-xz" / f"{info.path.hash_part}.narinfo").read_text()
        (line,) = [line for line in said.splitlines() if line.startswith("Sig: ")]
        assert info.signatures == (line.removeprefix("Sig: "),)


def comparable(text: str, method: str) -> list[str]:
    """The lines; without what depends on how well xz was told to compress."""
    left_out = () if method == "none" else ("URL: ", "FileHash: ", "FileSize: ")
    return [line for line in text.splitlines() if not line.startswith(left_out)]
