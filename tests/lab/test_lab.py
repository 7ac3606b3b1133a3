"""Throw-away hosts, for real: namespaces, our server, OpenSSH's client."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError, RefusedError, UsageError
from reconciler.lab import lab, python, state
from reconciler.lab.launch import Answer, Order
from reconciler.lab.namespaces import Isolation


def ssh(
    directory: Path, host: str, command: str, *options: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["ssh", "-F", directory / "ssh_config", *options, host, command],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=60,
    )


def output(directory: Path, host: str, command: str, *options: str) -> str:
    done = ssh(directory, host, command, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


def test_hosts_are_made_by_one_launcher_and_serve_as_soon_as_up_ends(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python and our modules are loaded once for all of them, and nobody has to wait before the first login."""
    launched: list[list[str]] = []
    launch = lab._launch

    def seen(order: Order, isolation: Isolation) -> list[Answer]:
        launched.append([host.name for host in order.hosts])
        return launch(order, isolation)

    monkeypatch.setattr(lab, "_launch", seen)
    made = lab.up(["web01", "web02", "web03", "db01"], directory, ["alice"])
    names = ["db01", "web01", "web02", "web03"]
    assert [sorted(each) for each in launched] == [names]
    assert [host.name for host in made.hosts] == names
    assert all(host.running for host in made.hosts)
    assert [output(directory, name, "hostname") for name in names] == [f"{name}\n" for name in names]


def test_up_again_starts_only_what_is_missing(directory: Path) -> None:
    lab.up(["one", "two"], directory)
    lab.stop(["two"], directory)
    before = {host.name: host.pid for host in lab.hosts(directory)}
    again = lab.up(["one", "two", "three"], directory)
    assert sorted(again.started) == ["three", "two"]
    assert again.host("one").pid == before["one"]
    assert lab.up(["one", "two", "three"], directory).started == ()


def test_a_host_has_what_a_managed_host_needs_and_no_store(directory: Path) -> None:
    lab.up(["one"], directory)
    script = "import sys, sqlite3, ctypes; assert sys.version_info >= (3, 9); print('fit')"
    assert output(directory, "one", f'python3 -I -S -c "{script}"') == "fit\n"
    assert output(directory, "one", "ls -A /nix; id -u") == "0\n"
    assert output(directory, "one", "bash -lc 'echo $PATH'") == output(directory, "one", "echo $PATH")


def test_a_command_has_three_streams_and_a_status(directory: Path) -> None:
    lab.up(["one"], directory)
    done = ssh(directory, "one", "cat; echo problem >&2; exit 7", stdin=b"in")
    assert (done.stdout, done.stderr, done.returncode) == (b"in", b"problem\n", 7)


def test_a_command_that_a_signal_ends_is_reported_so(directory: Path) -> None:
    lab.up(["one"], directory)
    done = ssh(directory, "one", "kill -KILL $$", "-v")
    assert done.returncode == 255
    assert b"exit-signal" in done.stderr


def test_much_data_both_ways_and_on_both_streams_arrives_whole(directory: Path) -> None:
    lab.up(["one"], directory)
    data = os.urandom(5_000_000)
    done = ssh(directory, "one", "tee /dev/stderr", stdin=data)
    assert done.stdout == data
    assert done.stderr == data


def test_a_command_that_reads_nothing_does_not_stop_its_client(directory: Path) -> None:
    lab.up(["one"], directory)
    assert ssh(directory, "one", "exec <&-; echo done", stdin=bytes(8_000_000)).stdout == b"done\n"


def test_a_terminal_has_the_clients_kind_and_a_login_shell_reads_the_profile(directory: Path) -> None:
    lab.up(["one"], directory)
    (directory / "hosts/one/disk/etc/profile.d/mark.sh").write_text("MARK=read\n")
    done = subprocess.run(
        ["ssh", "-tt", "-F", directory / "ssh_config", "one"],
        input=b"stty -echo\necho $MARK $TERM $(tty)\nexit 3\n",
        capture_output=True,
        check=False,
        timeout=60,
        env={**os.environ, "TERM": "vt100"},
    )
    assert done.returncode == 3
    assert b"read vt100 /dev/pts/" in done.stdout


def test_several_sessions_share_one_connection(directory: Path) -> None:
    lab.up(["one"], directory)
    control = ("-o", "ControlMaster=auto", "-o", f"ControlPath={directory}/mux", "-o", "ControlPersist=yes")
    assert output(directory, "one", "echo first", *control) == "first\n"
    sleepers = [
        subprocess.Popen(["ssh", "-F", directory / "ssh_config", *control, "one", "sleep 0.5"]) for _ in range(3)
    ]
    assert output(directory, "one", "echo during", *control) == "during\n"
    assert [sleeper.wait(timeout=20) for sleeper in sleepers] == [0, 0, 0]
    assert ssh(directory, "one", "", *control, "-O", "exit").returncode == 0


