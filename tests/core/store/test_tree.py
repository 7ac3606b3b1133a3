"""How paths hang together, as real Nix draws it."""

from __future__ import annotations

import pytest

from reconciler.core.errors import StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from reconciler.core.store.tree import TreeLine, closure, deriver, tree
from tests.core.store.test_exporting import populate
from tests.oracle import RealNix

pytestmark = pytest.mark.nix


def test_the_tree_is_drawn_as_nix_draws_it(store: Store, nix: RealNix) -> None:
    populate(store)
    a = store.add_text("a", b"1")
    b = store.add_text("b", b"2", [a])
    c = store.add_text("c", b"3", [a, b])
    d = store.add_text("d", b"4", [a])
    store.add_text("top", b"5", [a, c, d])
    for row in store.rows():
        drawn = "\n".join(line.draw() for line in tree(store, StorePath.parse(row.path)))
        assert drawn == nix.output("nix-store", "-q", "--tree", row.path)


def test_a_tree_says_where_it_repeats_itself(store: Store) -> None:
    leaf = store.add_text("leaf", b"1")
    middle = store.add_text("middle", b"2", [leaf])
    top = store.add_text("top", b"3", [leaf, middle])
    assert list(tree(store, top)) == [
        TreeLine(top, (), False),
        TreeLine(leaf, (False,), False),
        TreeLine(middle, (True,), False),
        TreeLine(leaf, (True, True), True),
    ]
    assert {(line.path, line.repeated) for line in tree(store, leaf, referrers=True)} == {
        (leaf, False),
        (middle, False),
        (top, False),
        (top, True),
    }


def test_closures_in_both_directions_are_those_of_nix(store: Store, nix: RealNix) -> None:
    paths = populate(store)
    for path in paths:
        for option, referrers in (("--requisites", False), ("--referrers-closure", True)):
            found = closure(store, [path], referrers)
            assert {str(each) for each in found} == set(nix.output("nix-store", "-q", option, str(path)).split())
            place = {each: index for index, each in enumerate(found)}
            assert all(
                place[reference] < place[each]
                for each in found
                for reference in store.info(each).other_references
                if reference in place
            )


def test_derivers_are_told_where_they_are_known(store: Store, nix: RealNix) -> None:
    for path in populate(store):
        known = deriver(store, path)
        assert (str(known) if known else "unknown-deriver") == nix.output("nix-store", "-q", "--deriver", str(path))


def test_what_is_not_valid_has_no_tree(store: Store) -> None:
    absent = StorePath("0" * 32, "absent")
    for ask in (lambda: list(tree(store, absent)), lambda: closure(store, [absent], referrers=True)):
        with pytest.raises(StoreError, match="is not valid"):
            ask()
