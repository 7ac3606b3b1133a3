"""collect, verify, repair and optimise by a real agent: nothing needed goes, and one of ours works at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.agent import lock
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import (
    CollectReply,
    CollectRequest,
    GenerationRef,
    OptimiseRequest,
    RepairRequest,
    VerifyRequest,
)
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.generations import Profile
from reconciler.core.store.store import Store
from reconciler.core.values import replace
from tests.conftest import make_writable
from tests.core.agent.agents import agent, messages
from tests.core.agent.hosts import begin, make_host, stage_all, switch, to
from tests.core.profile.homes import GROUP, UIDS
from tests.core.profile.packages import make_environment, make_toplevel, package
from tests.oracle import verify
from tests.pythons import VERSIONS, interpreter

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs several users")
KEEP_ONE = CollectRequest(True, "deployer", "web01", keep_generations=1)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path / "host")
    (tmp_path / "host/run").mkdir()
    yield made
    verify(made.root)
    make_writable(tmp_path)


def deploy(host: Host, version: int) -> tuple[StorePath, StorePath]:
    """The system and alice get a package of that version."""
    begin(host, f"260312-1412-k{version}")
    with Store.open(host.root) as store:
        one = package(store, f"a-{version}.0")
        system, environment = make_toplevel(store, one), make_environment(store, one)
    stage_all(host, {"system": system, "user/alice": environment})
    now = {name: profile_of(host, name).current() for name in ("system", "user/alice")}
    expect = {name: GenerationRef(one.number, one.path) if one else None for name, one in now.items()}
    switch(host, to("system", system, expect["system"]), to("user/alice", environment, expect["user/alice"]))
    lock.release(host)
    return system, environment


def profile_of(host: Host, name: str) -> Profile:
    below = "system" if name == "system" else "per-user/alice/profile"
    return Profile(host.path(f"/nix/var/nix/profiles/{below}"), None)


def numbers(host: Host, name: str) -> list[int]:
    return [one.number for one in profile_of(host, name).list()]


def collected(host: Host) -> tuple[CollectReply, CollectReply]:
    """What would go with one generation kept, and what went."""
    with agent(Path(host.root)) as client:
        shown = client.collect(KEEP_ONE)
        done = client.collect(CollectRequest(False, "deployer", "web01", 1, None, shown.profiles))
    return shown, done


def going(reply: CollectReply) -> dict[str, list[int]]:
    return {one.profile: [each.number for each in one.goes] for one in reply.profiles}


@pytest.mark.nix
def test_what_is_shown_is_what_goes_and_real_nix_finds_nothing_more(host: Host) -> None:
    paths = [deploy(host, version) for version in (1, 2, 3, 4)]
    before = set(os.listdir(host.path("/nix/store")))
    shown, done = collected(host)
    assert going(shown) == going(done) == {"system": [1, 2], "user/alice": [1, 2]}
    gone = before - set(os.listdir(host.path("/nix/store")))
    assert gone == set(shown.deleted) == set(done.deleted)
    assert (shown.paths, shown.freed, shown.kept) == (done.paths, done.freed, done.kept)
    assert {path.base_name for path in paths[0]} <= gone
    assert not {path.base_name for path in (*paths[2], *paths[3])} & gone
    assert numbers(host, "system") == numbers(host, "user/alice") == [3, 4]
    with agent(Path(host.root)) as client:
        assert not client.collect(KEEP_ONE).paths


def test_what_a_profile_was_before_it_was_managed_stays(host: Host) -> None:
    deploy(host, 1)
    os.unlink(host.history)  # from here on, generation 1 was made by somebody else
    for version in (2, 3, 4):
        deploy(host, version)
    shown, _ = collected(host)
    assert going(shown) == {"system": [2], "user/alice": [2]}
    assert numbers(host, "system") == [1, 3, 4]


@needs_root
@pytest.mark.nix
def test_a_user_s_generations_are_deleted_as_the_user(host: Host) -> None:
    for version in (1, 2, 3):
        deploy(host, version)
    directory = Path(host.path("/nix/var/nix/profiles/per-user/alice"))
    assert directory.stat().st_uid == UIDS["alice"]
    # Bob's: alice may not unlink it, root could.
    (directory / "profile-1-link").unlink()
    os.chmod(directory, 0o755)
    (directory / "profile-1-link").symlink_to("/nix/store/" + "b" * 32 + "-bob")
    os.chmod(directory, 0o777)
    shown, _ = collected(host)
    assert going(shown) == {"system": [1], "user/alice": []}
    assert "others than alice may write" in shown.profiles[1].note
    os.chmod(directory, 0o555)
    os.chown(directory, UIDS["alice"], GROUP)
    with agent(Path(host.root)) as client:
        shown = client.collect(KEEP_ONE)
        with pytest.raises(StoreError, match=r"as alice: .*denied"):
            client.collect(CollectRequest(False, "deployer", "web01", 1, None, shown.profiles))
    assert numbers(host, "user/alice") == [1, 2, 3]
    os.chmod(directory, 0o755)
    assert going(collected(host)[1])["user/alice"] == [1]


@pytest.mark.nix
def test_what_runs_was_booted_or_is_staged_stays(host: Host) -> None:
    systems = [deploy(host, version)[0] for version in (1, 2, 3, 4, 5, 6)]
    for name, path in (("current-system", systems[0]), ("booted-system", systems[1])):
        Path(host.path(f"/run/{name}")).unlink(missing_ok=True)
        Path(host.path(f"/run/{name}")).symlink_to(str(path))
    begin(host)
    stage_all(host, {"system": systems[2]})
    lock.release(host)
    _, done = collected(host)
    assert going(done)["system"] == [4]
    assert going(done)["user/alice"] == [1, 2, 3, 4]


def named(*words: str, **choice: Any) -> CollectRequest:
    """What deletes the generations that the words mean."""
    return CollectRequest(True, "deployer", "web01", delete=words, **choice)


def deleted(host: Host, request: CollectRequest) -> tuple[CollectReply, CollectReply]:
    """What would go by that, and what went."""
    with agent(Path(host.root)) as client:
        shown = client.collect(request)
        done = client.collect(replace(request, check=False, expect=shown.profiles))
    return shown, done


@pytest.mark.nix
def test_generations_that_are_named_go_of_the_profile_that_is_meant(host: Host) -> None:
    for version in (1, 2, 3, 4, 5):
        deploy(host, version)
    shown, done = deleted(host, named("2", "9", system=True))
    assert going(shown) == going(done) == {"system": [2]}
    assert [one.profiles[0].note for one in (shown, done)] == ["there is no generation 9"] * 2
    assert (set(shown.deleted), shown.freed) == (set(done.deleted), done.freed)
    assert (numbers(host, "system"), numbers(host, "user/alice")) == ([1, 3, 4, 5], [1, 2, 3, 4, 5])

    # Also what could be gone back to, when it is named; else it stays, and that is said.
    shown, done = deleted(host, named("old", users="al*"))
    assert going(shown) == going(done) == {"user/alice": [1, 2, 3]}
    assert done.profiles[0].note == "4 stays: it is what undoing the latest change goes back to"
    _, done = deleted(host, named("4", users="alice"))
    assert (going(done), numbers(host, "user/alice")) == ({"user/alice": [4]}, [5])
    _, done = deleted(host, named("+3"))
    assert going(done) == {"system": [1], "user/alice": []}


@pytest.mark.nix
def test_a_number_that_must_stay_is_refused_and_nothing_goes(host: Host) -> None:
    systems = [deploy(host, version)[0] for version in (1, 2, 3, 4)]
    booted = Path(host.path("/run/booted-system"))
    booted.unlink(missing_ok=True)
    booted.symlink_to(str(systems[0]))
    begin(host)
    stage_all(host, {"system": systems[1]})
    lock.release(host)
    refused = {
        ("1", "3"): "system: generation 1: it was booted",
        ("2",): "system: generation 2: it is staged",
        ("4",): "system: generation 4 is the current one",
    }
    with agent(Path(host.root)) as client:
        for words, said in refused.items():
            with pytest.raises(RefusedError, match=said):
                client.collect(named(*words, system=True))
        system = Path(host.system_profile)
        system.unlink()
        system.symlink_to("system-9-link")
        with pytest.raises(RefusedError, match="system: no generation is the current one"):
            client.collect(named("3", system=True))
        (one,) = client.collect(named("old", system=True)).profiles
        assert (one.goes, one.note) == ((), "no generation is the current one, so all are kept")
        system.unlink()
        system.symlink_to("system-4-link")
        assert client.collect(named("3", users="bob")).profiles == ()
    assert numbers(host, "system") == [1, 2, 3, 4]


@pytest.mark.nix
def test_what_has_become_needed_since_it_was_shown_stays(host: Host) -> None:
    for version in (1, 2, 3):
        deploy(host, version)
    with agent(Path(host.root)) as client:
        shown = client.collect(KEEP_ONE)
        profile_of(host, "system").switch(1)
        done = client.collect(CollectRequest(False, "deployer", "web01", 1, None, shown.profiles))
    assert going(done) == {"system": [], "user/alice": [1]}
    assert done.profiles[0].note == "1 of them have become needed meanwhile, or were gone"
    assert numbers(host, "system") == [1, 2, 3]


@pytest.mark.nix
def test_profiles_that_no_deployment_made_lose_nothing(host: Host) -> None:
    deploy(host, 1)
    foreign = Profile(host.path("/nix/var/nix/profiles/default"), None)
    with Store.open(host.root) as store:
        for version in (7, 8, 9):
            number, _ = foreign.record(str(package(store, f"foreign-{version}.0")))
            foreign.switch(number)
    shown, _ = collected(host)
    assert "default" not in going(shown)
    assert [one.number for one in foreign.list()] == [1, 2, 3]


def test_a_host_that_is_not_managed_is_left_alone_and_can_be_looked_at(tmp_path: Path) -> None:
    host = make_host(tmp_path / "host")
    with agent(Path(host.root)) as client:
        assert not client.collect(KEEP_ONE).managed
        assert not client.optimise(OptimiseRequest("deployer", "web01")).managed
        assert not client.verify(VerifyRequest()).store
        with pytest.raises(RefusedError, match="web01: this host is not managed"):
            client.repair(RepairRequest("deployer", "web01"))
    assert not os.path.exists(host.path("/nix"))


@pytest.mark.nix
def test_while_a_deployment_is_at_work_only_verify_is_not_refused(host: Host) -> None:
    deploy(host, 1)
    begin(host)
    with agent(Path(host.root)) as client:
        said = "web01 is locked: deployer deploys 260312-1412-k7 since"
        with pytest.raises(RefusedError, match=said):
            client.collect(CollectRequest(False, "oncall", "web01"))
        with pytest.raises(RefusedError, match=said):
            client.optimise(OptimiseRequest("oncall", "web01"))
        with pytest.raises(RefusedError, match=said):
            client.repair(RepairRequest("oncall", "web01"))
        assert client.verify(VerifyRequest()).found == 0
        lock.release(host)
        client.repair(RepairRequest("oncall", "web01"))
        with pytest.raises(RefusedError, match=r"is locked: oncall runs repair since"):
            begin(host, who="deployer")
    begin(host)
    lock.release(host)


@pytest.mark.nix
@pytest.mark.parametrize("version", VERSIONS)
def test_every_python_finds_repairs_and_links(version: str, host: Host, tmp_path: Path) -> None:
    python = interpreter(version)
    system, _ = deploy(host, 1)
    with Store.open(host.root) as store:
        found = [path for path in store.closure([system]) if path.name.startswith("a-")]
        (one,) = messages(store, *found)
        archive = b"".join(store.nar(found[0]))
        twin = package(store, "twin-1.0", {"bin": {"a": "#!/bin/sh\necho a-1.0\n"}})
    file = Path(host.path(f"{found[0]}/bin/a"))
    os.chmod(file, 0o644)
    file.write_bytes(file.read_bytes().replace(b"a", b"b"))
    os.chmod(file, 0o444)
    os.utime(file, (1, 1))
    os.chmod(host.path(f"{twin}/bin/a"), 0o600)
    heard: list[str] = []
    with agent(Path(host.root), python) as client:
        reply = client.verify(VerifyRequest(), lambda event: heard.append(event["kind"]))
        assert {(f.path, f.kind) for f in reply.findings} == {(str(found[0]), "changed"), (str(twin), "mode")}
        assert "path" in heard
        mended = client.repair(RepairRequest("deployer", "web01", (str(found[0]), str(twin))))
        assert (mended.mended, mended.lacking) == ((str(twin),), (one,))
        wrong = archive.replace(b"echo", b"ohce")
        with pytest.raises(StoreError, match="registered is"):
            client.repair(RepairRequest("deployer", "web01", replace=(one,)), lambda _: iter([wrong]))
        assert client.verify(VerifyRequest(paths=(one.path,))).found == 1
        client.repair(RepairRequest("deployer", "web01", replace=(one,)), lambda _: iter([archive]))
        assert client.verify(VerifyRequest()).found == 0
    with agent(Path(host.root), python) as client:
        assert client.optimise(OptimiseRequest("deployer", "web01")).files >= 1
        assert client.verify(VerifyRequest()).found == 0
    with agent(Path(host.root), python) as client:
        assert twin.base_name in client.collect(CollectRequest(False, "deployer", "web01")).deleted
