"""/run/current-system: what runs, apart from what the profile is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.activate import current_system
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.core.profile.packages import make_toplevel, package
from tests.oracle import RealNix

A = "/nix/store/" + "a" * 32 + "-reconciler-system"
B = "/nix/store/" + "b" * 32 + "-reconciler-system"


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A host after its boot: /run/current-system leads through the profile, as the tmpfiles line makes it."""
    profiles = tmp_path / "nix/var/nix/profiles"
    profiles.mkdir(parents=True)
    (profiles / "system").symlink_to("system-1-link")
    (profiles / "system-1-link").symlink_to(A)
    (profiles / "system-2-link").symlink_to(B)
    (tmp_path / "run").mkdir()
    (tmp_path / "run/current-system").symlink_to("/nix/var/nix/profiles/system")
    return str(tmp_path)


def test_what_runs_is_found_through_the_profile(root: str) -> None:
    assert current_system.running(root) == A
    assert current_system.booted(root) == ""


def test_nothing_runs_where_the_link_leads_nowhere(root: str) -> None:
    os.unlink(f"{root}/nix/var/nix/profiles/system-1-link")
    assert current_system.running(root) == ""
    os.unlink(f"{root}/run/current-system")
    assert current_system.running(root) == ""
    assert current_system.raw_target(root) is None


def test_a_circle_of_links_runs_nothing(root: str) -> None:
    os.unlink(f"{root}/run/current-system")
    os.symlink("current-system", f"{root}/run/current-system")
    assert current_system.running(root) == ""


def test_activating_makes_the_store_path_run_and_roots_it(root: str) -> None:
    current_system.activate(B, root)
    assert os.readlink(f"{root}/run/current-system") == B
    roots = f"{root}/nix/var/nix/gcroots"
    assert os.readlink(f"{roots}/current-system") == "/run/current-system"
    assert os.readlink(f"{roots}/booted-system") == "/run/booted-system"
    assert not os.path.lexists(f"{root}/run/booted-system")


def test_a_pinned_system_stays_while_the_profile_moves(root: str) -> None:
    current_system.pin(root)
    os.unlink(f"{root}/nix/var/nix/profiles/system")
    os.symlink("system-2-link", f"{root}/nix/var/nix/profiles/system")
    assert current_system.running(root) == A
    current_system.pin(root)
    assert os.readlink(f"{root}/run/current-system") == A


def test_there_is_nothing_to_pin_on_a_host_that_runs_nothing(tmp_path: Path) -> None:
    current_system.pin(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_deactivating_takes_the_link_and_its_root_away(root: str) -> None:
    current_system.activate(A, root)
    current_system.deactivate(root)
    assert not os.path.lexists(f"{root}/run/current-system")
    assert not os.path.lexists(f"{root}/nix/var/nix/gcroots/current-system")
    current_system.deactivate(root)


def test_a_directory_in_its_place_is_told_and_stays(root: str) -> None:
    os.unlink(f"{root}/run/current-system")
    os.mkdir(f"{root}/run/current-system")
    with pytest.raises(StoreError, match="/run/current-system is not a link"):
        current_system.activate(A, root)
    assert os.path.isdir(f"{root}/run/current-system")


@pytest.mark.nix
def test_what_runs_is_a_root_for_nix(store: Store, nix: RealNix) -> None:
    running = make_toplevel(store, package(store, "a-1.0"))
    current_system.activate(str(running), store.root)
    # Nix reads the second hop by its own path, so here, below another root, it is made to be the same.
    link = f"{store.state_dir}/gcroots/current-system"
    os.unlink(link)
    os.symlink(f"{store.root}/run/current-system", link)
    assert str(running) in nix.output("nix-store", "--gc", "--print-live").splitlines()
    nix.verify()


# --- which toplevels a host takes -------------------------------------------------------------------------------------


def test_a_toplevel_of_ours_is_taken(store: Store) -> None:
    current_system.check(make_toplevel(store), store.root)


def test_something_else_is_refused(store: Store) -> None:
    other = package(store, "a-1.0")
    with pytest.raises(RefusedError, match=f"{other} is not a system profile of ours"):
        current_system.check(other, store.root)


def test_a_newer_interface_is_refused_by_name(store: Store) -> None:
    newer = package(store, "reconciler-system", {"activation": "reconciler-activation 2\n"})
    with pytest.raises(RefusedError, match="has interface version 2; this agent knows versions up to 1"):
        current_system.check(newer, store.root)


def test_a_nixos_host_takes_none_of_ours(store: Store) -> None:
    os.mkdir(f"{store.root}/etc")
    Path(store.root, "etc/NIXOS").touch()
    with pytest.raises(RefusedError, match="this is a NixOS host"):
        current_system.check(make_toplevel(store), store.root)
    assert StorePath.parse(A).name == "reconciler-system"
