"""`default` and profiles at paths of their own, on a host: switched with the others, kept from collection, undone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent import change, lock, observe, profiles, recovery
from reconciler.core.agent.action import Action
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import GenerationRef, ObserveRequest, ProfilesRequest, ProfileState
from reconciler.core.errors import StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import switching
from reconciler.core.profile.generations import Profile
from reconciler.core.profile.names import ProfileId
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.agent.hosts import away, begin, make_host, request, stage_all, switch, to
from tests.core.profile.packages import make_environment, make_toplevel, package
from tests.oracle import RealNix

PLACES = ("/opt/site/tools", "default")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path / "host")
    begin(made)
    yield made
    make_writable(Path(made.root))


def environments(host: Host, *names: str) -> list[StorePath]:
    with Store.open(host.root) as store:
        return [make_environment(store, package(store, name)) for name in names]


def state(host: Host, place: str) -> ProfileState:
    found = observe.observe(host, ObserveRequest(places=(place,))).profile(place)
    assert found is not None
    return found


def ref(number: int, path: StorePath) -> GenerationRef:
    return GenerationRef(number, str(path))


def kept(host: Host) -> set[str]:
    """What the indirect roots lead to."""
    auto = Path(host.path("/nix/var/nix/gcroots/auto"))
    return {os.readlink(auto / name) for name in os.listdir(auto)} if auto.exists() else set()


@pytest.mark.nix
@pytest.mark.parametrize("place", PLACES)
def test_a_place_is_staged_switched_and_gone_back_from(host: Host, place: str) -> None:
    one, two = environments(host, "a-1.0", "b-1.0")
    assert stage_all(host, {place: one}) == {}
    assert os.readlink(host.stage_root(place)) == str(one)
    switch(host, to(place, one))
    assert not os.path.lexists(host.stage_root(place))
    switch(host, to(place, two, ref(1, one)))
    assert state(host, place).current == ref(2, two)
    switch(host, to(place, one, ref(2, two), number=1))
    seen = state(host, place)
    assert (seen.current, seen.highest, seen.complete, seen.changed_outside) == (ref(1, one), 2, True, False)
    assert len(seen.packages) == 1
    listed = observe.generations(host, ProfilesRequest()).profiles
    assert [one.number for one in listed[place]] == [1, 2]
    links = {f"{place}-1-link", f"{place}-2-link"} if place.startswith("/") else set()
    assert kept(host) == links
    nix = RealNix(host.root)
    nix.verify()
    switch(host, away(place, ref(1, one)))
    assert state(host, place).current is None


def test_a_switch_that_fails_leaves_no_place_changed(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = environments(host, "a-1.0", "b-1.0")
    switch(host, to("default", one))
    real = switching.apply

    def apply(generations: object, step: object) -> object:
        if getattr(generations, "shown", "").endswith("/tools"):
            raise OSError("no")
        return real(generations, step)  # type: ignore[arg-type]

    monkeypatch.setattr(switching, "apply", apply)
    with pytest.raises(OSError, match="no"):
        switch(host, to("default", two, ref(1, one)), to("/opt/site/tools", one))
    assert state(host, "default").current == ref(1, one)
    assert state(host, "/opt/site/tools").current is None
    assert os.listdir(host.path("/opt/site")) == []


def test_after_a_switch_that_was_cut_off_its_generation_is_kept_from_collection(host: Host) -> None:
    (one,) = environments(host, "a-1.0")
    change_request = request(host, to("/opt/site/tools", one))
    made = change._Change(change_request.changes[0], profiles.find(host, ProfileId(place="/opt/site/tools")))
    with Store.open(host.root) as store:
        under_way = change._Switch(host, store, change_request, Action.SWITCH)
        recovery.intend(host, [under_way._entry(made, ref(0, one))])
    os.makedirs(host.path("/opt/site"), mode=0o755)
    link = Profile(host.path("/opt/site/tools"), None)
    link.record(str(one))
    link.switch(1)
    recovery.recover(host)
    assert kept(host) == {"/opt/site/tools-1-link"}
    assert not state(host, "/opt/site/tools").changed_outside


def test_a_place_that_cannot_be_trusted_is_a_problem_of_that_profile_alone(host: Host) -> None:
    (one,) = environments(host, "a-1.0")
    os.makedirs(host.path("/opt/site"))
    os.chmod(host.path("/opt/site"), 0o777)
    problems = stage_all(host, {"/opt/site/tools": one, "default": one})
    assert list(problems) == ["/opt/site/tools"]
    assert "others than root may write to /opt/site" in problems["/opt/site/tools"]
    with pytest.raises(StoreError, match="others than root"):
        switch(host, to("/opt/site/tools", one))


@pytest.mark.parametrize("file", ["bin/nix", "bin/nix-env"])
def test_a_foreign_profile_with_nix_in_it_is_guarded_and_one_of_ours_is_not(host: Host, file: str) -> None:
    with Store.open(host.root) as store:
        foreign = store.add_path("nix-2.18", _tree(host, file))
        Profile(host.path("/nix/var/nix/profiles/default"), store).record(str(foreign))
        Profile(host.path("/nix/var/nix/profiles/default"), store).switch(1)
    seen = state(host, "default")
    assert (seen.guard, seen.foreign) == ("Nix itself lives in it", True)
    (ours,) = environments(host, "a-1.0")
    switch(host, to("default", ours, ref(1, foreign)))
    assert (state(host, "default").guard, state(host, "default").foreign) == ("", False)


def _tree(host: Host, file: str) -> str:
    top = Path(host.root).parent / "tree"
    (top / file).parent.mkdir(parents=True)
    (top / file).write_text("#!/bin/sh\n")
    return str(top)


def test_a_system_of_others_comes_back_and_does_not_run(host: Host) -> None:
    with Store.open(host.root) as store:
        foreign, ours = package(store, "other-system-1.0"), make_toplevel(store, package(store, "a-1.0"))
        Profile(host.system_profile, store).record(str(foreign))
        Profile(host.system_profile, store).switch(1)
    switch(host, to("system", ours, ref(1, foreign)))
    assert stage_all(host, {"system": foreign}) == {}
    switch(host, to("system", foreign, ref(2, ours), number=1), kind="rollback", undoes=host.session.deployment)
    seen = observe.observe(host, ObserveRequest())
    assert (seen.profiles[0].current, seen.running) == (ref(1, foreign), "")
    lock.release(host)
