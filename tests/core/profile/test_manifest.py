"""What environments were made of, read back from the manifests that Nix writes."""

from __future__ import annotations

import json

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.profile.manifest import Held, nix_env_elements, nix_profile_elements

A, B, MAN = (f"/nix/store/{'0' * 31}{digit}-{name}" for digit, name in ((1, "a-1.0"), (2, "b-2.0"), (3, "b-2.0-man")))

# The forms that FORMATS knows of nix-env: by path, by expression, rewritten, with a priority set.
NIX_ENV = {
    "[ ]": [],
    f'[ {{ meta = {{ }}; name = "a-1.0"; out = {{ outPath = "{A}"; }}; outPath = "{A}"; outputs = [ "out" ];'
    ' type = "derivation"; } ]': [Held(A)],
    f'[ {{ meta = {{ priority = "4"; }}; man = {{ outPath = "{MAN}"; }}; name = "b-2.0"; out = {{ outPath = "{B}"; }};'
    f' outPath = "{B}"; outputs = [ "out" "man" ]; system = "unknown"; type = "derivation"; }} ]': [
        Held(B, 4),
        Held(MAN, 4),
    ],
    f'[ {{ meta = {{ priority = -10; }}; name = "a"; outPath = "{A}"; outputs = [ ]; }} ]': [Held(A, -10)],
    f'[ {{ meta = {{ priority = "high"; }}; name = "a"; outPath = "{A}"; outputs = [ ]; }} ]': [Held(A)],
}

NIX_PROFILE = {
    "1": {"version": 1, "elements": [{"active": True, "storePaths": [A]}]},
    "2": {"version": 2, "elements": [{"active": False, "priority": 6, "storePaths": [B, MAN], "url": "x"}]},
    "3": {"version": 3, "elements": {"a": {"active": True, "priority": 5, "storePaths": [A]}}},
}
HELD = {"1": [Held(A)], "2": [Held(B, 6, False), Held(MAN, 6, False)], "3": [Held(A)]}


@pytest.mark.parametrize("text", NIX_ENV)
def test_a_manifest_of_nix_env_has_its_outputs_with_their_priorities(text: str) -> None:
    assert nix_env_elements(text.encode()) == NIX_ENV[text]


@pytest.mark.parametrize("version", NIX_PROFILE)
def test_a_manifest_of_nix_profile_is_read_in_each_version(version: str) -> None:
    assert nix_profile_elements(json.dumps(NIX_PROFILE[version]).encode()) == HELD[version]


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"elements": 3}', '{"elements": [{}]}', '{"elements": [3]}'])
def test_what_is_no_manifest_of_nix_profile_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        nix_profile_elements(text.encode())


@pytest.mark.parametrize("text", ["", "{ }", "[ 3 ]", "[ { } ]", "[ ] ]", "[ { outPath = 3; outputs = [ ]; } ]"])
def test_what_is_no_manifest_of_nix_env_is_refused(text: str) -> None:
    with pytest.raises(FormatError):
        nix_env_elements(text.encode())
