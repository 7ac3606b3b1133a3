"""References: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.errors import StoreError, UsageError
from reconciler.core.store.store import Store
from reconciler.inventory.desired import Position
from reconciler.packages.instantiate import instantiate
from reconciler.packages.model import Package
from tests.packages.project import SYSTEM, Project

WHERE = Position("hosts.yml", 4, 9)
WEB = "toolchain: host\nversions: {1.9: , 1.24: , 1.24.3: , 1.240: , 2.0pre1: }\n"


@pytest.fixture
def web(project: Project) -> Project:
    project.recipe("web", WEB)
    return project


@pytest.mark.parametrize(
    ("reference", "version"),
    [("web", "1.240"), ("web@1", "1.240"), ("web@1.24", "1.24.3"), ("web@1.9", "1.9"), ("web@2.0pre1", "2.0pre1")],
)
def test_a_reference_means_the_newest_version_that_matches(web: Project, reference: str, version: str) -> None:
    expected = "2.0pre1" if reference == "web" else version
    package = web.resolver().resolve(reference, SYSTEM)
    assert (package.name, package.version) == ("web", expected)
    assert package.output.name == f"web-{expected}"


UNKNOWN = {
    "wbe": ("there is no package 'wbe'", "did you mean 'web'?"),
    "postgresql": ("there is no package 'postgresql'", "recipes are looked up in inventories/test/packages, packages"),
    "../web": ("there is no package '../web'", None),
    "web@3": ("there is no web@3", "web has 2.0pre1, 1.240, 1.24.3, 1.24, 1.9"),
    "web@1.25": ("there is no web@1.25", "did you mean 'web@1.24'?  web has 2.0pre1, 1.240, 1.24.3, 1.24, 1.9"),
    "web@": ("there is no web@", "web has 2.0pre1, 1.240, 1.24.3, 1.24, 1.9"),
    "nixpkgs:htop": (
        "there is no package set 'nixpkgs'",
        "the sets are recipes; reconciler.yml says others by `sets:`",
    ),
    "/usr/bin/htop": ("'/usr/bin/htop' is no store path: it is not in /nix/store", None),
    f"/nix/store/{'0' * 32}-x/bin/x": ("'x/bin/x' cannot name a store path", None),
    f"/nix/store/{'0' * 32}-x.drv": (f"/nix/store/{'0' * 32}-x.drv is a derivation, not a package", None),
}


@pytest.mark.parametrize("reference", UNKNOWN)
def test_a_reference_that_means_nothing_is_told_with_its_place(web: Project, reference: str) -> None:
    message, hint = UNKNOWN[reference]
    with pytest.raises(UsageError) as error:
        web.resolver().resolve(reference, SYSTEM, WHERE)
    assert error.value.message == f"hosts.yml:4:9: {message}"
    if hint is not None:
        assert error.value.hint == hint


def test_recipes_beside_the_inventory_come_before_the_projects(project: Project) -> None:
    project.recipe("tool", "version: 1\ntoolchain: host\n", near=False)
    project.recipe("other", "version: 5\ntoolchain: host\n", near=False)
    project.recipe("tool", "version: 2\ntoolchain: host\n")
    resolver = project.resolver()
    assert resolver.names() == ("other", "tool")
    assert resolver.resolve("tool", SYSTEM).version == "2"
    assert resolver.resolve("other", SYSTEM).version == "5"


def test_faults_of_an_input_are_told_where_the_input_stands(web: Project) -> None:
    web.recipe("top", "version: 1\ntoolchain: host\ninputs:\n  - web@9\n")
    with pytest.raises(UsageError, match=r"^inventories/test/packages/top\.yml:4:5: there is no web@9$"):
        web.resolver().resolve("top", SYSTEM, WHERE)


def test_inputs_may_be_deep_and_not_without_end(project: Project) -> None:
    for number in range(200):
        inputs = f"inputs: [p{number + 1}]\n" if number < 199 else ""
        project.recipe(f"p{number}", f"version: 1\ntoolchain: host\n{inputs}")
    assert project.resolver().resolve("p60", SYSTEM).name == "p60"
    with pytest.raises(UsageError) as error:
        project.resolver().resolve("p0", SYSTEM)
    assert error.value.message == (
        "inventories/test/packages/p149.yml:3:10: p149@1 is an input of inputs of p0@1, more than 150 deep"
    )


def test_packages_that_need_each_other_are_an_error(project: Project) -> None:
    project.recipe("a", "version: 1\ntoolchain: host\ninputs: [b]\n")
    project.recipe("b", "version: 2\ntoolchain: host\ninputs: [c]\n")
    project.recipe("c", "version: 3\ntoolchain: host\ninputs: [b@2]\n")
    with pytest.raises(UsageError) as error:
        project.resolver().resolve("a", SYSTEM)
    assert error.value.message == (
        "inventories/test/packages/c.yml:3:10: these packages are inputs of each other: b@2 -> c@3 -> b@2"
    )


def test_a_package_may_be_made_from_an_older_version_of_itself(project: Project) -> None:
    project.recipe("tool", "toolchain: host\nversions: {1: , 2: {inputs: [tool@1]}}\n")
    resolver = project.resolver()
    assert len(resolver.graph([resolver.resolve("tool", SYSTEM)]).derivations) == 2


def test_store_paths_do_not_depend_on_times_modes_or_whose_checkout_it_is(project: Project, tmp_path: Path) -> None:
    def resolve(where: Project, mode: int, mtime: float) -> Package:
        where.recipe("tool", "version: 1\ntoolchain: host\nsource: {path: src}\nbuild: cp -R . $out\n")
        file = where.file("src/file", "text")
        file.chmod(mode)
        os.utime(file, (mtime, mtime))
        return where.resolver().resolve("tool", SYSTEM)

    other = Project(tmp_path / "elsewhere")
    assert resolve(project, 0o644, 1e9) == resolve(other, 0o600, 1.7e9)
    assert resolve(project, 0o644, 1e9) != resolve(other, 0o700, 1e9)


@pytest.mark.parametrize("change", ["version: 2", "build: b", "inputs: [web]", "source: {path: web.yml}"])
def test_whatever_a_build_could_notice_changes_the_store_path(web: Project, change: str) -> None:
    lines = {"version": "version: 1", "build": "build: a", "inputs": "inputs: []", "source": "sources: []"}
    web.recipe("tool", "toolchain: host\n" + "\n".join(lines.values()))
    before = web.resolver().resolve("tool", SYSTEM).output
    lines[change.partition(":")[0]] = change
    web.recipe("tool", "toolchain: host\n" + "\n".join(lines.values()))
    assert web.resolver().resolve("tool", SYSTEM).output != before


def test_words_about_a_package_do_not_change_its_store_path(project: Project) -> None:
    project.recipe("tool", "version: 1\ntoolchain: host\n")
    before = project.resolver().resolve("tool", SYSTEM)
    project.recipe("tool", "# new\nversions: {1: , 2: }\ndescription: x\nhome: y\ntoolchain: host\n")
    assert project.resolver().resolve("tool@1", SYSTEM) == before


def test_resolving_writes_nothing_and_instantiating_writes_the_whole_graph(web: Project, store: Store) -> None:
    web.recipe("top", "version: 1\ntoolchain: host\ninputs: [web@1.9, web@1.24.3]\n".replace("web@1.24.3", "mid"))
    web.recipe("mid", "version: 1\ntoolchain: host\nsource: {path: data}\n")
    web.file("data", "x")
    resolver = web.resolver()
    package = resolver.resolve("top", SYSTEM)
    graph = resolver.graph([package])
    assert sorted(path.name for path in graph.derivations) == ["mid-1.drv", "top-1.drv", "web-1.9.drv"]
    assert sorted(path.name for path in graph.sources) == ["data", "recipe-build.sh"]
    assert store.valid([*graph.derivations, *graph.sources]) == set()
    instantiate(graph, store)
    assert store.valid([*graph.derivations, *graph.sources]) == {*graph.derivations, *graph.sources}
    instantiate(graph, store)  # and again, which finds all of it
    assert package.derivation is not None
    assert store.read_derivation(package.derivation).output_paths() == {"out": package.output}


def test_a_store_path_is_a_package_of_its_own_that_must_be_there(project: Project, store: Store) -> None:
    path = store.add_text("tool-2.5", b"x")
    resolver = project.resolver()
    package = resolver.resolve(str(path), SYSTEM)
    assert package == Package("tool", "2.5", path, None)
    instantiate(resolver.graph([package]), store)
    missing = resolver.resolve(f"/nix/store/{'0' * 32}-x-1", SYSTEM)
    with pytest.raises(StoreError, match="is not in this controller's store"):
        instantiate(resolver.graph([missing]), store)


def test_a_source_that_changes_after_it_was_read_is_an_error(project: Project, store: Store) -> None:
    project.recipe("tool", "version: 1\ntoolchain: host\nsource: {path: data}\n")
    file = project.file("data", "before")
    resolver = project.resolver()
    graph = resolver.graph([resolver.resolve("tool", SYSTEM)])
    file.write_text("after")
    with pytest.raises(StoreError, match="was changed while it was read"):
        instantiate(graph, store)


def test_a_source_has_one_path_wherever_the_checkout_lies_and_however_it_is_called(tmp_path: Path) -> None:
    paths = set()
    for name in ("shop", "work/shop of bob"):
        project = Project(tmp_path / name)
        project.inventory.mkdir(parents=True)
        project.recipe("all", "version: 1\ntoolchain: host\nkind: files\nsource: {path: ..}\n", near=False)
        paths.add(str(project.resolver().resolve("all", SYSTEM).output))
    assert len(paths) == 1
