"""Listings of archives, against those that real Nix wrote (tests/golden/closure)."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given, settings

from reconciler.core.errors import FormatError
from reconciler.core.nix import listing, nar
from tests.core.nix.closure import APP, APP_TREE, FOLDER, LEAF
from tests.core.nix.test_nar import NODES
from tests.core.nix.trees import TREE


@pytest.mark.parametrize(("part", "tree"), [(LEAF.hash_part, TREE), (APP.hash_part, APP_TREE)])
def test_a_listing_is_the_one_that_nix_writes(part: str, tree: nar.Node) -> None:
    assert listing.listing(io.BytesIO(nar.encode(tree))) == (FOLDER / f"{part}.ls").read_bytes()


@settings(max_examples=50, deadline=None)
@given(node=NODES)
def test_a_listing_says_where_the_contents_of_each_file_are(node: nar.Node) -> None:
    data = nar.encode(node)
    found = json.loads(listing.listing(io.BytesIO(data)))
    assert found["version"] == 1
    check(found["root"], node, data)


def check(told: Any, node: nar.Node, data: bytes) -> None:
    if isinstance(node, nar.File):
        start = told["narOffset"]
        assert data[start : start + told["size"]] == node.contents
        assert told.get("executable", False) == node.executable
    elif isinstance(node, nar.Link):
        assert told == {"type": "symlink", "target": node.target}
    else:
        assert sorted(told["entries"]) == sorted(node.entries)
        for name, child in node.entries.items():
            check(told["entries"][name], child, data)


@pytest.mark.parametrize("tree", [nar.Directory({"\udcff": nar.File(b"")}), nar.Link("\udcff")])
def test_what_is_no_text_has_no_listing(tree: nar.Node) -> None:
    with pytest.raises(FormatError, match="is not UTF-8"):
        listing.listing(io.BytesIO(nar.encode(tree)))


def test_a_wrong_archive_has_no_listing() -> None:
    with pytest.raises(FormatError, match="cut short"):
        listing.listing(io.BytesIO(nar.encode(TREE)[:-1]))


def test_a_listing_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MAX_SIZE", 100)
    with pytest.raises(FormatError, match="too many entries"):
        listing.listing(io.BytesIO(nar.encode(TREE)))
