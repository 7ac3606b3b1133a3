"""NixOS systems: evaluated by real Nix, pinned where something else than an edit can move them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import UsageError
from reconciler.inventory.desired import Position
from reconciler.packages.lock import Lock
from reconciler.packages.resolver import PackageSets, Resolver
from tests.packages.project import Project

pytestmark = pytest.mark.nix

SYSTEM = host_system()
WHERE = Position("hosts.yml", 3, 7)
# What is evaluated, not what is built: nothing here is built.
EXPRESSION = """\
{ system ? "SYSTEM" }:
let toplevel = host: { config.system.build.toplevel = derivation {
  name = "nixos-system-${host}-24.05"; inherit system; builder = "/bin/sh"; said = ./said; }; };
in toplevel "only" // { web01 = toplevel "web01"; text.config.system.build.toplevel = "no derivation"; }
"""
FLAKE = """\
{ outputs = { self }: { nixosConfigurations = {
  "web01.example.org" = (import ./hosts.nix { }).web01;
  broken = throw "cannot be evaluated"; }; }; }
"""


@pytest.fixture
def configured(project: Project) -> Project:
    folder = project.root / "nixos"
    folder.mkdir()
    (folder / "hosts.nix").write_text(EXPRESSION.replace("SYSTEM", SYSTEM))
    (folder / "flake.nix").write_text(FLAKE)
    (folder / "said").write_text("one")
    return project


def resolver(project: Project, tmp_path: Path, lock: Lock | None = None) -> Resolver:
    return Resolver(project.root, project.inventory, lock, PackageSets(cache_directory=tmp_path / "cached"))


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("path:./nixos#web01.example.org", "web01"),
        ("./nixos#web01.example.org", "web01"),
        ("nixos/hosts.nix#web01", "web01"),
        ("nixos/hosts.nix", "only"),
    ],
)
def test_what_lies_in_the_project_is_evaluated_by_each_run_and_not_pinned(
    configured: Project, tmp_path: Path, text: str, name: str
) -> None:
    before = resolver(configured, tmp_path)
    package = before.resolve(f"nixos#{text}", SYSTEM, WHERE)
    assert (package.output.name, package.version) == (f"nixos-system-{name}-24.05", "24.05")
    assert before.used() == ()
    graph = before.graph([package])
    assert package.derivation in graph.derivations
    assert [path.name for path in graph.sources] == ["said"]
    (configured.root / "nixos/said").write_text("two")
    assert resolver(configured, tmp_path).resolve(f"nixos#{text}", SYSTEM, WHERE).output != package.output


def test_a_flake_elsewhere_is_pinned_and_moves_when_it_is_told_to(configured: Project, tmp_path: Path) -> None:
    folder = configured.root / "nixos"

    def commit() -> None:
        for words in (["init", "-q"], ["add", "."], ["commit", "-qm", "x"]):
            identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
            subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)

    commit()
    text = f"git+file://{folder}#web01.example.org"
    first = resolver(configured, tmp_path)
    package = first.resolve(f"nixos#{text}", SYSTEM, WHERE)
    (entry,) = first.unlocked()
    assert (entry.set, entry.version, entry.path, entry.derivation) == (
        "nixos",
        "24.05",
        package.output,
        package.derivation,
    )
    lock = Lock().with_entries([entry])
    (folder / "said").write_text("two")
    commit()
    assert resolver(configured, tmp_path, lock).resolve(f"nixos#{text}", SYSTEM, WHERE) == package
    assert resolver(configured, tmp_path).resolve(f"nixos#{text}", SYSTEM, WHERE) != package
    # At another controller, which never evaluated the one that is pinned.
    with pytest.raises(UsageError, match=f"^hosts.yml:3:7: .* is locked at {package.derivation}, and gives ") as error:
        resolver(configured, tmp_path / "other", lock).resolve(f"nixos#{text}", SYSTEM, WHERE)
    assert error.value.hint == f"reconciler lock --update 'nixos#{text}'"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path:./nixos#broken", "hosts.yml:3:7: path:./nixos#broken cannot be evaluated:\n"),
        ("path:./nixos#nobody", "hosts.yml:3:7: path:./nixos#nobody cannot be evaluated:\n"),
        ("path:./nowhere#web01", "hosts.yml:3:7: path:./nowhere#web01 cannot be evaluated:\n"),
        ("nixos/nowhere.nix", "hosts.yml:3:7: nixos/nowhere.nix: there is no such file"),
        ("web01", "'nixos#web01' names no NixOS system"),
        ("", "'nixos#' names no NixOS system"),
        ("-x#web01", "'nixos#-x#web01' names no NixOS system"),
        ("nixos/hosts.nix#text", "hosts.yml:3:7: nixos/hosts.nix#text cannot be evaluated:\n"),
    ],
)
def test_what_cannot_be_evaluated_is_told_with_its_line(
    configured: Project, tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(UsageError) as error:
        resolver(configured, tmp_path).resolve(f"nixos#{text}", SYSTEM, WHERE)
    assert str(error.value).startswith(told)
