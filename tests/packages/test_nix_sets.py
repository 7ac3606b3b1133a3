"""Nix expressions and flakes: evaluated by real Nix, built by us to the paths that real Nix builds."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.sandbox import TOOLCHAIN_PATHS
from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.errors import UsageError
from reconciler.core.store.store import Store
from reconciler.inventory.desired import Position
from reconciler.inventory.sets import NixSet, RecipesSet
from reconciler.packages.instantiate import instantiate
from reconciler.packages.lock import Lock
from reconciler.packages.resolver import PackageSets, Resolver
from tests.oracle import RealNix
from tests.packages.project import Project

pytestmark = pytest.mark.nix

SYSTEM = host_system()
SANDBOX_PATHS = "sandbox-paths = " + " ".join(path for path in TOOLCHAIN_PATHS if Path(path).exists())
SET = Position("reconciler.yml", 2, 5)
EXPRESSION = """\
{ system ? builtins.currentSystem }:
let
  mk = name: version: script: deps: derivation ({
    name = "${name}-${version}"; inherit system; toolchain = "TOOLCHAIN";
    builder = "/bin/sh"; args = [ "-c" script ];
  } // deps);
in rec {
  words = mk "words" "1.0" "echo from nix, $(read line < $file; echo $line) > $out" { file = ./words.txt; };
  greet = mk "greet" "2.1" "read line < $words; echo $line > $out; echo manual > $man"
    { inherit words; outputs = [ "out" "man" ]; };
  nested.deep = words;
  broken = throw "this cannot be evaluated";
  text = "no derivation";
}
"""
FLAKE = '{ outputs = { self }: { packages.SYSTEM = import ./default.nix { system = "SYSTEM"; }; }; }\n'


@pytest.fixture
def expression(project: Project) -> Project:
    (project.root / "default.nix").write_text(EXPRESSION.replace("TOOLCHAIN", host_toolchain()))
    (project.root / "words.txt").write_text("a line\n")
    (project.root / "flake.nix").write_text(FLAKE.replace("SYSTEM", SYSTEM))
    return project


def resolver(project: Project, cache: Path, lock: Lock | None = None, flake: bool = False) -> Resolver:
    spec = NixSet("ours", None if flake else "default.nix", "path:." if flake else None, SET)
    return Resolver(project.root, project.inventory, lock, PackageSets((RecipesSet("packages"), spec), (), cache))


@pytest.mark.parametrize("flake", [False, True], ids=["a file", "a flake"])
def test_what_nix_evaluates_is_built_by_us_to_what_nix_builds(
    expression: Project, tmp_path: Path, store: Store, nix: RealNix, flake: bool
) -> None:
    found = resolver(expression, tmp_path / "cached", flake=flake)
    package = found.resolve("greet", SYSTEM)
    assert (package.version, [path.name for path in package.also]) == ("2.1", ["greet-2.1-man"])
    instantiate(found.graph([package]), store)
    assert package.derivation is not None
    realise(store, [package.derivation])
    assert Path(store.real(package.output)).read_text() == "from nix, a line\n"
    nix.verify()

    real = RealNix(tmp_path / "real", sandbox=True, config=SANDBOX_PATHS)
    built = real.output(
        "nix-build",
        "--no-out-link",
        str(expression.root / "default.nix"),
        "--attr",
        "greet",
        "--argstr",
        "system",
        SYSTEM,
    )
    assert built.splitlines()[-1].split("!")[0] == str(package.output)
    with Store.open(str(tmp_path / "real")) as other:
        assert other.info(package.output).nar_hash == store.info(package.output).nar_hash


def test_what_is_pinned_is_not_evaluated_again(
    expression: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resolver(expression, tmp_path / "cached")
    package = before.resolve("ours:greet@2", SYSTEM)
    (entry,) = before.unlocked()
    assert (entry.set, entry.path, entry.derivation) == ("ours", package.output, package.derivation)
    monkeypatch.setenv("PATH", "/nowhere")
    later = resolver(expression, tmp_path / "cached", Lock().with_entries([entry]))
    assert later.resolve("ours:greet@2", SYSTEM) == package
    assert later.graph([package]).derivations


def test_at_another_controller_a_pin_is_evaluated_and_has_to_be_the_same(expression: Project, tmp_path: Path) -> None:
    before = resolver(expression, tmp_path / "cached")
    package = before.resolve("greet", SYSTEM)
    lock = Lock().with_entries(before.unlocked())
    assert resolver(expression, tmp_path / "other", lock).resolve("greet", SYSTEM) == package
    (expression.root / "words.txt").write_text("another line\n")
    with pytest.raises(UsageError) as error:
        resolver(expression, tmp_path / "third", lock).resolve("greet", SYSTEM)
    assert f"greet is locked at {package.derivation}, and reconciler.yml:2:5: default.nix gives " in error.value.message
    assert error.value.hint == "reconciler lock --update greet"


def test_a_recipe_takes_an_input_from_an_expression(expression: Project, tmp_path: Path, store: Store) -> None:
    expression.recipe("top", 'version: 1\ntoolchain: host\ninputs: ["ours:words"]\nbuild: cp $words $out\n')
    found = resolver(expression, tmp_path / "cached")
    package = found.resolve("top", SYSTEM)
    instantiate(found.graph([package]), store)
    assert package.derivation is not None
    realise(store, [package.derivation])
    assert Path(store.real(package.output)).read_text() == "from nix, a line\n"


FAULTS = {
    "ours:nothing": "there is no package 'nothing'",
    "greet@3": "there is no greet@3",
    "ours:broken": "this cannot be evaluated",
    "ours:text": "reconciler.yml:2:5: default.nix",
}


@pytest.mark.parametrize("reference", FAULTS)
def test_what_cannot_be_evaluated_is_told(expression: Project, tmp_path: Path, reference: str) -> None:
    with pytest.raises(UsageError) as error:
        resolver(expression, tmp_path / "cached").resolve(reference, SYSTEM, Position("hosts.yml", 3, 4))
    assert FAULTS[reference] in error.value.message


def test_without_nix_it_is_said_that_only_nix_can(
    expression: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UsageError, match="`nix-instantiate` is not installed, and only Nix can evaluate this"):
        resolver(expression, tmp_path / "cached").resolve("greet", SYSTEM)
