"""The test hosts are what they claim: isolated, real, and gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.hosts.fixture import MakeFleet
from tests.hosts.host import TestHost
from tests.hosts.image import OPS_PASSWORD

pytestmark = pytest.mark.root

NAMESPACES = ("mnt", "pid", "uts", "ipc")


def namespaces_of(pid: int | str) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{name}") for name in NAMESPACES]


def test_each_host_has_namespaces_a_name_and_a_machine_id_of_its_own(fleet: MakeFleet) -> None:
    first, second = fleet(2)
    for mine, theirs, ours in zip(
        namespaces_of(first.pid), namespaces_of(second.pid), namespaces_of("self"), strict=True
    ):
        assert len({mine, theirs, ours}) == 3
    assert first.run("hostname").stdout == "host01\n"
    identities = {host.run("cat /etc/machine-id").stdout for host in (first, second)}
    assert len(identities) == 2
    assert all(len(identity) == 33 for identity in identities)


def test_the_openssh_client_logs_in_as_each_user(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    expected = {"root": "0", "alice": "1001", "bob": "1002", "deploy": "1003", "ops": "1004"}
    for user, uid in expected.items():
        done = host.ssh("id -u; pwd", user)
        assert done.stdout.split() == [uid, "/root" if user == "root" else f"/home/{user}"], done.stderr


def test_a_wrong_key_is_refused(fleet: MakeFleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    options = [f"UserKnownHostsFile={host.fleet.directory}/known_hosts", "IdentitiesOnly=yes", f"Port={host.port}"]
    done = subprocess.run(
        [
            "ssh",
            "-F",
            "none",
            "-i",
            tmp_path / "other",
            *(f"-o{option}" for option in options),
            "root@127.0.0.1",
            "true",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


def test_run_and_ssh_see_the_same_host(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.ssh("echo from ssh > note", "alice")
    assert host.run("cat note", "alice").stdout == "from ssh\n"
    assert (host.root / "home/alice/note").read_text() == "from ssh\n"


def test_sudo_needs_no_password_for_deploy_and_one_for_ops(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    assert host.ssh("sudo -n id -u", "deploy").stdout == "0\n"
    assert host.ssh("sudo -n id -u", "ops").returncode == 1
    assert host.ssh("sudo -S -p '' id -u", "ops", stdin=f"{OPS_PASSWORD}\n").stdout == "0\n"
    assert host.ssh("sudo -S -p '' id -u", "ops", stdin="wrong\n").returncode == 1


def test_what_a_host_writes_stays_in_its_disk(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    marks = [f"/{folder}/mark-of-{host.name}" for folder in ("etc", "root", "run", "var/lib", "tmp", "nix")]
    assert host.run("touch " + " ".join(marks)).returncode == 0
    assert not any(Path(mark).exists() for mark in marks)


def test_the_machines_programs_are_read_only(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    done = host.run("touch /usr/mark")
    assert done.returncode != 0
    assert "Read-only file system" in done.stderr


def test_a_host_starts_without_a_store_and_real_nix_makes_one_there(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    assert host.run("ls /nix").stdout == ""
    host.verify_store()
    assert not (host.root / "nix/var").exists()
    path = host.nix("nix-store", "--add", "/etc/hostname").stdout.strip()
    assert path.startswith("/nix/store/")
    assert not Path(path).exists()
    host.verify_store()


@pytest.mark.nix
def test_verify_store_sees_a_changed_file(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    path = host.nix("nix-store", "--add", "/etc/hostname").stdout.strip()
    host.run(f"chmod u+w {path}; echo rot >> {path}")
    with pytest.raises(AssertionError, match="modified"):
        host.verify_store()


def test_a_read_only_store_can_be_made_writable_in_a_mount_namespace_of_ones_own(fleet: MakeFleet) -> None:
    (host,) = fleet(1, read_only_store=True)
    assert "Read-only" in host.run("touch /nix/store/x").stderr
    done = host.run("unshare -m sh -c 'mount -o remount,bind,rw /nix/store && touch /nix/store/x'")
    assert done.returncode == 0, done.stderr
    assert "Read-only" in host.run("touch /nix/store/y").stderr


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_a_host_can_have_another_python(fleet: MakeFleet, version: str) -> None:
    (host,) = fleet(1, python=version)
    done = host.ssh(f"{host.python} -I -S -c 'import sys, sqlite3, ctypes; print(sys.version_info[:2])'", "deploy")
    assert done.stdout == f"({version.replace('.', ', ')})\n", done.stderr


def test_a_stopped_host_answers_nobody_and_comes_back_with_its_disk_and_port(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.run("echo kept > /root/kept; echo lost > /run/lost; ln -s nowhere /run/link")
    port = host.port
    host.stop()
    assert host.ssh("true").returncode == 255
    assert host.processes() == {}
    host.start()
    assert host.port == port
    assert host.ssh("cat kept; ls /run/lost").stdout == "kept\n"


def test_a_start_obeys_tmpfiles_lines(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.run("mkdir -p /etc/tmpfiles.d; echo 'L+ /run/current-system - - - - /nix/var/x' > /etc/tmpfiles.d/a.conf")
    host.stop()
    host.start()
    assert host.run("readlink /run/current-system").stdout == "/nix/var/x\n"


def test_sessions_can_be_killed_while_the_listener_stays(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    with subprocess.Popen(
        ["ssh", "-F", host.fleet.ssh_config, host.name, "sleep 60"], stderr=subprocess.PIPE
    ) as client:
        wait_until(lambda: any("sleep 60" in line for line in host.processes().values()))
        assert host.kill_sessions() >= 1
        assert client.wait(timeout=10) == 255
    assert host.ssh("true").returncode == 0


def test_a_restarted_sshd_serves_again(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.restart_sshd()
    assert host.ssh("true").returncode == 0


def test_a_frozen_host_is_silent_until_it_is_thawed(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    host.freeze()
    with pytest.raises(subprocess.TimeoutExpired):
        host.ssh("true", timeout=1)
    host.thaw()
    assert host.ssh("true").returncode == 0


def test_sshd_takes_a_tests_own_settings(fleet: MakeFleet) -> None:
    (host,) = fleet(1, sshd="PermitRootLogin no")
    assert "Permission denied" in host.ssh("true", "root").stderr
    assert host.ssh("true", "alice").returncode == 0


def test_hosts_in_memory_work_and_show_their_disk(fleet: MakeFleet) -> None:
    (host,) = fleet(1, tmpfs=True)
    host.run("echo x > /nix/x")
    assert (host.root / "nix/x").read_text() == "x\n"
    assert host.run("stat -f -c %T /nix").stdout == "tmpfs\n"
    host.stop()
    host.start()
    assert host.run("cat /nix/x").stdout == "x\n"


def test_thirty_hosts_start_quickly(fleet: MakeFleet) -> None:
    began = time.monotonic()
    hosts = fleet(30, tmpfs=True)
    assert time.monotonic() - began < 30
    assert len({host.run("hostname").stdout for host in hosts}) == 30


def test_builds_in_a_sandbox_work_inside(fleet: MakeFleet) -> None:
    (host,) = fleet(1)
    done = host.ssh("unshare -Urmpf --mount-proc sh -c 'mount -t tmpfs none /mnt && id -u'", "alice")
    assert done.stdout == "0\n", done.stderr


def test_a_closed_fleet_leaves_no_process_no_mount_and_no_disk(fleet: MakeFleet) -> None:
    hosts = fleet(2)
    host: TestHost = hosts[0]
    host.run("mkdir /nix/deep; touch /nix/deep/file; chmod 0555 /nix/deep")
    pids = [pid for each in hosts for pid in each.processes()]
    hosts.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert not (hosts.directory / "disks").exists()
    assert str(hosts.directory) not in Path("/proc/self/mountinfo").read_text()


_ABANDON = """
import os, signal, sys
from pathlib import Path
from tests.hosts.host import Options, make_fleet
fleet = make_fleet(Path(sys.argv[1]), ["lost"], Options(tmpfs=True))
print(fleet[0].pid, fleet.keeper.pid, flush=True)
os.kill(os.getpid() if sys.argv[2] == "test" else fleet.keeper.pid, signal.SIGKILL)
signal.pause()
"""


@pytest.mark.parametrize("victim", ["test", "keeper"])
def test_hosts_end_when_the_test_run_or_their_keeper_is_killed(tmp_path: Path, victim: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ABANDON, tmp_path / "fleet", victim],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as run:
        assert run.stdout is not None
        pids = [int(word) for word in run.stdout.readline().split()]
        wait_until(lambda: not alive(pids[0]))
        if victim == "test":
            wait_until(lambda: not alive(pids[1]))
        run.send_signal(signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: object, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    assert callable(condition)
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
