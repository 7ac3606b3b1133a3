"""Random narinfos: Nix reads in each what we read, and trusts the signatures that we trust.

Each has a seed of its own, which a failure names.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from reconciler.core.nix import base32, narinfo
from reconciler.core.nix.hashes import SIZES, Hash
from reconciler.core.nix.narinfo import NarInfo
from reconciler.core.nix.signature import PublicKey, Signature, any_trusted, fingerprint
from reconciler.core.nix.store_path import StorePath
from tests.oracle import RealNix

pytestmark = pytest.mark.nix

KEYS = {name: Ed25519PrivateKey.from_private_bytes(name.encode() * 8) for name in ("tr-1", "tr-2", "no-1")}
TRUSTED = [PublicKey(name, KEYS[name].public_key().public_bytes_raw()) for name in ("tr-1", "tr-2")]


def random_path(chance: random.Random, suffix: str = "") -> StorePath:
    return StorePath(base32.encode(chance.randbytes(20)), chance.choice(("a", "x-1.0", "a+b?=", "_.-")) + suffix)


def random_hash(chance: random.Random, algorithm: str) -> Hash:
    return Hash(algorithm, chance.randbytes(SIZES[algorithm]))


def spelled(chance: random.Random, one: Hash) -> str:
    return chance.choice((one.nix, one.hex_prefixed, one.sri))


def random_narinfo(seed: str) -> tuple[str, bytes]:
    """The hash part, and the lines: in any order, with keys that nobody knows, hashes in any spelling."""
    chance = random.Random(seed)
    path, nar_hash = random_path(chance), random_hash(chance, "sha256")
    size = chance.choice((1, 96, chance.randrange(1, 2**40)))
    references = {random_path(chance) for _ in range(chance.choice((0, 0, 1, 3, 20)))}
    if chance.random() < 0.3:
        references.add(path)
    # Nix 2.8 aborts where a flat file is said to have references.
    kinds = ("fixed:r:", "text:") if references else ("fixed:r:", "text:", "fixed:")
    lines = [
        f"StorePath: {path}",
        f"URL: nar/{nar_hash.base32}.nar",
        f"NarHash: {spelled(chance, nar_hash)}",
        f"NarSize: {size}",
        "References: " + " ".join(ref.base_name for ref in chance.sample(sorted(references), len(references))),
    ]
    optional = [
        f"Compression: {chance.choice(('none', 'xz', 'zstd', ''))}",
        f"FileHash: {spelled(chance, random_hash(chance, chance.choice(sorted(SIZES))))}",
        f"FileSize: {chance.randrange(2**40)}",
        f"Deriver: {chance.choice((random_path(chance, '.drv').base_name, 'unknown-deriver'))}",
        f"CA: {chance.choice(kinds)}{random_hash(chance, 'sha256').nix}",
        f"X-Else: {chance.choice(('', 'x: y', 'ä'))}",
        "System: x86_64-linux",
    ]
    lines += chance.sample(optional, chance.randrange(len(optional)))
    for _ in range(chance.choice((0, 1, 1, 2))):
        lines.append(f"Sig: {_signature(chance, fingerprint(path, nar_hash, size, references))}")
    return path.hash_part, ("\n".join(chance.sample(lines, len(lines))) + "\n").encode()


def _signature(chance: random.Random, signed: bytes) -> Signature:
    name = chance.choice(sorted(KEYS))
    data = bytearray(KEYS[name].sign(signed if chance.random() < 0.8 else signed + b","))
    if chance.random() < 0.2:
        data[chance.randrange(64)] ^= 1 << chance.randrange(8)
    return Signature(chance.choice((name, name, name, "tr-1")), bytes(data))


def described(info: NarInfo) -> dict[str, Any]:
    """As `nix path-info --json` tells it."""
    told = {
        "path": str(info.path),
        "url": info.url,
        "narHash": info.nar_hash.sri,
        "narSize": info.nar_size,
        "references": list(map(str, info.references)),
        "deriver": str(info.deriver) if info.deriver else None,
        "ca": info.ca or None,
        "signatures": sorted(info.signatures) or None,
        "downloadHash": info.file_hash.sri if info.file_hash else None,
        "downloadSize": info.file_size or None,
    }
    return {key: value for key, value in told.items() if value is not None}


def check(first: int, count: int, nix: RealNix, cache: Path) -> None:
    cache.mkdir()
    (cache / "nix-cache-info").write_text("StoreDir: /nix/store\n")
    infos = {}
    for number in range(first, first + count):
        part, data = random_narinfo(f"narinfo {number}")
        (cache / f"{part}.narinfo").write_bytes(data)
        infos[f"narinfo {number}"] = narinfo.parse(data, f"narinfo {number}", part)
    paths = [str(info.path) for info in infos.values()]
    nix_command = ("--extra-experimental-features", "nix-command")
    told = json.loads(nix.output("nix", *nix_command, "path-info", "--json", "--store", f"file://{cache}", *paths))
    for one in told:
        one.get("signatures", []).sort()
    by_path = {one["path"]: one for one in told}
    assert [(seed, by_path[str(info.path)]) for seed, info in infos.items()] == [
        (seed, described(info)) for seed, info in infos.items()
    ]
    keys = " ".join(map(str, TRUSTED))
    arguments = ("--no-contents", "--sigs-needed", "1", "--option", "trusted-public-keys", keys)
    done = nix.run(
        "nix", *nix_command, "store", "verify", "--store", f"file://{cache}", *arguments, *paths, check=False
    )
    untrusted = {line.split("'")[1] for line in done.stderr.decode().splitlines() if "is untrusted" in line}
    for seed, info in infos.items():
        assert any_trusted(info.fingerprint, info.signatures, TRUSTED) == (str(info.path) not in untrusted), seed
    assert 0 < len(untrusted) < count


def test_nix_reads_and_trusts_100_random_narinfos_as_we_do(nix: RealNix, tmp_path: Path) -> None:
    check(0, 100, nix, tmp_path / "cache")


@pytest.mark.slow
def test_nix_reads_and_trusts_3000_random_narinfos_as_we_do(nix: RealNix, tmp_path: Path) -> None:
    for first in range(0, 3000, 500):
        check(10_000 + first, 500, nix, tmp_path / f"cache{first}")
