"""What the lab chooses where the kernel allows less, and what it says where nothing is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reconciler.core.errors import RefusedError
from reconciler.lab import lab, namespaces
from reconciler.lab.linux import CLONE_NEWUSER
from reconciler.lab.namespaces import Isolation


def allow(monkeypatch: pytest.MonkeyPatch, *, uid: int, user_namespaces: bool, others: bool, podman: bool) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(namespaces, "_works", lambda flag: user_namespaces if flag == CLONE_NEWUSER else others)
    monkeypatch.setattr(namespaces, "_podman_works", lambda: podman)
    monkeypatch.setattr(namespaces, "_maps_all_ids", lambda: True)


@pytest.mark.parametrize(
    ("uid", "user_namespaces", "podman", "expected"),
    [
        (1000, True, False, Isolation.OWN_USER),
        (1000, True, True, Isolation.OWN_USER),
        (1000, False, True, Isolation.PODMAN),
        (0, True, False, Isolation.RANGE),
        (0, False, False, Isolation.PLAIN),
    ],
)
def test_the_strongest_isolation_that_works_is_chosen(
    monkeypatch: pytest.MonkeyPatch, uid: int, user_namespaces: bool, podman: bool, expected: Isolation
) -> None:
    allow(monkeypatch, uid=uid, user_namespaces=user_namespaces, others=uid == 0, podman=podman)
    assert namespaces.choose_isolation() is expected


def test_where_nothing_works_three_lines_say_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, uid=1000, user_namespaces=False, others=False, podman=False)
    with pytest.raises(RefusedError, match="this kernel does not let you make namespaces") as caught:
        namespaces.choose_isolation()
    lines = (caught.value.hint or "").splitlines()
    assert [line.split()[0] for line in lines] == ["sudo", "apt-get", "sudo"]
    assert lines[0].startswith("sudo sysctl -w ")
    assert "podman" in lines[1]
    assert lines[2].startswith("sudo reconciler lab up")


def test_root_of_a_container_is_told_about_the_container(monkeypatch: pytest.MonkeyPatch) -> None:
    allow(monkeypatch, uid=0, user_namespaces=False, others=False, podman=False)
    with pytest.raises(RefusedError, match="root in this container") as caught:
        namespaces.choose_isolation()
    assert "--privileged" in (caught.value.hint or "")


def test_a_probe_does_not_change_this_process() -> None:
    before = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid", "user", "uts")}
    namespaces._works(CLONE_NEWUSER)
    assert before == {name: os.readlink(f"/proc/self/ns/{name}") for name in before}


@pytest.mark.root
def test_root_without_user_namespaces_gets_hosts_that_cannot_reach_the_machine(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "choose_isolation", lambda: Isolation.PLAIN)
    made = lab.up(["one"], directory, ["alice"])
    assert made.notes == ("no user namespaces here: root of a lab host is root of this machine, in namespaces only",)
    command = ["ssh", "-F", str(directory / "ssh_config"), "one"]
    harmful = {"mknod /tmp/disk b 8 0": "not permitted", "echo 1 > /proc/sys/kernel/printk": "Read-only file system"}
    for line, answer in harmful.items():
        done = subprocess.run([*command, line], check=False, capture_output=True, text=True)
        assert done.returncode != 0
        assert answer in done.stderr


_PODMAN = """
import sys
from pathlib import Path
from reconciler.lab import lab
from reconciler.lab.namespaces import Isolation
lab.choose_isolation = lambda: Isolation.PODMAN
directory = Path(sys.argv[1])
print([host.running for host in lab.up(["one"], directory, ["alice"]).hosts])
lab.down(directory)
print(directory.exists())
"""


@pytest.mark.skipif(os.geteuid() == 0, reason="as root: podman has nothing to unshare")
def test_podman_makes_the_namespaces_where_only_it_may(tmp_path: Path) -> None:
    if not namespaces._podman_works():
        pytest.skip("podman: `podman unshare` does not work here: apt-get install podman uidmap")
    done = subprocess.run(
        [sys.executable, "-c", _PODMAN, tmp_path / "lab"], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "[True]\nFalse\n", done.stderr
