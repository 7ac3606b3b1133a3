"""Patches of recipes: what they may say, what they are to the derivation, and that real builds apply them."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.build.realise import realise
from reconciler.core.build.toolchain import host_system
from reconciler.core.errors import BuildError, Faults, UsageError
from reconciler.core.nix.derivation import Derivation
from reconciler.core.store.store import Store
from reconciler.packages.instantiate import instantiate
from reconciler.packages.recipe import load
from tests.oracle import RealNix
from tests.packages.project import Project


def patch(old: str, new: str, name: str = "a/greeting.txt", renamed: str = "b/greeting.txt") -> str:
    return f"--- {name}\n+++ {renamed}\n@@ -1,2 +1,2 @@\n-{old}\n+{new}\n world\n"


def write(project: Project, body: str) -> Path:
    """The recipe `thing`, whose source is a text of two lines and whose output is what became of it."""
    project.file("src/greeting.txt", "hello\nworld\n")
    build = "build: |\n  { cat greeting.txt; ls; } > $out\n"
    return project.recipe("thing", f"version: 1.0\ntoolchain: host\nsource: {{path: src}}\n{build}{body}")


def derivation(project: Project) -> Derivation:
    resolver = project.resolver()
    package = resolver.resolve("thing", host_system())
    assert package.derivation is not None
    return resolver.graph([package]).derivations[package.derivation]


def build(project: Project, store: Store) -> str:
    resolver = project.resolver()
    package = resolver.resolve("thing", host_system())
    instantiate(resolver.graph([package]), store)
    assert package.derivation is not None
    realise(store, [package.derivation])
    return Path(store.real(package.output)).read_text()


def test_patches_are_applied_in_their_order_and_nothing_else_is_left_there(
    project: Project, store: Store, nix: RealNix
) -> None:
    project.file("one.patch", patch("hello", "good morning"))
    project.file("two.patch", patch("good morning", "good night", "greeting.txt", "greeting.txt"))
    write(project, "patches: [one.patch, {path: two.patch, strip: 0}]\n")
    assert build(project, store) == "good night\nworld\ngreeting.txt\n"
    made = derivation(project)
    one, two = made.environment["patches"].split()[1::2]
    assert made.environment["patches"].split()[::2] == ["1", "0"]
    assert {one, two} < set(map(str, made.input_sources))
    assert (one.partition("-")[2], two.partition("-")[2]) == ("one.patch", "two.patch")
    nix.verify()


def test_a_patch_is_applied_to_a_source_that_is_one_file(project: Project, store: Store) -> None:
    project.file("greeting.txt", "hello\nworld\n")
    project.file("one.patch", patch("hello", "good morning"))
    project.recipe(
        "thing",
        "version: 1.0\ntoolchain: host\nkind: files\nsource: {path: greeting.txt}\npatches: [one.patch]\n"
        "install: {greeting: greeting.txt}\n",
    )
    resolver = project.resolver()
    package = resolver.resolve("thing", host_system())
    instantiate(resolver.graph([package]), store)
    assert package.derivation is not None
    realise(store, [package.derivation])
    assert (Path(store.real(package.output)) / "greeting").read_text() == "good morning\nworld\n"


def test_the_derivation_changes_with_a_patch_its_order_and_what_it_strips_and_with_nothing_else(
    project: Project,
) -> None:
    project.file("one.patch", patch("hello", "good morning"))
    project.file("two.patch", patch("good morning", "good night"))
    write(project, "patches: [one.patch, two.patch]\n")
    first = derivation(project)
    for same in ("patches: [one.patch, {path: two.patch}]\n", "patches: [{path: one.patch, strip: 1}, two.patch]\n"):
        write(project, same)
        assert derivation(project) == first
    others = {"", "patches: []\n", "patches: [two.patch, one.patch]\n", "patches: [one.patch]\n"}
    others |= {"patches: [one.patch, {path: two.patch, strip: 2}]\n"}
    seen = {str(first.output_paths()["out"])}
    for other in sorted(others):
        write(project, other)
        seen.add(str(derivation(project).output_paths()["out"]))
    assert len(seen) == 1 + len(others) - 1, "no patches and an empty list of them are the same"
    write(project, "patches: [one.patch, two.patch]\n")
    project.file("two.patch", patch("good morning", "good evening"))
    assert str(derivation(project).output_paths()["out"]) not in seen


def test_a_version_may_have_patches_of_its_own_or_none(project: Project) -> None:
    for name in ("one.patch", "two.patch"):
        project.file(name, "")
    recipe = write(project, "patches: [one.patch]\n")
    versions = "versions:\n  1.0:\n  2.0: {patches: [two.patch]}\n  3.0: {patches: []}\n"
    recipe.write_text(recipe.read_text().replace("version: 1.0\n", versions))
    names = [[each.spec.path.name for each in made.patches] for made in load(recipe, "thing.yml").versions.values()]
    assert names == [["one.patch"], ["two.patch"], []]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (patch("goodbye", "hello"), "Hunk #1 FAILED at 1"),
        (patch("hello", "hi", "a/sub/greeting.txt", "b/sub/greeting.txt"), "No file to patch"),
        ("no patch at all\n", "Only garbage was found in the patch input"),
    ],
)
def test_a_patch_that_does_not_apply_ends_the_build_and_is_named(
    project: Project, store: Store, text: str, told: str
) -> None:
    project.file("fix.patch", text)
    write(project, "patches: [fix.patch]\n")
    with pytest.raises(BuildError, match=r"thing-1\.0 could not be built") as error:
        build(project, store)
    said = f"{error.value.message}\n{error.value.hint}"
    assert told in said
    assert "the patch fix.patch does not apply to src; names in it were stripped of 1" in said


def test_a_patch_that_was_applied_upstream_already_is_not_passed_over(project: Project, store: Store) -> None:
    project.file("one.patch", patch("hello", "good morning"))
    write(project, "patches: [one.patch, one.patch]\n")
    with pytest.raises(BuildError, match=r"Hunk #1 FAILED at 1"):
        build(project, store)


HEAD = "version: 1\ntoolchain: host\n"
FAULTS = {
    "a patch that is not there": (
        HEAD + "source: {path: src}\npatches: [gone.patch]\n",
        "4:11: there is no file or directory 'gone.patch' beside the recipe",
        None,
    ),
    "an absolute path": (
        HEAD + "source: {path: src}\npatches:\n  - path: /tmp/x.patch\n",
        "5:5: '/tmp/x.patch' is not relative to the recipe",
        "keep sources beside the recipe",
    ),
    "a directory": (
        HEAD + "source: {path: src}\npatches: [src]\n",
        "4:11: 'src' is not a file",
        "name each patch of it, in their order",
    ),
    "what cannot be stripped": (
        HEAD + "source: {path: src}\npatches:\n  - {path: one.patch, strip: -1}\n",
        "5:23: '-1' is not a number of directories",
        "0 to 9; mostly 1",
    ),
    "an unknown key": (
        HEAD + "source: {path: src}\npatches: [{path: one.patch, stirp: 1}]\n",
        "4:29: there is no key 'stirp' here",
        "did you mean 'strip'?",
    ),
    "no path": (HEAD + "source: {path: src}\npatches: [{strip: 0}]\n", "4:11: 'path' is missing", None),
    "no list": (HEAD + "source: {path: src}\npatches: one.patch\n", "4:1: a list is wanted here", None),
    "nothing to patch": (
        HEAD + "build: x\npatches: [one.patch]\n",
        "4:1: 'patches' has no source to be applied to",
        "say `source`, or leave `patches` out",
    ),
    "wheels": (
        HEAD + "kind: python-app\nsource: {path: src}\npatches: [one.patch]\n",
        "5:1: 'patches' means nothing to `kind: python-app`",
        "a wheel is installed as it is; patch its source, and build a wheel of it",
    ),
    "an input that hides the list": (
        HEAD + "inputs: [patches]\n",
        "3:10: the input 'patches' would hide the variable $patches of the build script",
        None,
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_told_with_its_place_and_what_to_do(project: Project, what: str) -> None:
    text, message, hint = FAULTS[what]
    project.file("src/file", "")
    project.file("one.patch", "")
    with pytest.raises(UsageError) as error:
        load(project.recipe("thing", text), "thing.yml")
    first = error.value.errors[0] if isinstance(error.value, Faults) else error.value
    assert first.message.startswith(f"thing.yml:{message}")
    if hint is not None:
        assert first.hint == hint
