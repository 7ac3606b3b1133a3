"""What a deployment takes from the controller's store is kept while it runs, also from a collection beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.profile.environment import Element, environment
from reconciler.core.store.gc import GcOptions, collect
from reconciler.core.store.store import Store
from reconciler.fleet.delivery import Workshop
from reconciler.fleet.events import Silent
from reconciler.fleet.targets import ProfileTarget
from reconciler.packages.resolver import Resolver
from tests.conftest import make_writable
from tests.core.profile.packages import package, realise_environment


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "root"
    make_writable(tmp_path)


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
