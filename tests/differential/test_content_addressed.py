"""Random paths that hold their own hash parts, rewritten by real Nix to lie where their contents say.

Each has a seed of its own, which a failure names.
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix import base32, nar
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store import content_address
from reconciler.core.store.path_info import PathInfo
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def random_self(chance: random.Random, path: StorePath, others: list[StorePath]) -> nar.Node:
    """A tree that names itself in files, across the borders of chunks, in links and in the names of entries."""

    def text() -> bytes:
        parts = []
        for _ in range(chance.randrange(1, 6)):
            named = chance.choice([path, path, *others])
            parts.append(chance.choice((str(named), named.base_name, named.hash_part, named.hash_part * 2)).encode())
            parts.append(chance.randbytes(chance.choice((0, 1, 31, 500, nar.CHUNK - 100, nar.CHUNK - 16))))
        chance.shuffle(parts)
        return b"".join(parts)

    entries: dict[str, nar.Node] = {f"file{number}": nar.File(text()) for number in range(chance.randrange(1, 4))}
    entries["link"] = nar.Link(f"{path}/file0")
    if chance.random() < 0.5:
        entries[f"x{path.hash_part}-y"] = nar.Directory({path.hash_part: nar.File(b"")})
    return nar.Directory(entries)


def fill(store: Store, first: int, count: int) -> dict[StorePath, str]:
    """Add the paths; their seeds by path."""
    seeds: dict[StorePath, str] = {}
    for number in range(first, first + count):
        seed = f"self {number}"
        chance = random.Random(seed)
        path = StorePath(base32.encode(chance.randbytes(20)), f"self-{number}")
        others = chance.sample(sorted(seeds), min(len(seeds), chance.randrange(3)))
        data = nar.encode(random_self(chance, path, others))
        references = [one for one in (path, *others) if one.hash_part.encode() in data]
        store.add_nar(PathInfo(path, Hash.sha256(data), len(data), tuple(references)), io.BytesIO(data))
        seeds[path] = seed
    return seeds


def check(first: int, count: int, store: Store, nix: RealNix) -> None:
    seeds = fill(store, first, count)
    store.close()  # for this feature Nix changes the tables, and waits until nobody else has them open
    features = ("--extra-experimental-features", "nix-command ca-derivations")
    told = nix.output("nix", *features, "store", "make-content-addressed", "--json", *map(str, seeds))
    rewrites = {StorePath.parse(old): StorePath.parse(new) for old, new in json.loads(told)["rewrites"].items()}
    assert set(rewrites) == set(seeds)
    own = 0
    for old, new in rewrites.items():
        info = store.info(new)
        assert info.ca, seeds[old]
        try:
            content_address.check(info, store.real(new))
        except StoreError as error:
            raise AssertionError(f"{seeds[old]}: {error.message}") from error
        with pytest.raises(StoreError):  # positive control: without the rule for self references it would be elsewhere
            content_address.check(replace(info, references=info.other_references), store.real(new))
        own += new in info.references
    assert own > count // 2
    nix.verify()


def test_20_paths_with_self_references_lie_where_nix_rewrote_them(store: Store, nix: RealNix) -> None:
    check(0, 20, store, nix)


@pytest.mark.slow
def test_300_paths_with_self_references_lie_where_nix_rewrote_them(store: Store, nix: RealNix, tmp_path: Path) -> None:
    check(1000, 300, store, nix)