def test_hosts_that_run_get_the_accounts_of_users_named_later(directory: Path) -> None:
    before = lab.up(["one", "two"], directory, ["alice"])
    again = lab.up(["one", "two"], directory, ["alice", "carol"])
    assert again.started == ()
    assert again.notes == ("one has new accounts: carol", "two has new accounts: carol")
    assert [host.pid for host in again.hosts] == [host.pid for host in before.hosts]
    assert output(directory, "two", "pwd", "-l", "carol") == "/home/carol\n"
    assert lab.up(["one", "two"], directory, ["carol"]).notes == ()


def test_users_log_in_with_their_own_home(directory: Path) -> None:
    lab.up(["one"], directory, ["alice", "bob"])
    assert output(directory, "one", "echo $USER $HOME; pwd; touch mine", "-l", "bob") == "bob /home/bob\n/home/bob\n"
    assert (directory / "hosts/one/disk/home/bob/mine").exists()
    assert ssh(directory, "one", "true", "-l", "carol").returncode == 255


def test_a_user_added_later_is_known_after_the_next_start(directory: Path) -> None:
    lab.up(["one"], directory, ["alice"])
    lab.stop(["one"], directory)
    lab.up(["one"], directory, ["bob"])
    assert output(directory, "one", "pwd", "-l", "alice") == "/home/alice\n"
    assert output(directory, "one", "pwd", "-l", "bob") == "/home/bob\n"


def test_another_key_does_not_log_in(directory: Path, tmp_path: Path) -> None:
    host = lab.up(["one"], directory).host("one")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    options = [
        f"UserKnownHostsFile={directory}/known_hosts",
        "IdentitiesOnly=yes",
        "BatchMode=yes",
        f"Port={host.port}",
    ]
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
        check=False,
    )
    assert b"Permission denied" in done.stderr


def test_the_configuration_checks_the_hosts_key(directory: Path) -> None:
    lab.up(["one"], directory)
    (directory / "known_hosts").write_text("")
    assert b"Host key verification failed" in ssh(directory, "one", "true").stderr


def test_a_stopped_host_is_unreachable_and_keeps_its_disk_but_not_its_run(directory: Path) -> None:
    lab.up(["one", "two"], directory)
    output(directory, "one", "echo kept > /root/kept; for d in run tmp; do echo lost > /$d/lost; done")
    output(
        directory, "one", "mkdir -p /etc/tmpfiles.d; echo 'L+ /run/link - - - - /root/kept' > /etc/tmpfiles.d/l.conf"
    )
    port = lab.stop(["one"], directory).host("one").port
    assert ssh(directory, "one", "true").returncode == 255
    assert ssh(directory, "two", "true").returncode == 0
    assert lab.start(["one"], directory).host("one").port == port
    assert output(directory, "one", "cat /root/kept /run/link; ls /run/lost /tmp/lost || true") == "kept\nkept\n"


def test_hosts_are_apart_from_the_machine_and_from_each_other(directory: Path) -> None:
    lab.up(["one", "two"], directory)
    output(directory, "one", "touch /etc/mark-of-one /tmp/mark-of-one /root/mark-of-one /home/mark-of-one")
    for folder in ("etc", "tmp", "root", "home"):
        assert not os.path.exists(f"/{folder}/mark-of-one")
        assert ssh(directory, "two", f"test -e /{folder}/mark-of-one").returncode == 1
    numbers = output(directory, "one", "ls /proc").split()
    assert len([number for number in numbers if number.isdigit()]) < 10
    assert ssh(directory, "one", "touch /usr/mark").returncode == 1
    assert ssh(directory, "one", "mount -o remount,bind,rw /usr").returncode != 0
    assert ssh(directory, "one", "echo 1 > /proc/sys/kernel/printk").returncode != 0


def test_an_orphan_of_a_host_is_collected(directory: Path) -> None:
    lab.up(["one"], directory)
    output(directory, "one", "setsid sh -c 'sleep 0.1' >/dev/null 2>&1 </dev/null & exit 0")
    time.sleep(0.5)
    assert "<defunct>" not in output(directory, "one", "ps ax || cat /proc/[0-9]*/stat")


def test_a_sandbox_can_be_made_inside(directory: Path) -> None:
    lab.up(["one"], directory)
    command = "unshare -Urmpf --mount-proc sh -c 'mount -t tmpfs none /mnt && mount --bind /srv /mnt && id -u'"
    assert output(directory, "one", command) == "0\n"


