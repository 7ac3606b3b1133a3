"""`sets` and `caches` of reconciler.yml."""

from __future__ import annotations

from pathlib import Path

import pytest

from reconciler.core.errors import Faults
from reconciler.inventory.sets import DEFAULT_SETS, CacheSpec, ChannelSet, RecipesSet
from reconciler.inventory.settings import load_settings
from tests.inventory.trees import write

KEY = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="


def test_without_a_word_of_them_packages_are_recipes(tmp_path: Path) -> None:
    settings = load_settings(write(tmp_path, {"reconciler.yml": "forks: 2\n"}))
    assert settings.sets == DEFAULT_SETS == (RecipesSet("packages"),)
    assert settings.caches == ()


def test_sets_and_caches_are_read_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"""\
sets:
  - recipes: packages/
  - nixpkgs: {{channel: nixos-25.05, cache: https://cache.nixos.org/,
              key: "{KEY}"}}
  - ours: {{channel: channels/ours, keys: ["{KEY}"]}}
caches: [{{url: https://cache.example}}]
"""
    settings = load_settings(write(tmp_path, {"reconciler.yml": text}))
    recipes, nixpkgs, ours = settings.sets
    assert recipes == RecipesSet("packages")
    assert isinstance(nixpkgs, ChannelSet)
    assert isinstance(ours, ChannelSet)
    assert (nixpkgs.name, nixpkgs.channel, nixpkgs.cache) == ("nixpkgs", "nixos-25.05", "https://cache.nixos.org")
    assert [str(key) for key in nixpkgs.keys] == [KEY]
    assert (ours.channel, ours.cache, len(ours.keys)) == ("channels/ours", None, 1)
    assert str(ours.position) == "reconciler.yml:5:5"
    assert settings.caches == (CacheSpec("https://cache.example", ()),)


WRONG = {
    "sets: {recipes: packages}": "reconciler.yml:1:7: sets is not a list",
    "sets: [recipes]": "reconciler.yml:1:8: a set has one name",
    "sets: [{recipes: /etc}]": "reconciler.yml:1:18: '/etc' is not a folder of the project",
    "sets: [{recipes: ../x}]": "reconciler.yml:1:18: '../x' is not a folder of the project",
    "sets: [{n: {cache: 'https://x'}}]": "reconciler.yml:1:12: set 'n' is one of channel, nix and flake",
    "sets: [{n: {channel: c, chace: x}}]": "reconciler.yml:1:25: unknown key 'chace' in set 'n'",
    "sets: [{n: {channel: c, cache: x}}]": "reconciler.yml:1:32: 'x' is not the URL of a cache",
    "sets: [{n: {channel: c, key: x}}]": "reconciler.yml:1:30: 'x' is no public key",
    "sets: [{n: {channel: c, nix: d}}]": "reconciler.yml:1:12: set 'n' is one of channel, nix and flake",
    "sets: [{n: {nix: d, cache: 'https://x'}}]": "reconciler.yml:1:12: set 'n': nothing else stands beside 'nix'",
    "sets: [{n: {channel: a b}}]": "reconciler.yml:1:22: one word is wanted here",
    "sets: [{n: {channel: c}}, {n: {channel: d}}]": "reconciler.yml:1:27: the set 'n' is there twice",
    "sets: [{'a b': {channel: c}}]": "reconciler.yml:1:9: 'a b' cannot name a set",
    "caches: [{key: x}]": "reconciler.yml:1:10: a cache has no url",
    "caches: [x]": "reconciler.yml:1:10: a cache is not a mapping",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Faults) as raised:
        load_settings(write(tmp_path, {"reconciler.yml": text}))
    assert [error.message for error in raised.value.errors] == [WRONG[text]]
