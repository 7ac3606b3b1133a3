"""Recipes: what they may say, and every fault at its place."""

from __future__ import annotations

import pytest

from reconciler.core.errors import Faults, UsageError
from reconciler.core.nix.hashes import Hash
from reconciler.packages.recipe import load
from reconciler.packages.specs import DebianSpec, PathSpec, UrlSpec
from tests.packages.project import Project

DIGEST = "31e066137a962676e89f69d1b65382de95a7ef7d914b8cb956f41ea72e0f516b"
FULL = f"""
description: a greeting
home: https://example.org/
toolchain: host
inputs: [words, shell-kit@1.2]
build: make it
versions:
  1.0:
  1.10:
    inputs: [words@2]
    build: make it better
    sources:
      - path: data.txt
      - url: https://example.org/get/thing-1.10.tar.gz?mirror=1
        sha256: {DIGEST}
      - url: https://example.org/download
        file: thing.tar.gz
        sha256: {DIGEST}
  2.0:
    source: {{debsrc: thing, version: 2.0+dfsg, sha256: {DIGEST}}}
"""


def test_a_recipe_says_everything_about_every_version(project: Project) -> None:
    project.file("data.txt", "data")
    path = project.recipe("thing", FULL)
    recipe = load(path, "thing.yml")
    assert (recipe.name, recipe.description, recipe.home) == ("thing", "a greeting", "https://example.org/")
    assert list(recipe.versions) == ["1.0", "1.10", "2.0"]
    first, second, third = recipe.versions.values()
    assert (first.build, first.sources) == ("make it", ())
    assert [wanted.reference for wanted in first.inputs] == ["words", "shell-kit@1.2"]
    assert str(first.inputs[1].position) == "thing.yml:5:17"
    digest = Hash.parse(DIGEST, "sha256")
    data, get, download = second.sources
    assert isinstance(data, PathSpec)
    assert data.path == path.with_name("data.txt")
    assert get == UrlSpec(("https://example.org/get/thing-1.10.tar.gz?mirror=1",), "thing-1.10.tar.gz", digest)
    assert download == UrlSpec(("https://example.org/download",), "thing.tar.gz", digest)
    assert (second.build, [wanted.reference for wanted in second.inputs]) == ("make it better", ["words@2"])
    assert third.sources == (DebianSpec("thing", "thing_2.0+dfsg.orig.tar.gz", digest),)


@pytest.mark.parametrize("digest", [DIGEST, Hash.parse(DIGEST, "sha256").sri, Hash.parse(DIGEST, "sha256").base32])
def test_a_hash_may_be_written_in_every_way_of_nix(project: Project, digest: str) -> None:
    text = f"version: 1\ntoolchain: host\nsource: {{debsrc: thing, sha256: '{digest}'}}\n"
    (source,) = load(project.recipe("thing", text), "thing.yml").versions["1"].sources
    assert source == DebianSpec("thing", "thing_1.orig.tar.gz", Hash.parse(DIGEST, "sha256"))