def test_down_leaves_no_process_no_mount_and_no_file(directory: Path) -> None:
    made = lab.up(["one", "two"], directory)
    output(directory, "one", "mkdir -p /nix/store/x; touch /nix/store/x/y; chmod 555 /nix/store/x /nix/store")
    ssh(directory, "one", "setsid sleep 300 >/dev/null 2>&1 </dev/null &")
    assert str(directory) in Path(f"/proc/{made.hosts[0].pid}/mountinfo").read_text()
    assert lab.down(directory) == ("one", "two")
    assert not directory.exists()
    assert str(directory) not in Path("/proc/self/mountinfo").read_text()
    assert not any(state.start_ticks(host.pid) for host in made.hosts)
    assert lab.down(directory) == ()


def test_the_key_is_for_its_owner_only(directory: Path) -> None:
    lab.up(["one"], directory)
    for name in ("key", "hosts/one/host_key"):
        assert stat.S_IMODE((directory / name).stat().st_mode) == 0o600


def test_a_hosts_root_owns_nothing_of_the_machine(directory: Path) -> None:
    host = lab.up(["one"], directory).host("one")
    outside = os.stat(f"/proc/{host.pid}").st_uid
    machine_users = {entry.pw_uid for entry in pwd.getpwall()}
    assert outside == os.geteuid() or outside not in machine_users
    assert outside != 0 or os.geteuid() == 0


@pytest.mark.root
def test_under_root_a_hosts_root_is_another_id(directory: Path) -> None:
    host = lab.up(["one"], directory, ["alice"]).host("one")
    assert Path(f"/proc/{host.pid}/uid_map").read_text().split() == ["0", "1900019712", "65536"]
    assert output(directory, "one", "id -u", "-l", "alice") == "1000\n"


def test_the_labs_own_python_is_on_path_where_the_machines_does_not_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Path(sys.base_prefix, "bin", f"python3.{sys.version_info.minor}")
    monkeypatch.setattr(python, "_SYSTEM_PYTHON", Path("/usr/bin/no-such-python"))
    lab.up(["one"], directory, ["alice"])
    for user in ("root", "alice"):
        for command in ("{}", "bash -lc '{}'"):
            line = command.format('python3 -I -S -c "import sys, sqlite3, ctypes; print(sys.base_prefix)"')
            assert output(directory, "one", line, "-l", user).strip() == str(own.parent.parent)


@pytest.mark.parametrize("text", ["", "import sys; sys.exit(1)", "import no_such_module"])
def test_an_interpreter_that_lacks_something_does_not_do(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert python._fits(Path(sys.executable))
    monkeypatch.setattr(python, "_FITNESS", text)
    assert python._fits(Path(sys.executable)) == (text == "")


_UP = """
import sys
from pathlib import Path
from reconciler.lab import lab
lab.up(["one"], Path(sys.argv[1]))
"""


def test_a_host_whose_maker_was_killed_is_ended_all_the_same(directory: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _UP, directory], start_new_session=True) as maker:
        deadline = time.monotonic() + 10
        while not (directory / "hosts/one/state").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        os.killpg(maker.pid, signal.SIGKILL)
    (host,) = lab.hosts(directory)
    assert host.running
    assert lab.down(directory) == ("one",)
    assert state.start_ticks(host.pid) is None


@pytest.mark.parametrize("name", ["", "..", "a/b", "-oProxyCommand=x", "a b", "x" * 64])
def test_a_bad_host_name_is_refused_before_anything_is_made(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a lab host cannot be named"):
        lab.up(["good", name], tmp_path / "lab")
    assert not (tmp_path / "lab").exists()


@pytest.mark.parametrize("name", ["", "a:b", "../x", "Root\n", "-x"])
def test_a_bad_user_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="a user of a lab host cannot be named"):
        lab.up(["good"], tmp_path / "lab", [name])


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(RefusedError, match="is no lab and not empty"):
        lab.up(["one"], tmp_path)
    with pytest.raises(UsageError, match="no lab is here"):
        lab.down(tmp_path)
    assert (tmp_path / "precious").read_text() == "x"


def test_stopping_an_unknown_host_names_the_known_ones(directory: Path) -> None:
    lab.up(["one"], directory)
    with pytest.raises(UsageError, match="no host 'two'") as caught:
        lab.stop(["two"], directory)
    assert caught.value.hint == "it has one"


def test_a_lab_of_a_newer_program_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "lab").write_text("reconciler-lab 2\n{}\n")
    with pytest.raises(FormatError, match="'reconciler-lab 2', this program reads 'reconciler-lab 1'"):
        lab.down(tmp_path)


def test_a_number_that_another_process_has_now_is_not_killed(directory: Path) -> None:
    host = lab.up(["one"], directory).host("one")
    lab.stop(["one"], directory)
    with subprocess.Popen(["sleep", "60"]) as bystander:
        folder = directory / "hosts/one"
        before = state.read_host(folder)
        assert before is not None
        assert before.port == host.port
        stale = state.HostState(bystander.pid, 1, state.boot_id(), before.port, before.isolation)
        state.write_host(folder, stale)
        lab.down(directory)
        assert bystander.poll() is None
        bystander.kill()
