"""System profiles: content-addressed data, the same for ever."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile import toplevel as module
from reconciler.core.profile.toplevel import interface_version, sw_of, toplevel
from reconciler.core.store.store import Store
from tests.core.profile.packages import make_toplevel, package
from tests.oracle import RealNix

SW = StorePath("a" * 32, "user-environment")


def test_the_store_path_is_a_golden_one() -> None:
    # A toplevel made by any version must keep its path: hosts are compared by it.
    path, _, references = toplevel(SW, "x86_64-linux")
    assert str(path) == "/nix/store/r5g8ir4b8hf0bp13h8jzp0kfbpapwiij-reconciler-system"
    assert references == (SW,)


def test_another_environment_or_architecture_is_another_path() -> None:
    paths = {
        toplevel(SW, "x86_64-linux")[0],
        toplevel(SW, "aarch64-linux")[0],
        toplevel(StorePath("b" * 32, "user-environment"), "x86_64-linux")[0],
    }
    assert len(paths) == 3


@pytest.mark.nix
def test_nix_computes_the_same_path_for_the_tree(store: Store, nix: RealNix, tmp_path: Path) -> None:
    made = make_toplevel(store, package(store, "a-1.0"))
    nix.verify()
    assert store.info(made).ca.startswith("fixed:r:sha256:")
    assert nix.output("nix-store", "-q", "--references", str(made)) == str(sw_of(store.real(made)))
    real = Path(store.real(made))
    assert sorted(os.listdir(real)) == ["activation", "bin", "sw", "system"]
    assert (real / "system").read_text() == "x86_64-linux"
    assert interface_version(str(real)) == module.INTERFACE


def test_the_script_hands_over_to_the_hosts_agent(store: Store) -> None:
    real = Path(store.real(make_toplevel(store)))
    script = real / "bin/switch-to-configuration"
    assert os.access(script, os.X_OK)
    done = subprocess.run([script, "test"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/nix/var/nix/profiles/reconciler/bin/activate is not there" in done.stderr
    assert subprocess.run(["sh", "-n", script], check=False).returncode == 0


def test_a_path_of_somebody_elses_has_no_interface(tmp_path: Path) -> None:
    assert interface_version(str(tmp_path)) is None
    assert interface_version(str(tmp_path / "none")) is None
    assert sw_of(str(tmp_path)) is None


@pytest.mark.parametrize("text", ["", "reconciler-activation", "reconciler-activation x", "other 1"])
def test_garbled_activation_data_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "activation").write_text(text)
    with pytest.raises(FormatError, match="'reconciler-activation <version>' was expected"):
        interface_version(str(tmp_path))
