"""Pinned toolchains: their definitions, their packages, and the store paths that they become."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.core.errors import BuildError, Faults, StoreError, UsageError
from reconciler.core.nix.hashes import Hash
from reconciler.core.store.store import Store
from reconciler.inventory.desired import Position
from reconciler.packages import debian, debs, toolchain, toolchain_pins, toolchain_sources, toolchain_written
from reconciler.packages.instantiate import instantiate
from reconciler.packages.toolchain import Toolchain, Toolchains
from reconciler.packages.toolchain_written import WrittenSystem
from tests.packages.debs import FakeApt, deb, entry, link, pinned
from tests.packages.project import Project

SYSTEM = "x86_64-linux"
HERE = Position("packages/thing.yml", 2, 1)
NO_HASH = '"' + "0" * 64 + '"'

# A toolchain of three packages: `core` has the C library, `ld` a linker that needs it, `shell` a shell.
CORE = deb([entry("./lib/l/libc.so.6", b"library"), link("./lib64/ld.so", "/lib/l/libc.so.6"), entry("./etc/x", b"x")])
LD = deb([entry("./usr/bin/ld.real", b"linker", mode=0o755), link("./usr/bin/ld", "ld.real")])
SHELL = deb([entry("./bin/shell", b"shell", mode=0o755), entry("./usr/share/doc/shell", b"text")])
FILES = {("core", "1:2.0-1"): CORE, ("ld", "1.0-1"): LD, ("shell", "1.0-1"): SHELL}

DEFINITION = f"""# by hand
description: small
systems:
  x86_64-linux:
    loader: lib64/ld.so
    libraries: lib/l
    linkers: [bin/ld.real]
    trees:
      libc: {{nar: {NO_HASH}, packages: [core], keep: [lib, lib64], wanted: [core]}}
      shell: {{nar: {NO_HASH}, packages: [core], keep: [bin/shell], links: {{bin/sh: shell}}, wanted: [shell]}}
      tools: {{nar: {NO_HASH}, packages: [core], drop: [share], wanted: [ld], without: [shell]}}
    debs:
      core: {{version: 1, architecture: amd64, sha256: {NO_HASH}}}
"""


@pytest.fixture
def apt(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeApt:
    fake = FakeApt(dict(FILES))
    monkeypatch.setattr(debian, "_command", fake)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return fake


def define(project: Project, text: str, name: str = "small") -> Path:
    path = project.inventory / "packages/toolchains" / f"{name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def toolchains(project: Project) -> Toolchains:
    return project.resolver().toolchains


@pytest.fixture
def small(project: Project, apt: FakeApt) -> Toolchain:
    """The small toolchain, pinned."""
    file = define(project, DEFINITION)
    file.write_text(toolchain_pins.renew("small", toolchains(project), project.inventory / "packages").text)
    return toolchains(project).find("small", SYSTEM, HERE)


# --- definitions ------------------------------------------------------------------------------------------------------


def test_a_toolchain_of_the_project_hides_one_that_the_program_brings_along(project: Project) -> None:
    known = toolchains(project)
    assert known.names() == ("debian-12", "debian-12-autotools")
    brought = known.find("debian-12", SYSTEM, HERE)
    assert brought.libc.path.name == "debian-12-libc"
    assert brought.tools.references == (brought.libc.path,)
    define(project, DEFINITION, "debian-12")
    define(project, DEFINITION)
    again = toolchains(project)
    assert again.names() == ("debian-12", "debian-12-autotools", "small")
    assert again.find("debian-12", SYSTEM, HERE).libc.path != brought.libc.path


@pytest.mark.parametrize("name", ["debian-12", "debian-12-autotools"])
def test_every_package_of_the_toolchains_that_come_along_is_pinned_and_used(name: str) -> None:
    given, _ = toolchain_written.read(toolchain.shipped() / f"{name}.yml", name)
    assert list(given.systems) == ["x86_64-linux", "aarch64-linux"]
    for system in given.systems.values():
        if isinstance(system, WrittenSystem):
            trees = [system.trees.libc, system.trees.shell, system.trees.tools]
        else:
            trees = [system.tools]
        assert {name for tree in trees for name in tree.packages} == set(system.debs)


@pytest.mark.parametrize("system", ["x86_64-linux", "aarch64-linux"])
@pytest.mark.parametrize("name", ["debian-12", "debian-12-autotools"])
def test_a_recipe_for_another_architecture_becomes_a_derivation_for_it(
    project: Project, store: Store, name: str, system: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sources are not fetched: they are what a builder of that architecture is sent."""
    monkeypatch.setattr(toolchain_sources.ToolchainSource, "add_to", lambda *_: None)
    project.recipe("thing", f"version: 1\ntoolchain: {name}\nbuild: x\n")
    resolver = project.resolver()
    package = resolver.resolve("thing", system)
    assert package.derivation is not None
    made = resolver.graph([package]).derivations[package.derivation]
    assert made.system == system
    chosen = resolver.toolchains.find(name, system, HERE)
    assert made.environment["toolchain"] == str(chosen.tools.path)
    machine = system.removesuffix("-linux")
    assert all(machine in linker for linker in chosen.linkers)
    assert f"lib/{machine}-linux-gnu" in chosen.wrapper
    others = {"x86_64": "amd64", "aarch64": "arm64"}
    assert {deb.architecture for tree in chosen.trees for deb in tree.debs} <= {"all", others[machine]}


