"""Derivations, against the .drv files that real Nix wrote (tests/golden/derivations)."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix import derivation
from reconciler.core.nix.derivation import Derivation, ModuloCache, Output
from reconciler.core.nix.store_path import StorePath
from reconciler.core.values import replace
from tests.core.nix.trees import GOLDEN
from tests.oracle import RealNix

FOLDER = GOLDEN / "derivations"
NAMES = sorted(path.name for path in FOLDER.glob("*.drv"))


@functools.cache
def read(path: StorePath) -> Derivation:
    return Derivation.parse((FOLDER / path.base_name).read_bytes())


def without_outputs(drv: Derivation) -> Derivation:
    outputs = {name: replace(output, path=None) for name, output in drv.outputs.items()}
    return replace(drv, outputs=outputs)


def drv_name(path: StorePath) -> str:
    return path.name.removesuffix(".drv")


@pytest.mark.parametrize("name", NAMES)
def test_a_derivation_is_read_and_written_byte_for_byte(name: str) -> None:
    path = StorePath.from_base_name(name)
    drv = read(path)
    assert drv.serialise() == (FOLDER / name).read_bytes()
    assert drv.path(drv_name(path)) == path


@pytest.mark.parametrize("name", NAMES)
def test_output_paths_are_those_that_nix_computed(name: str) -> None:
    path = StorePath.from_base_name(name)
    assert derivation.with_outputs(without_outputs(read(path)), drv_name(path), read) == read(path)


def test_output_paths_do_not_depend_on_what_stood_in_their_place() -> None:
    path = StorePath.from_base_name(next(name for name in NAMES if name.endswith("-base.drv")))
    drv = read(path)
    wrong = {name: Output(path) for name in drv.outputs}
    environment = {key: value for key, value in drv.environment.items() if key not in drv.outputs}
    changed = replace(drv, outputs=wrong, environment=environment)
    assert derivation.with_outputs(changed, "base", read) == drv


def test_inputs_of_equal_hash_are_merged() -> None:
    """`split` takes one output of each of two derivations that differ in a fetcher, `joined` both outputs of one."""
    parents = [read(StorePath.from_base_name(name)) for name in NAMES if name.endswith("-parent.drv")]
    assert len(parents) == 2
    assert parents[0].output_paths() == parents[1].output_paths()
    assert {len(parent.input_derivations) for parent in parents} == {1, 2}


def test_a_shared_cache_gives_the_same_paths() -> None:
    cache = ModuloCache()
    for name in NAMES:
        path = StorePath.from_base_name(name)
        assert derivation.with_outputs(without_outputs(read(path)), drv_name(path), read, cache) == read(path)
    assert cache.hashes


def test_a_chain_of_thousands_of_derivations_is_hashed_without_recursion() -> None:
    known: dict[StorePath, Derivation] = {}
    inputs: dict[StorePath, tuple[str, ...]] = {}
    cache = ModuloCache()
    for number in range(3000):
        drv = Derivation({"out": Output(None)}, inputs, (), "x86_64-linux", "/bin/sh", (), {"n": str(number)})
        drv = derivation.with_outputs(drv, "link", known.__getitem__, cache)
        path = drv.path("link")
        known[path] = drv
        inputs = {path: ("out",)}
    last = next(iter(inputs))
    afresh = derivation.hash_modulo(last, known.__getitem__)
    assert afresh == derivation.hash_modulo(last, known.__getitem__, cache)


def test_a_text_that_was_made_once_is_of_this_derivation_alone() -> None:
    drv = Derivation({"out": Output(None)}, {}, (), "s", "b", (), {"a": "1"})
    twin = Derivation({"out": Output(None)}, {}, (), "s", "b", (), {"a": "1"})
    text = drv.serialise()
    assert drv.serialise() is text
    assert (drv, hash_of(drv), repr(drv)) == (twin, hash_of(twin), repr(twin))
    changed = replace(drv, environment={"a": '2\n"'})
    assert changed.serialise() == text.replace(b'"1"', b'"2\\n\\""')
    assert Derivation.parse(changed.serialise()) == changed


def hash_of(drv: Derivation) -> str:
    return str(drv.path("name"))


def test_derivations_that_depend_on_each_other_are_refused() -> None:
    one, two = (StorePath.parse(f"/nix/store/{digit * 32}-x.drv") for digit in "12")
    graph = {
        one: Derivation({"out": Output(None)}, {two: ("out",)}, (), "s", "b", (), {}),
        two: Derivation({"out": Output(None)}, {one: ("out",)}, (), "s", "b", (), {}),
    }
    with pytest.raises(FormatError, match="in a circle"):
        derivation.hash_modulo(one, graph.__getitem__)


PLAIN = b'Derive([("out","","","")],[],[],"s","b",["x"],[("a","1"),("b","2")])'


def test_bytes_that_are_no_text_survive() -> None:
    data = PLAIN.replace(b'"1"', b'"\xff\xfe\xc3\xa4\\n\\""')
    drv = Derivation.parse(data)
    assert drv.environment["a"].encode(errors="surrogateescape") == b'\xff\xfe\xc3\xa4\n"'
    assert drv.serialise() == data


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Derive(", b"Deriv("),
        (b"Derive(", b'DrvWithVersion("xp-dyn-drv",'),
        (b'"x"]', b'"x]'),
        (b'("a","1"),("b","2")', b'("b","2"),("a","1")'),
        (b'("a","1"),("b","2")', b'("a","1"),("a","1")'),
        (b'"1"', b'"\\a"'),
        (b'"1"', b'"\n"'),
        (b'"s","b"', b'"s", "b"'),
        (b'("out","","","")', b'("out","/etc/passwd","","")'),
        (b'("out","","","")', b'("out","","")'),
        (b"[],[],", b'[],["/nix/store/../x"],'),
        (b'("b","2")])', b'("b","2")])\n'),
        (b'("b","2")])', b'("b","2")'),
        (b'("b","2")])', b'("b","2'),
        (PLAIN, b""),
    ],
)
def test_what_nix_would_not_write_is_refused(old: bytes, new: bytes) -> None:
    assert Derivation.parse(PLAIN).serialise() == PLAIN
    assert old in PLAIN
    with pytest.raises(FormatError):
        Derivation.parse(PLAIN.replace(old, new, 1))


def test_a_floating_output_is_read_but_has_no_path() -> None:
    drv = Derivation.parse(PLAIN.replace(b'("out","","","")', b'("out","","r:sha256","")'))
    with pytest.raises(FormatError, match="experimental"):
        derivation.with_outputs(drv, "x", read)


@pytest.mark.parametrize("name", [b"\xff", b"\xc3\xa4", b"a b", b"a/b", b"x" * 300])
def test_an_output_whose_name_no_path_can_have_is_refused(name: bytes) -> None:
    drv = Derivation.parse(PLAIN.replace(b'("out"', b'("' + name + b'"'))
    with pytest.raises(FormatError, match="cannot name a store path"):
        derivation.with_outputs(drv, "x", read)


@pytest.mark.parametrize("digest", [b"\xff", b"00", b""])
def test_a_fixed_output_without_a_right_hash_is_no_input(digest: bytes) -> None:
    path = StorePath.from_base_name(next(name for name in NAMES if name.endswith("-hello.txt.drv")))
    data = (FOLDER / path.base_name).read_bytes()
    fixed = read(path).outputs["out"]
    spoiled = Derivation.parse(data.replace(fixed.hash.encode(), digest, 1))
    with pytest.raises(FormatError, match=r"is no hash|experimental"):
        derivation.hash_modulo(path, lambda _: spoiled)


@pytest.mark.nix
def test_real_nix_still_writes_the_golden_derivations(nix: RealNix) -> None:
    paths = nix.output("nix-instantiate", FOLDER / "graph.nix").splitlines()
    assert sorted(Path(path.partition("!")[0]).name for path in paths) == NAMES
    for name in NAMES:
        assert (nix.root / "nix/store" / name).read_bytes() == (FOLDER / name).read_bytes()
