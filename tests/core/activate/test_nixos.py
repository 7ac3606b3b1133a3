"""What tells a NixOS host, what it can run, and its own program: started by real systemd where that runs the host."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from reconciler.core.activate import current_system, nixos, nixos_program
from reconciler.core.errors import RefusedError, StoreError
from reconciler.core.nix.store_path import StorePath
from tests.hosts.booted import boot

PROJECT = Path(__file__).parents[3]
TOPLEVEL = StorePath("0" * 32, "nixos-system-web01-24.05")


def make(root: Path, script: str, system: str = f"{os.uname().machine}-linux") -> Path:
    """A toplevel below `root`, with that program."""
    real = root / str(TOPLEVEL)[1:]
    (real / "bin").mkdir(parents=True)
    (real / "init").touch()
    (real / "system").write_text(system)
    program = real / "bin/switch-to-configuration"
    program.write_text(f"#!/bin/sh\n{script}")
    program.chmod(0o755)
    return real


@pytest.mark.parametrize(
    ("file", "text", "found"),
    [
        ("etc/NIXOS", "", True),
        ("etc/os-release", "NAME=NixOS\nID=nixos\n", True),
        ("etc/os-release", 'ID="nixos"\n', True),
        ("etc/os-release", "ID=debian\nID_LIKE=nixos\n", False),
        ("etc/hostname", "nixos\n", False),
    ],
)
def test_a_nixos_host_is_known_by_what_nixos_knows_it_by(tmp_path: Path, file: str, text: str, found: bool) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / file).write_text(text)
    assert nixos.is_host(str(tmp_path)) is found


def test_a_system_goes_to_nixos_hosts_of_its_kind_alone(tmp_path: Path) -> None:
    real = make(tmp_path, "exit 0")
    with pytest.raises(RefusedError, match="is a NixOS system, and this host does not run NixOS"):
        current_system.check(TOPLEVEL, str(tmp_path))
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/NIXOS").touch()
    current_system.check(TOPLEVEL, str(tmp_path))
    (real / "system").write_text("vax-linux")
    with pytest.raises(RefusedError, match="is a system for vax-linux, and this host is"):
        current_system.check(TOPLEVEL, str(tmp_path))
    (real / "system").unlink()
    current_system.check(TOPLEVEL, str(tmp_path))
    (real / "init").unlink()
    with pytest.raises(RefusedError, match=r"this is a NixOS host, and .* is no NixOS system: it lacks init or"):
        current_system.check(TOPLEVEL, str(tmp_path))


def test_its_program_gets_the_action_and_nothing_of_our_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "hunter2")
    real = make(tmp_path, f'echo "$1 $PWD ${{SECRET-none}}" > {tmp_path}/called')
    nixos_program.run(str(real), "test", None)
    assert (tmp_path / "called").read_text() == "test / none\n"


@pytest.mark.parametrize(
    ("status", "kind", "told"),
    [
        (1, StoreError, "it refused, or the boot loader could not be installed (status 1)\n  line 3\n"),
        (2, StoreError, "its activation script failed (status 2)\n"),
        (4, StoreError, "units failed (status 4)\n"),
        (77, StoreError, "it failed (status 77)\n"),
        (100, RefusedError, "cannot take over from the system that runs: its init is another\n"),
    ],
)
def test_what_went_wrong_is_told_with_its_last_lines(
    tmp_path: Path, status: int, kind: type[Exception], told: str
) -> None:
    real = make(tmp_path, f"for n in 1 2 3 4 5 6 7 8 9 10; do echo line $n; done\nexit {status}\n")
    with pytest.raises(kind) as error:
        nixos_program.run(str(real), "boot", None)
    assert told in str(error.value)
    assert str(error.value).endswith("line 10")
    assert "line 2\n" not in str(error.value)


def test_a_program_that_cannot_be_started_is_told(tmp_path: Path) -> None:
    real = make(tmp_path, "")
    (real / "bin/switch-to-configuration").write_text("#!/nowhere/sh\n")
    with pytest.raises(StoreError, match="bin/switch-to-configuration: No such file or directory"):
        nixos_program.run(str(real), "test", None)


_IN_SYSTEMD = """
import sys
sys.path.insert(0, sys.argv[1])
from reconciler.core.activate import nixos_program
from reconciler.core.agent import mounts
from reconciler.core.errors import ReconcilerError
import os
import shutil
os.makedirs("/nix/store", exist_ok=True)
outside = mounts.enter("/nix/store").descriptor
for action in ("test", "boot", "fail", "twice"):
    try:
        nixos_program.run("/top", action, outside)
        print(action, "done")
    except ReconcilerError as error:
        print(action, error.message.splitlines())
"""
_SAYS = """
case $1 in
    test) cat /proc/self/cgroup; mkdir -p /seen; mount -t tmpfs none /seen ;;
    boot) grep -q ' /seen ' /proc/1/mountinfo && echo "the host sees the mount" > /said; cat /said ;;
    fail) echo "a unit failed"; exit 4 ;;
    twice) exec python3 -c 'import sys; sys.path.insert(0, sys.argv[1]); from reconciler.core.activate import \
nixos_program as n; n.run("/top", "test", None)' /project ;;
esac
cp /proc/self/cgroup /cgroup
"""


@pytest.mark.root
def test_real_systemd_starts_it_as_a_unit_in_the_namespace_of_the_host(tmp_path: Path) -> None:
    extra = tmp_path / "extra"
    (extra / "top/bin").mkdir(parents=True)
    program = extra / "top/bin/switch-to-configuration"
    program.write_text(f"#!/bin/sh\n{_SAYS}")
    program.chmod(0o755)
    # Its own copy: of the machine's directories, a container has another /tmp.
    shutil.copytree(PROJECT / "reconciler/core", extra / "project/reconciler/core")
    (extra / "in-systemd.py").write_text(_IN_SYSTEMD)
    out = boot(
        tmp_path, extra, "systemctl start dbus; /usr/bin/python3 -I -B /in-systemd.py /project; cat /cgroup /said"
    )
    assert f"/{nixos_program.UNIT}.service" in out
    assert "the host sees the mount" in out
    assert out.splitlines()[:2] == ["test done", "boot done"]
    told = "/top/bin/switch-to-configuration fail: units failed (status 4)"
    assert f"fail ['{told}', '  a unit failed']" in out
    # A second one is not begun while one is at work, whoever started that.
    assert (
        f"RefusedError: an earlier switch of the system is still at work ({nixos_program.UNIT}.service is active)"
        in out
    )
