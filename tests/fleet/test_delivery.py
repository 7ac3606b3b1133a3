"""What a deployment takes from the controller's store is kept while it runs, also from a collection beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.environment import Element, environment
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.store import Store
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.events import Silent
from reconciler.fleet.targets import ProfileTarget
from reconciler.inventory.sets import CacheSpec
from reconciler.packages.resolver import PackageSets, Resolver
from tests.conftest import make_writable
from tests.core.profile.packages import package, realise_environment


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "root"
    make_writable(tmp_path)


class Heard(Silent):
    """Keeps what the run is told beside its hosts."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


def test_what_caches_cannot_give_is_told_and_what_is_there_is_taken(root: Path, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/nix-cache-info").write_text("StoreDir: /nix/store\n")
    sets = PackageSets(caches=(CacheSpec(f"file://{tmp_path}/cache", ()),), cache_directory=tmp_path / "kept")
    observer = Heard()
    with Store.open(str(root), create=True) as store:
        one, gone = package(store, "a-1.0"), StorePath("b" * 32, "gone-1.0")
        workshop = Workshop(store, Resolver(tmp_path, tmp_path, sets=sets), observer, 1)
        assert workshop.take([]) == set()
        assert workshop.take([one]) == {one}
        assert observer.notes == []
        assert workshop.take([one, gone]) == {one}
    assert observer.notes == [f"caches: {gone}: it is not in the store, and no cache has it; what is missing is built"]


@pytest.mark.parametrize("step", ["realise", "bundle", "nothing"])
def test_what_is_there_already_is_kept_while_it_is_sent(step: str, root: Path, tmp_path: Path) -> None:
    with Store.open(str(root), create=True) as store:
        plan = environment([Element(package(store, "a-1.0"), 5)])
        path = realise_environment(store, plan)
    with Store.open(str(root)) as store:
        workshop = Workshop(store, Resolver(tmp_path, tmp_path), Silent(), 1)
        if step == "realise":
            assert not workshop.realise([ProfileTarget(path, plan, ())]).failures
        elif step == "bundle":
            assert str(path) in {each.path for each in workshop.bundle([path]).paths}
        with Store.open(str(root)) as other:
            collect(other, GcOptions())
        assert store.is_valid(path) is (step != "nothing")
    with Store.open(str(root)) as other:
        collect(other, GcOptions())
        assert not other.is_valid(path)
