"""Staging: what a switch needs is there and kept, and nothing that runs has changed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.core.agent import stage
from reconciler.core.agent.host import Host
from reconciler.core.agent.messages import StageRequest
from reconciler.core.errors import InternalError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.conftest import make_writable
from tests.core.agent.hosts import begin, make_host, stage_all
from tests.core.profile.packages import make_environment, make_toplevel, package
from tests.oracle import RealNix


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = make_host(tmp_path / "host")
    begin(made)
    yield made
    make_writable(Path(made.root))


@pytest.fixture
def packed(host: Host) -> Iterator[Store]:
    with Store.open(host.root) as opened:
        yield opened


@pytest.mark.nix
def test_what_is_staged_is_rooted_and_runs_nowhere(host: Host, packed: Store) -> None:
    a = package(packed, "a-1.0")
    system, alice = make_toplevel(packed, a), make_environment(packed, a)
    assert stage_all(host, {"system": system, "user/alice": alice}) == {}
    roots = Path(host.path("/nix/var/nix/gcroots/reconciler"))
    assert os.readlink(roots / "system") == str(system)
    assert os.readlink(roots / "user/alice") == str(alice)
    assert not os.path.lexists(host.system_profile)
    assert not os.path.lexists(host.path("/run/current-system"))
    assert os.listdir(host.path("/home/alice")) == []
    nix = RealNix(host.root)
    assert {str(system), str(alice), str(a)} <= set(nix.output("nix-store", "--gc", "--print-live").splitlines())
    nix.verify()


def test_the_next_stage_frees_the_roots_of_the_one_before(host: Host, packed: Store) -> None:
    first, second = make_environment(packed, package(packed, "a-1")), make_environment(packed, package(packed, "b-1"))
    stage_all(host, {"user/alice": first, "user/bob": first})
    stage_all(host, {"user/alice": second})
    roots = Path(host.path("/nix/var/nix/gcroots/reconciler"))
    assert os.readlink(roots / "user/alice") == str(second)
    assert os.listdir(roots / "user") == ["alice"]


def test_an_incomplete_closure_fails_the_host(host: Host, packed: Store) -> None:
    missing = StorePath("a" * 32, "user-environment")
    with pytest.raises(StoreError, match=f"{missing} is not valid"):
        stage_all(host, {"user/alice": missing})


def test_a_closure_whose_files_are_gone_fails_the_host(host: Host, packed: Store) -> None:
    a = package(packed, "a-1.0")
    environment = make_environment(packed, a)
    make_writable(Path(packed.real(a)))
    shutil.rmtree(packed.real(a))
    with pytest.raises(StoreError, match=f"{a} is registered, but its files are not there"):
        stage_all(host, {"user/alice": environment})


def test_an_account_or_a_home_that_is_not_there_fails_that_profile_only(host: Host, packed: Store) -> None:
    path = make_environment(packed, package(packed, "a-1.0"))
    problems = stage_all(host, {"user/nobody-at-all": path, "user/gone": path, "user/alice": path})
    assert problems == {
        "user/nobody-at-all": "there is no account 'nobody-at-all'",
        "user/gone": "the home of gone, /home/gone, does not exist",
    }
    assert os.listdir(host.path("/nix/var/nix/gcroots/reconciler/user")) == ["alice"]


def test_a_profile_directory_that_all_may_write_to_fails_that_profile(host: Host, packed: Store) -> None:
    path = make_environment(packed)
    os.chmod(host.path("/home/alice"), 0o777)
    problem = stage_all(host, {"user/alice": path})["user/alice"]
    assert problem == "others than alice may write to /home/alice: chmod go-w /home/alice"


def test_something_that_is_no_toplevel_is_no_system(host: Host, packed: Store) -> None:
    path = make_environment(packed)
    assert stage_all(host, {"system": path}) == {"system": f"{path} is not a system profile of ours"}


def test_a_system_profile_folder_that_all_may_write_to_is_refused(host: Host, packed: Store) -> None:
    os.chmod(host.path("/nix/var/nix/profiles"), 0o777)
    problem = stage_all(host, {"system": make_toplevel(packed)})["system"]
    assert problem == "others than root may write to /nix/var/nix/profiles: chmod go-w /nix/var/nix/profiles"


def test_staging_is_for_the_deployment_that_was_begun(host: Host) -> None:
    with pytest.raises(InternalError, match="k1 was not begun here"):
        stage.stage(host, StageRequest("k1", {}))
