"""The YAML that is read: where things stand, what they are worth, and what is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.errors import UsageError
from reconciler.inventory.faults import InputError
from reconciler.inventory.yaml import MAX_BYTES, MAX_DEPTH, Mapping, Scalar, Sequence, load, parse, plain

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 12)
)

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "a tag of python's": ("a: !!python/object/apply:os.system [id]", "f:1:4: the tag !!python/object/apply:os.system"),
    "a tag of a set": ("!!set {a}", "f:1:1: the tag !!set"),
    "a tag of somebody's": ("a: !mine x", "f:1:4: the tag !mine"),
    "a tag that lies": ("a: !!int x", "f:1:4: 'x' is not of the type that its tag !!int says"),
    "a key twice": ("a: 1\nb: 2\na: 3", "f:3:1: the key 'a' stands here a second time; first at line 1"),
    "a key twice, quoted once": ("{a: 1, 'a': 2}", "f:1:8: the key 'a' stands here a second time; first at line 1"),
    "a tab as indentation": ("a:\n\t- b", "f:2:1: a tab, where YAML takes only spaces"),
    "a tab behind spaces": ("a:\n  b: 1\n \tc: 2", "f:3:2: a tab, where YAML takes only spaces"),
    "a byte-order mark": (b"\xef\xbb\xbfa: 1", "f:1:1: the file begins with a byte-order mark"),
    "UTF-16": ("a: 1".encode("utf-16"), "f:1:1: the file begins with a byte-order mark"),
    "a byte that is not UTF-8": (b"a: 1\nb: \xff", "f:2:4: this byte is not UTF-8"),
    "a control character": ("é: 1\nü: x\x07", "f:2:5: a control character, which YAML does not allow"),
    "an alias bomb": (BOMB, "f:6:10: aliases bring more than 100,000 nodes"),
    "an alias in itself": ("a: &a [*a]", "f:1:8: alias '*a' stands inside what it names"),
    "an alias of nothing": ("a: *b", "f:1:4: alias '*b' names no anchor before it"),
    "a deep nest": ("[" * 100_000, f"f:1:{MAX_DEPTH + 1}: more than {MAX_DEPTH} levels deep"),
    "two documents": ("--- a\n--- b", "f:2:1: a second document begins here"),
    "a list as a key": ("? [a]\n: b", "f:1:3: a key must be text, not a list or a mapping"),
    "an open quote": ("a: 'x", "f:1:6: not YAML: while scanning a quoted scalar: found unexpected end of stream"),
    "a conflict": (
        "a: 1\n<<<<<<< ours\nb: 1\n=======\nb: 2\n>>>>>>> theirs\n",
        "f:2:1: a conflict that a merge has left here",
    ),
    "two colons": ("a: b: c", "f:1:5: not YAML: mapping values are not allowed in this context"),
    "a merge of text": ("{<<: x}", "f:1:6: '<<' takes a mapping or a list of mappings"),
}

# What YAML 1.1 makes of words; Ansible's variables are typed by it.
TYPED: dict[str, Any] = {
    "yes": True,
    "on": True,
    "Off": False,
    "y": "y",
    "0644": 420,
    "08": "08",
    "0o7": "0o7",
    "1e3": "1e3",
    "1.0e+3": 1000.0,
    "1_000": 1000,
    "0x10": 16,
    "12:30:45": 45045,
    "1.10": 1.1,
    "~": None,
    "null": None,
    "'1'": "1",
    '"on"': "on",
    "!!str 1": "1",
    "!unsafe '{{ x }}'": "{{ x }}",
    "2024-13-45": "2024-13-45",
    "=": "=",
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_refused_with_its_place_and_at_once(name: str) -> None:
    text, message = REFUSED[name]
    begun = time.monotonic()
    with pytest.raises(UsageError) as raised:
        parse(text, "f")
    assert raised.value.message.startswith(message)
    assert time.monotonic() - begun < 1


def test_a_file_of_a_hundred_megabytes_is_refused_without_being_read(tmp_path: Path) -> None:
    large = tmp_path / "hosts.yml"
    large.touch()
    with large.open("r+b") as stream:
        stream.truncate(100 * 1024 * 1024)
    begun = time.monotonic()
    with pytest.raises(InputError, match=f"the file is larger than {MAX_BYTES // 2**20} MiB"):
        load(large)
    assert time.monotonic() - begun < 1


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 200_000])
def test_a_file_of_any_size_is_read_whole(tmp_path: Path, size: int) -> None:
    file = tmp_path / "hosts.yml"
    file.write_text("x" * size)
    read = load(file)
    assert isinstance(read, Scalar)
    assert len(read.text) == size


def test_a_template_without_quotes_is_told_what_it_lacks() -> None:
    with pytest.raises(InputError) as raised:
        parse("a: {{ b }}", "f")
    assert raised.value.hint == 'a value that begins with {{ needs quotes: "{{ name }}"'


def test_a_file_that_is_missing_is_a_fault_of_the_whole_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing\.yml: cannot be read: No such file or directory"):
        load(tmp_path / "nothing.yml")


@pytest.mark.parametrize("text", TYPED)
def test_a_word_is_worth_what_yaml_1_1_says(text: str) -> None:
    value = plain(parse(text, "f"))
    assert (value, type(value)) == (TYPED[text], type(TYPED[text]))


def test_every_node_knows_where_it_stands() -> None:
    root = parse("# a comment\nwörter:\n  - eins\n  - {zwei: '3'}\n", "f")
    assert isinstance(root, Mapping)
    entry = root.entries["wörter"]
    assert isinstance(entry.value, Sequence)
    first, second = entry.value.items
    assert isinstance(second, Mapping)
    places = [entry.key.position, first.position, second.position, second.entries["zwei"].value.position]
    assert [str(place) for place in places] == ["f:2:1", "f:3:5", "f:4:5", "f:4:12"]


def test_text_stays_as_it_was_spelled() -> None:
    assert parse("1.10", "f") == Scalar("1.10", parse("x", "f").position)


def test_a_merge_key_gives_way_to_what_stands_beside_it() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {<<: [*a, *b], x: 3}"
    assert plain(parse(text, "f"))["c"] == {"x": 3, "y": 1, "z": 2}


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "---\n...\n"])
def test_an_empty_document_is_null(text: str) -> None:
    assert plain(parse(text, "f")) is None


def test_the_parser_in_python_gives_the_same_tree_and_the_same_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml as pyyaml

    text = "a: [1, 'b', {c: &x d}]\ne: *x\nf: |\n  g\n"
    fast = parse(text, "f")
    monkeypatch.setattr("reconciler.inventory.yaml._LOADER", pyyaml.SafeLoader)
    assert parse(text, "f") == fast
    for name in ("a key twice", "a tab as indentation", "a control character", "an alias in itself"):
        with pytest.raises(InputError) as raised:
            parse(REFUSED[name][0], "f")
        assert raised.value.message.startswith(REFUSED[name][1])