UNKNOWN = {
    ("debian-21", SYSTEM): ("there is no toolchain 'debian-21'", "did you mean 'debian-12'?"),
    ("zig", SYSTEM): ("there is no toolchain 'zig'", "there are host, debian-12, debian-12-autotools"),
    ("debian-12", "riscv64-linux"): ("the toolchain 'debian-12' is none for riscv64-linux", None),
}


@pytest.mark.parametrize(("asked", "told"), UNKNOWN.items())
def test_a_toolchain_that_there_is_not_is_told_where_it_was_named(
    project: Project, asked: tuple[str, str], told: tuple[str, str | None]
) -> None:
    with pytest.raises(UsageError) as error:
        toolchains(project).find(*asked, HERE)
    assert error.value.message == f"{HERE}: {told[0]}"
    if told[1] is not None:
        assert error.value.hint == told[1]


WRONG = {
    "a list": ("- x\n", "1:1: a toolchain is a mapping"),
    "an unknown key": (
        DEFINITION.replace("    linkers:", "    lader: x\n    linkers:"),
        "7:5: there is no key 'lader' here",
    ),
    "a key that is missing": (DEFINITION.replace("    libraries: lib/l\n", ""), "4:3: 'libraries' is missing"),
    "a hash that is none": (DEFINITION.replace(NO_HASH, "abc"), "13:47: 'abc' is no hash"),
    "a package that is not pinned": (
        DEFINITION.replace("packages: [core], drop", "packages: [core, gcc], drop"),
        "11:105: 'gcc' does not stand in `debs`",
    ),
    "a path that climbs": (DEFINITION.replace("lib64/ld.so", "../ld.so"), "5:5: '../ld.so' is not a path in the tree"),
    "a pattern that is none": (DEFINITION.replace("[share]", "[/etc]"), "'/etc' is not a path in the tree"),
    "a place that is no server": (
        DEFINITION.replace("architecture: amd64,", "architecture: amd64, url: 'file:///x',"),
        "'file:///x' is not the URL of a file on a server",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_definition_that_is_wrong_is_told_with_its_place(project: Project, what: str) -> None:
    text, message = WRONG[what]
    define(project, text)
    with pytest.raises(UsageError) as error:
        toolchains(project).find("small", SYSTEM, HERE)
    first = error.value.errors[0] if isinstance(error.value, Faults) else error.value
    assert first.message.startswith("inventories/test/packages/toolchains/small.yml:")
    assert message in first.message


def test_a_recipe_is_told_where_it_names_a_toolchain_that_there_is_not(project: Project) -> None:
    project.recipe("thing", "version: 1\ntoolchain: debian-13\n")
    with pytest.raises(UsageError, match=r"thing\.yml:2:1: there is no toolchain 'debian-13'"):
        project.resolver().resolve("thing", SYSTEM)


# --- packages ---------------------------------------------------------------------------------------------------------


def test_packages_are_fetched_at_once_and_kept_by_their_hash(apt: FakeApt) -> None:
    wanted = [pinned("core", CORE, "1:2.0-1"), pinned("ld", LD)]
    files = debs.fetch(wanted)
    assert [file.read_bytes() for file in files] == [CORE, LD]
    assert debs.fetch(wanted) == files
    files[1].write_bytes(b"rotten")
    assert debs.fetch(wanted)[1].read_bytes() == LD
    assert apt.commands.count("download") == 2
    assert "update" not in apt.commands


def test_a_package_that_apt_does_not_know_yet_is_looked_for_in_fresh_indexes(apt: FakeApt) -> None:
    apt.after_update = {("new", "2-1"): b"new"}
    assert debs.fetch([pinned("new", b"new", "2-1")])[0].read_bytes() == b"new"
    assert apt.commands.count("update") == 1


def test_packages_that_the_mirrors_lost_are_told_all_at_once_with_what_there_is(apt: FakeApt) -> None:
    with pytest.raises(StoreError) as error:
        debs.fetch([pinned("core", CORE, "0.9-1"), pinned("gone", b""), pinned("ld", LD)])
    assert error.value.message == (
        "packages of the toolchain are not on this machine's mirrors now:\n"
        "  core 0.9-1: the mirrors have 1:2.0-1\n"
        "  gone 1.0-1: the mirrors have none"
    )
    assert "reconciler packages toolchain NAME" in (error.value.hint or "")
    assert "download" not in apt.commands


def test_a_package_that_the_mirrors_lost_comes_from_its_url(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def fetchurl(variables: dict[str, str], out: str, *_: Callable[..., object]) -> None:
        asked.append(variables["url"])
        Path(out).write_bytes(b"old")

    monkeypatch.setattr(debs, "fetchurl", fetchurl)
    wanted = [pinned("core", b"old", "0.9-1", "https://snapshot.example/core.deb"), pinned("ld", LD)]
    assert [file.read_bytes() for file in debs.fetch(wanted)] == [b"old", LD]
    assert asked == ["https://snapshot.example/core.deb"]


def test_a_package_with_another_hash_is_refused_with_both(apt: FakeApt) -> None:
    with pytest.raises(BuildError, match=r"the package ld_1\.0-1_amd64\.deb is not what its hash says") as error:
        debs.fetch([pinned("ld", b"other")])
    assert Hash.sha256(LD).hex_prefixed in error.value.message


# --- store paths ------------------------------------------------------------------------------------------------------


@pytest.mark.nix
def test_the_trees_become_the_store_paths_that_were_known_before(small: Toolchain, store: Store, apt: FakeApt) -> None:
    """Real Nix verifies the store after the test."""
    for source in toolchain_sources.sources(small)[::-1]:
        source.add_to(store)
    libc, shell, tools = (Path(store.real(tree.path)) for tree in small.trees)
    assert (libc / "lib64/ld.so").readlink() == Path("../lib/l/libc.so.6")
    assert not (libc / "etc").exists()
    assert (shell / "bin/sh").read_bytes() == b"shell"
    assert (tools / "bin/ld.real.unwrapped").read_bytes() == b"linker"
    wrapper = (tools / "bin/ld").read_text()
    assert f'exec /usr/bin/ld.real.unwrapped "$@" -dynamic-linker {small.libc.path}/lib64/ld.so' in wrapper
    assert f"-rpath {small.libc.path}/lib/l" in wrapper
    assert store.info(small.tools.path).references == (small.libc.path,)
    assert store.closure([small.tools.path]) == sorted([small.libc.path, small.tools.path])


def test_a_tree_is_put_together_once_and_then_read_from_the_cache(
    small: Toolchain, store_root: Path, tmp_path: Path, apt: FakeApt, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source,) = [source for source in toolchain_sources.sources(small) if source.tree is small.libc]
    with Store.open(str(tmp_path / "one"), create=True) as store:
        source.add_to(store)
        source.add_to(store)
    monkeypatch.setattr(toolchain_sources, "assembled", None)
    with Store.open(str(tmp_path / "two"), create=True) as store:
        source.add_to(store)
        assert store.is_valid(small.libc.path)
    monkeypatch.undo()
    monkeypatch.setattr(debian, "_command", apt)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (kept,) = (tmp_path / "cache/reconciler/toolchains").glob(f"{small.libc.nar_hash.base16}*")
    kept.write_bytes(b"rotten")
    with Store.open(str(tmp_path / "three"), create=True) as store:
        source.add_to(store)
        assert store.is_valid(small.libc.path)


def test_a_tree_that_is_not_the_pinned_one_is_refused_and_nothing_is_kept(
    project: Project, store: Store, small: Toolchain, apt: FakeApt, tmp_path: Path
) -> None:
    file = project.inventory / "packages/toolchains/small.yml"
    define(project, file.read_text().replace(small.libc.nar_hash.base16, "1" * 64))
    changed = toolchains(project).find("small", SYSTEM, HERE)
    with pytest.raises(BuildError, match="the tree small-libc is not what its definition says") as error:
        toolchain_sources.sources(changed)[0].add_to(store)
    assert f"found   {small.libc.nar_hash.base16}" in error.value.message
    assert error.value.hint is not None
    assert error.value.hint.endswith("reconciler packages toolchain small")
    assert not store.is_valid(changed.libc.path)
    assert not list((tmp_path / "cache/reconciler/toolchains").glob("*"))


def test_a_derivation_names_its_toolchain_and_its_trees_are_its_inputs(
    project: Project, small: Toolchain, store: Store
) -> None:
    project.recipe("thing", "version: 1\ntoolchain: small\nbuild: x\n")
    resolver = project.resolver()
    package = resolver.resolve("thing", SYSTEM)
    graph = resolver.graph([package])
    assert package.derivation is not None
    made = graph.derivations[package.derivation]
    assert made.environment["toolchain"] == str(small.tools.path)
    assert made.environment["toolchainShell"] == str(small.shell.path)
    assert {tree.path for tree in small.trees} < set(made.input_sources)
    instantiate(graph, store)
    assert store.is_valid(package.derivation)


# --- pinning ----------------------------------------------------------------------------------------------------------


def test_pinning_writes_versions_hashes_and_only_the_packages_that_a_tree_has_files_of(
    project: Project, small: Toolchain, apt: FakeApt
) -> None:
    assert [deb.package for deb in small.libc.debs] == ["core"]
    assert [deb.package for deb in small.shell.debs] == ["shell"]
    assert [deb.package for deb in small.tools.debs] == ["core", "ld"]
    file = project.inventory / "packages/toolchains/small.yml"
    assert "wanted: [ld]" in file.read_text()
    again = toolchain_pins.renew("small", toolchains(project), project.inventory / "packages")
    assert again.file == file
    assert again.text == file.read_text()
    assert again.moved == {SYSTEM: ()}
    newer = deb([entry("./usr/bin/ld.real", b"better linker", mode=0o755)])
    apt.files = {**{key: value for key, value in FILES.items() if key[0] != "ld"}, ("ld", "1.1-1"): newer}
    moved = toolchain_pins.renew("small", toolchains(project), project.inventory / "packages")
    assert moved.moved == {SYSTEM: ("ld  1.0-1 -> 1.1-1",)}


@pytest.mark.parametrize("name", ["host", "../x", ""])
def test_what_cannot_name_a_toolchain_is_not_pinned(project: Project, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a toolchain"):
        toolchain_pins.renew(name, toolchains(project), project.inventory / "packages")
