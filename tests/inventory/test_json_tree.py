"""JSON as a tree with positions."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.inventory.faults import InputError
from reconciler.inventory.json_tree import parse_json
from reconciler.inventory.yaml import Mapping, plain

REFUSED = {
    "{": "f:1:2: not JSON: a name in double quotes is wanted here",
    "[1,]": "f:1:4: not JSON: a value is wanted here",
    "[1 2]": "f:1:4: not JSON: ',' or ']' is wanted here",
    '{"a" 1}': "f:1:6: not JSON: ':' is wanted here",
    '{"a": 1,\n "a": 2}': "f:2:2: the key 'a' stands here a second time; first at line 1",
    "{'a': 1}": "f:1:2: not JSON: no value, name or sign begins like this",
    "[1] x": "f:1:5: not JSON: no value, name or sign begins like this",
    "[1] 2": "f:1:5: not JSON: something follows the document",
    '"\\x"': "f:1:1: not JSON: a bad escape in this text",
    "[" * 100: "f:1:65: more than 64 levels deep",
    "NaN": "f:1:1: not JSON: no value, name or sign begins like this",
    "": "f:1:1: not JSON: a value is wanted here",
}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from([None, 2]))
def test_what_json_writes_is_read_back(value: object, indent: int | None) -> None:
    assert plain(parse_json(json.dumps(value, indent=indent), "f")) == value


@pytest.mark.parametrize("text", REFUSED)
def test_what_is_not_json_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(InputError) as raised:
        parse_json(text, "f")
    assert raised.value.message == REFUSED[text]


def test_values_know_where_they_stand() -> None:
    root = parse_json('{\n  "a": [1,\n    "\\u00e9\\ud83d\\ude00"]\n}', "f")
    assert isinstance(root, Mapping)
    assert str(root.entries["a"].key.position) == "f:2:3"
    assert plain(root) == {"a": [1, "é😀"]}
