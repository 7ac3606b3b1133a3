"""Random trees: archives, hashes and store paths, all equal to real Nix's.

Each tree has a seed of its own, which a failure names: `random_tree(random.Random(SEED))` makes it again.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import listing, nar, store_path
from reconciler.core.nix.export import Exports
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import StorePath
from tests.conftest import make_writable
from tests.differential.trees import random_tree, write_tree
from tests.oracle import RealNix, program

BATCH = 150
ALGORITHMS = ("md5", "sha1", "sha256", "sha512")
# Names that a store path may have; each tree is added under one of them and its number.
NAMES = ("tree", "a+b", "x_y.tar.gz", "n?v=1", "-dash", "UPPER", "t.drv", "9")

pytestmark = pytest.mark.nix


class Case:
    """One tree, on disk and in memory."""

    def __init__(self, number: int, folder: Path) -> None:
        self.seed = f"tree {number}"
        chance = random.Random(self.seed)
        self.node = random_tree(chance)
        self.path = folder / f"{chance.choice(NAMES)}{number}"
        self.algorithm = ALGORITHMS[number % len(ALGORITHMS)]
        write_tree(chance, self.node, os.fsencode(self.path))
        self.archive = nar.encode(self.node)

    @property
    def store_path(self) -> StorePath:
        return store_path.source_path(self.path.name, Hash.sha256(self.archive))

    def fixed(self, recursive: bool) -> StorePath:
        data = self.archive if recursive else getattr(self.node, "contents", b"")
        digest = hashlib.new(self.algorithm, data).digest()
        return store_path.fixed_path(self.path.name, Hash(self.algorithm, digest), recursive)


def check(first: int, count: int, nix: RealNix, folder: Path) -> None:
    folder.mkdir()
    cases = [Case(number, folder) for number in range(first, first + count)]
    try:
        _check_archives(cases, folder)
        _check_hashes(cases)
        _check_store(cases, nix)
        _check_listings(cases, nix, folder.with_name(folder.name + ".cache"))
        _check_fixed(cases, nix)
        _check_restored(cases, folder.with_name(folder.name + ".restored"))
    finally:
        make_writable(folder.parent)


def _check_archives(cases: list[Case], folder: Path) -> None:
    for case in cases:
        assert b"".join(nar.dump(str(case.path))) == case.archive, case.seed
        assert nar.decode(case.archive) == case.node, case.seed
    whole = subprocess.run([program("nix-store"), "--dump", folder], capture_output=True, check=True).stdout
    assert b"".join(nar.dump(str(folder))) == whole


def _check_hashes(cases: list[Case]) -> None:
    for algorithm in ALGORITHMS:
        found = _nix_hash(algorithm, [case.path for case in cases])
        ours = [Hash(algorithm, hashlib.new(algorithm, case.archive).digest()).base32 for case in cases]
        _same(cases, ours, found)


def _nix_hash(algorithm: str, paths: list[Path]) -> list[str]:
    command = [program("nix-hash"), "--type", algorithm, "--base32", *map(str, paths)]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def _check_store(cases: list[Case], nix: RealNix) -> None:
    added = nix.output("nix-store", "--add", *(case.path for case in cases)).splitlines()
    _same(cases, [str(case.store_path) for case in cases], added)
    _same(cases, [Hash.sha256(case.archive).nix for case in cases], _query(nix, "--hash", added))
    _same(cases, [str(len(case.archive)) for case in cases], _query(nix, "--size", added))
    by_path = {case.store_path: case for case in cases}
    exported = subprocess.Popen(
        [program("nix-store"), "--store", nix.root, "--export", *added], env=nix.environment, stdout=subprocess.PIPE
    )
    assert exported.stdout is not None
    with exported.stdout as stream:
        exports = Exports(stream)
        while exports.more():
            archive: list[bytes] = []
            exports.archive(archive.append)
            case = by_path.pop(exports.trailer().path)
            assert b"".join(archive) == case.archive, case.seed
    assert exported.wait() == 0
    assert not by_path


def _check_listings(cases: list[Case], nix: RealNix, cache: Path) -> None:
    """The same tree, sizes and offsets; where a name or target is no text, we have no listing, and Nix's is no JSON."""
    paths = [str(case.store_path) for case in cases]
    url = f"file://{cache}?compression=none&write-nar-listing=1"
    nix.run("nix", "--extra-experimental-features", "nix-command", "copy", "--to", url, *paths)
    listed = 0
    for case in cases:
        theirs = (cache / f"{case.store_path.hash_part}.ls").read_bytes()
        try:
            ours = listing.listing(nar.ChunkReader([case.archive]))
        except FormatError as error:
            assert "is not UTF-8" in error.message, case.seed  # noqa: PT017
            with pytest.raises(UnicodeDecodeError):
                theirs.decode()
            continue
        assert json.loads(ours) == json.loads(theirs), case.seed
        listed += 1
    assert listed > len(cases) // 4


def _query(nix: RealNix, what: str, paths: list[str]) -> list[str]:
    return nix.output("nix-store", "--query", what, *paths).splitlines()


def _check_fixed(cases: list[Case], nix: RealNix) -> None:
    for algorithm in ALGORITHMS:
        chosen = [case for case in cases if case.algorithm == algorithm]
        found = nix.output("nix-store", "--add-fixed", "--recursive", algorithm, *(case.path for case in chosen))
        _same(chosen, [str(case.fixed(recursive=True)) for case in chosen], found.splitlines())
        flat = [case for case in chosen if isinstance(case.node, nar.File)]
        if flat:
            found = nix.output("nix-store", "--add-fixed", algorithm, *(case.path for case in flat))
            _same(flat, [str(case.fixed(recursive=False)) for case in flat], found.splitlines())


def _check_restored(cases: list[Case], folder: Path) -> None:
    """What we unpack, Nix hashes as what it was packed from."""
    folder.mkdir()
    fd = os.open(folder, os.O_RDONLY)
    try:
        for case in cases:
            assert nar.restore(nar.ChunkReader([case.archive]), fd, case.path.name) == len(case.archive), case.seed
    finally:
        os.close(fd)
    found = _nix_hash("sha256", [folder / case.path.name for case in cases])
    _same(cases, [Hash.sha256(case.archive).base32 for case in cases], found)


def _same(cases: list[Case], ours: list[str], theirs: list[str]) -> None:
    seeds = [case.seed for case in cases]
    assert list(zip(seeds, theirs, strict=True)) == list(zip(seeds, ours, strict=True))


def test_nix_agrees_on_every_archive_hash_and_store_path_of_150_random_trees(nix: RealNix, tmp_path: Path) -> None:
    check(0, BATCH, nix, tmp_path / "trees")
    nix.verify()


def test_a_difference_would_be_seen_and_name_the_seed(tmp_path: Path) -> None:
    case = Case(0, tmp_path)
    _check_hashes([case])
    case.archive += b"x"
    with pytest.raises(AssertionError, match=case.seed):
        _check_hashes([case])
    make_writable(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 125))
def test_nix_agrees_on_1000_random_trees(first: int, nix: RealNix, tmp_path: Path) -> None:
    check(10_000 + first, 125, nix, tmp_path / "trees")
    nix.verify()
