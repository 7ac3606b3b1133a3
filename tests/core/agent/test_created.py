"""What a host had not before us, written down by deployments and by builds for others."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from reconciler.core.agent import created
from reconciler.core.agent.host import Host
from tests.core.agent.hosts import begin, make_host

ALL = ("/nix", "/nix/store", "/nix/var/nix", "/nix/var/reconciler")
HOME = "/home/alice/.nix-profile"


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return make_host(tmp_path / "host")


def test_a_store_that_a_build_makes_is_ours_and_the_host_is_not_managed_for_that(host: Host) -> None:
    created.note_store(host)
    assert created.read(host) == ALL
    assert not host.managed
    host.open_store(create=True).close()
    begin(host)
    assert created.read(host) == ALL
    assert host.managed


def test_a_store_that_was_there_is_nobodys_of_ours(host: Host) -> None:
    os.makedirs(host.path("/nix/store"))
    created.note_store(host)
    assert created.read(host) == ()
    assert not os.path.exists(host.own_state)


def test_a_build_takes_nothing_back_that_a_deployment_wrote_down_meanwhile(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deployment has the host's lock, and the build has not."""
    really = created.new_state

    def slowly(*given: object) -> tuple[str, ...]:
        monkeypatch.undo()
        begin(Host(host.root))
        created.note(host, [HOME])
        return really(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(created, "new_state", slowly)
    created.note_store(host)
    assert created.read(host) == ("/nix", "/nix/store", "/nix/var/nix", HOME)


@pytest.mark.parametrize("left", [(), (".created.tmp-7-0123abcd",), ("created", ".created.tmp-7-0123abcd")])
def test_a_build_that_was_killed_while_it_wrote_that_down_leaves_no_managed_host(
    host: Host, left: tuple[str, ...]
) -> None:
    os.makedirs(host.own_state)
    for name in left:
        Path(host.own_state, name).touch()
    assert not host.managed
    begin(host)
    assert host.managed