KEYS = ["kind", "toolchain", "source", "sources", "patches", "inputs", "build", "check", "outputs", "features"]
KEYS += ["runtime", "install"]
FAULTS = {
    "an unknown key": (
        "version: 1\ntoolchain: host\nbiuld: x\n",
        "3:1: there is no key 'biuld' here",
        "did you mean 'build'?",
    ),
    "an unknown key of a version": (
        "toolchain: host\nversions:\n  1:\n    home: x\n",
        "4:5: there is no key 'home' here",
        f"known here: {', '.join(KEYS)}",
    ),
    "an unknown key of a source": (
        "version: 1\ntoolchain: host\nsource:\n  pth: x\n",
        "4:3: there is no key 'pth' here",
        "did you mean 'path'?",
    ),
    "two kinds of sources": (
        "version: 1\ntoolchain: host\nsource: {path: a, url: b}\n",
        "3:1: a source is one of path, url, urls, debsrc, pypi",
        None,
    ),
    "source and sources": (
        "version: 1\ntoolchain: host\nsource: {path: a}\nsources: []\n",
        "1:1: 'source' and 'sources' cannot stand side by side",
        None,
    ),
    "no hash": (
        "version: 1\ntoolchain: host\nsource: {url: 'https://x/y'}\n",
        "3:1: 'sha256' is missing: what is fetched is pinned by its hash",
        None,
    ),
    "a hash of what lies here": (
        "version: 1\ntoolchain: host\nsources:\n  - {path: x, sha256: y}\n",
        "4:5: 'sha256' means nothing beside 'path'",
        None,
    ),
    "a bad hash": (
        "version: 1\ntoolchain: host\nsource: {debsrc: x1, sha256: 12}\n",
        "3:22: '12' is no hash: a sha256 hash has 64 in base-16, 52 in base-32, 44 in base-64, and this has 2",
        "64 hexadecimal digits, as sha256sum prints them",
    ),
    "a source that is not there": (
        "version: 1\ntoolchain: host\nsource: {path: nowhere}\n",
        "3:10: there is no file or directory 'nowhere' beside the recipe",
        None,
    ),
    "an absolute path": (
        "version: 1\ntoolchain: host\nsource: {path: /etc/passwd}\n",
        "3:10: '/etc/passwd' is not relative to the recipe",
        "keep sources beside the recipe",
    ),
    "no version": ("toolchain: host\n", "1:1: a recipe says either 'version' or 'versions'", None),
    "both": ("version: 1\nversions: {2: }\n", "1:1: a recipe says either 'version' or 'versions'", None),
    "empty versions": ("toolchain: host\nversions: {}\n", "2:1: at least one is wanted here", None),
    "a version that is a word": (
        "version: latest\ntoolchain: host\n",
        "1:1: 'latest' cannot be a version",
        "a version begins with a digit and has no blanks",
    ),
    "no toolchain": (
        "version: 1\n",
        "1:1: 'toolchain' is missing",
        "write `toolchain: debian-12`, or `toolchain: host`",
    ),
    "what cannot name a toolchain": (
        "version: 1\ntoolchain: ../gcc\n",
        "2:1: '../gcc' cannot name a toolchain",
        "write `toolchain: debian-12`, or `toolchain: host`",
    ),
    "a list that is none": ("version: 1\ntoolchain: host\ninputs: words\n", "3:1: a list is wanted here", None),
    "text that is none": ("version: 1\ntoolchain: host\nbuild: [x]\n", "3:1: text is wanted here", None),
    "an input that hides a variable": (
        "version: 1\ntoolchain: host\ninputs: [words, out@2]\n",
        "3:17: the input 'out' would hide the variable $out of the build script",
        None,
    ),
    "a name that the store does not take": (
        "version: 1\ntoolchain: host\nsource: {url: 'https://x/a%20b', sha256: " + DIGEST + "}\n",
        "3:10: 'a%20b' cannot name a file in the store",
        "say another with `file:`",
    ),
    "what cannot name a feature": (
        "version: 1\ntoolchain: host\nfeatures: [kvm, 'a b']\n",
        "3:17: 'a b' cannot name a feature of a builder",
        "letters, digits and _ . - : kvm, big-parallel, benchmark, nixos-test, …",
    ),
    "an input that hides what a builder must have": (
        "version: 1\ntoolchain: host\ninputs: [requiredSystemFeatures]\n",
        "3:10: the input 'requiredSystemFeatures' would hide the variable",
        None,
    ),
    "a list": ("- 1\n", "1:1: a recipe is a mapping", "it begins with `version: ...`"),
    "a key twice": ("version: 1\nversion: 2\n", "2:1: the key 'version' stands here a second time", None),
}


def test_features_are_what_nix_calls_required_system_features(project: Project) -> None:
    text = (
        "toolchain: host\nbuild: touch $out\nfeatures: [kvm, big-parallel, kvm]\nversions: {1: , 2: {features: []}}\n"
    )
    first, second = load(project.recipe("thing", text), "thing.yml").versions.values()
    assert (first.features, second.features) == (("big-parallel", "kvm"), ())
    resolver, said = project.resolver(), []
    for version in ("1", "2"):
        package = resolver.resolve(f"thing@{version}", "x86_64-linux")
        assert package.derivation is not None
        environment = resolver.graph([package]).derivations[package.derivation].environment
        said.append(environment.get("requiredSystemFeatures"))
    assert said == ["big-parallel kvm", None]


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_is_told_with_its_place_and_what_to_do(project: Project, what: str) -> None:
    text, message, hint = FAULTS[what]
    with pytest.raises(UsageError) as error:
        load(project.recipe("thing", text), "thing.yml")
    first = error.value.errors[0] if isinstance(error.value, Faults) else error.value
    assert first.message.startswith(f"thing.yml:{message}")
    if hint is not None:
        assert first.hint == hint


def test_all_faults_are_told_at_once(project: Project) -> None:
    text = "biuld: x\nversion: [1]\ntoolchain: host\nsource: {pth: x}\ninputs: {}\n"
    with pytest.raises(Faults) as error:
        load(project.recipe("thing", text), "thing.yml")
    places = [fault.message.split(":")[1:3] for fault in error.value.errors]
    assert places == [["1", "1"], ["2", "1"], ["4", "10"], ["5", "1"]]


def test_a_misspelt_key_does_not_hide_what_else_is_wrong(project: Project) -> None:
    text = "version: one\ntoolchain: host\nsource: {path: nowhere}\nbiuld: x\n"
    with pytest.raises(Faults) as error:
        load(project.recipe("thing", text), "thing.yml")
    assert [fault.message.partition(": ")[2] for fault in error.value.errors] == [
        "'one' cannot be a version",
        "there is no file or directory 'nowhere' beside the recipe",
        "there is no key 'biuld' here",
    ]
    assert [fault.hint for fault in error.value.errors][-1] == "did you mean 'build'?"


def test_a_name_that_nix_would_split_elsewhere_is_refused(project: Project) -> None:
    with pytest.raises(Faults, match="Nix would read the name 'lib-2fast' as 'lib'"):
        load(project.recipe("lib-2fast", "version: 1\ntoolchain: host\n"), "lib-2fast.yml")
