"""What a build can do, by builds that try: as root, as an ordinary user, and where a single uid is mapped."""

from __future__ import annotations

import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.build.helpers import Builder

pytestmark = pytest.mark.nix


def test_a_build_runs_as_the_users_that_nix_has_and_without_any_right(builder: Builder) -> None:
    done = builder.build(
        "exec > $out; id -u; id -g; uname -n; pwd; cat /etc/passwd | wc -l;"
        "grep -E 'CapEff|CapBnd|NoNewPrivs' /proc/self/status"
    )
    assert Path(done["output"]).read_text().split() == [
        *("1000", "100", "localhost", "/build", "3"),
        *("CapEff:", "0" * 16, "CapBnd:", "0" * 16, "NoNewPrivs:", "1"),
    ]


def test_a_build_is_process_1_of_its_own_and_sees_no_other(builder: Builder) -> None:
    done = builder.build("echo $$ > $out; ls /proc | grep -c '^[0-9]' >> $out")
    pid, processes = Path(done["output"]).read_text().split()
    assert pid == "1"
    assert int(processes) <= 4  # itself, ls and grep


def test_what_is_registered_is_canonical_whatever_the_build_left(builder: Builder) -> None:
    script = """
    mkdir -p $out/closed/inner
    echo program > $out/program; chmod 4777 $out/closed/inner 2>/dev/null || true; chmod 700 $out/program
    echo secret > $out/closed/secret; chmod 000 $out/closed/secret $out/closed
    ln $out/program $out/twin
    """
    done = builder.build(script)
    top = Path(done["output"])
    assert (top / "closed/secret").read_text() == "secret\n"
    modes = {path.relative_to(top).as_posix(): stat.S_IMODE(path.lstat().st_mode) for path in top.rglob("*")}
    assert modes == {"closed": 0o555, "closed/inner": 0o555, "closed/secret": 0o444, "program": 0o555, "twin": 0o555}
    assert {path.lstat().st_mtime for path in [top, *top.rglob("*")]} == {1.0}
    assert {path.lstat().st_uid for path in [top, *top.rglob("*")]} == {builder.root.lstat().st_uid}
    assert (top / "twin").lstat().st_nlink == 1


def test_a_build_is_given_no_descriptor_but_its_input_and_its_log(builder: Builder) -> None:
    done = builder.build('for each in /proc/$$/fd/*; do echo "${each##*/} $(readlink $each)"; done > $out')
    found = dict(line.split() for line in Path(done["output"]).read_text().splitlines())
    # The shell's own: the file that it writes to, and where it keeps its output meanwhile.
    own = {number for number, target in found.items() if target.startswith(("/nix/store", "pipe:"))} - {"0", "1", "2"}
    assert set(found) - own == {"0", "1", "2"}
    assert found["0"] == "/dev/null"


DENIED = {
    "the machine's passwords": ("cat /etc/shadow", "No such file or directory"),
    "a home": ("ls /root", "cannot access '/root'"),
    "the root directory": ("touch /x", "Read-only file system"),
    "the distribution's programs": ("touch /usr/bin/x", "Read-only file system"),
    "the sandbox's own /etc": ("echo root::0:0::/: >> /etc/passwd", "cannot create /etc/passwd"),
    "a mount of its own": ("mount -t tmpfs none /tmp", "must be superuser"),
    "the kernel's settings": ("echo x > /proc/sys/kernel/hostname", "cannot create"),
    "a device of its own": ("mknod /build/disk b 254 0", "Operation not permitted"),
    "another user": ("setpriv --reuid=0 true", "failed"),
}


@pytest.mark.parametrize("what", DENIED)
def test_a_build_is_denied(builder: Builder, what: str) -> None:
    script, answer = DENIED[what]
    done = builder.build(script)
    assert "failed with exit status" in done["error"]
    assert answer in done["error"]


def test_a_build_may_write_where_it_should(builder: Builder) -> None:
    """The control of the denials: the same commands work where they are meant to."""
    done = builder.build("touch /tmp/x /build/x /dev/shm/x /dev/null $out; test ! -e $HOME")
    assert Path(done["output"]).read_bytes() == b""


@pytest.fixture
def server() -> Iterator[tuple[int, list[bytes]]]:
    """A server on this machine's loopback: its port, and what it was sent."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(20)

        def serve() -> None:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                heard.append(connection.recv(100))

        thread = threading.Thread(target=serve)
        thread.start()
        yield listening.getsockname()[1], heard
        with socket.create_connection(listening.getsockname()):  # in case nobody came
            pass
        thread.join()


CALL = "touch $out; bash -c 'echo hello > /dev/tcp/127.0.0.1/{port}'"


def test_a_build_has_no_network(builder: Builder, server: tuple[int, list[bytes]]) -> None:
    port, heard = server
    done = builder.build(CALL.format(port=port))
    assert "Connection refused" in done["error"]
    assert heard == []


def test_a_fixed_output_has_the_network(builder: Builder, server: tuple[int, list[bytes]]) -> None:
    port, heard = server
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    fixed = {"outputHash": empty, "outputHashAlgo": "sha256", "outputHashMode": "flat"}
    done = builder.build(CALL.format(port=port), hash=empty, environment=fixed)
    assert "error" not in done
    assert heard == [b"hello\n"]


def running(argument: str) -> bool:
    """Whether any process of this machine has `argument` on its command line."""
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if argument.encode() in process.read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def wait_until_gone(argument: str) -> bool:
    deadline = time.monotonic() + 5
    while running(argument):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def seconds() -> str:
    """A number of seconds to sleep that nobody else sleeps."""
    return f"{400 + secrets.randbelow(100)}.{secrets.randbelow(10**9):09}"


def test_a_daemon_that_a_build_leaves_is_killed(builder: Builder) -> None:
    mark = seconds()
    started = time.monotonic()
    done = builder.build(f"setsid sleep {mark} > /dev/null 2>&1 < /dev/null & setsid sleep {mark} & touch $out")
    assert "output" in done
    assert time.monotonic() - started < 60
    assert wait_until_gone(mark)


def test_a_build_that_takes_too_long_is_killed_with_all_that_it_started(builder: Builder) -> None:
    mark = seconds()
    done = builder.build(f"echo begun; sleep {mark} & setsid sleep {mark}", limits={"timeout": 1.0})
    assert "the builder took longer than 1 s and was killed" in done["error"]
    assert "more is allowed in reconciler.yml, by  builds: {time: 12h}" in done["hint"]
    assert "begun" in done["error"]
    assert wait_until_gone(mark)


def test_a_build_that_prints_without_end_is_killed(builder: Builder) -> None:
    done = builder.build("yes", limits={"max_log": 1_000_000})
    assert "the builder printed more than 1000000 bytes and was killed" in done["error"]
    assert "more is allowed in reconciler.yml, by  builds: {log: 1G}" in done["hint"]


def test_a_fork_bomb_reaches_its_limit_and_is_killed(builder: Builder) -> None:
    mark = seconds()
    bomb = f"for i in $(seq 500); do sleep {mark} & done; wait"
    done = builder.build(bomb, limits={"max_processes": 100, "timeout": 4.0})
    # The kernel counts no processes of the machine's root; where our one uid stands for him, time is the limit.
    uncounted = builder.name == "one uid" and os.geteuid() == 0
    assert "fork" in done["error"].lower() or (uncounted and "took longer than 4 s" in done["error"])
    assert ("processes: 20000" if "fork" in done["error"].lower() else "time: 12h") in done["hint"]
    assert wait_until_gone(mark)


REFUSED = {
    "a setuid program": ("cp /usr/bin/true $out; chmod u+s $out", "$out is setuid"),
    "a setgid program": ("mkdir $out; cp /usr/bin/true $out/x; chmod g+s $out/x", "$out/x is setgid"),
    "a pipe": ("mkdir $out; mkfifo $out/pipe", "$out/pipe is neither a file nor a directory nor a link"),
    "no output": ("true", "did not make the output 'out'"),
    "a depth that no archive holds": (
        "mkdir $out; cd $out; for i in $(seq 70); do mkdir d; cd d; done",
        "which no archive may hold",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_output_is_refused(builder: Builder, what: str) -> None:
    script, answer = REFUSED[what]
    done = builder.build(script)
    assert answer in done["error"]


def test_nothing_is_left_of_builds_in_the_state_directory(builder: Builder) -> None:
    builder.build("mkdir -p /build/deep/er; chmod 0 /build/deep; touch $out")
    builder.build("exit 3", name="fails")
    assert os.listdir(builder.root / "nix/var/nix/builds") == []


def test_a_builder_that_a_signal_ends_is_told_apart(builder: Builder) -> None:
    # Process 1 of a namespace does not die of a signal that it sends itself; its child does, and sh reports that.
    done = builder.build("sh -c 'kill -SEGV $$'")
    assert "failed with exit status 139" in done["error"]


def test_the_error_ends_with_the_last_lines_of_the_log_and_says_where_the_rest_is(builder: Builder) -> None:
    done = builder.build("for i in $(seq 15); do echo line $i; done; printf 'no newline'; exit 7", name="noisy-1.0")
    lines = done["error"].splitlines()
    assert lines[0] == "noisy-1.0 could not be built: the builder failed with exit status 7"
    assert lines[1] == "the last lines of its log:"
    assert lines[2:] == [*(f"  line {number}" for number in range(7, 16)), "  no newline"]
    command, path = done["hint"].removeprefix("the whole log: ").split()
    assert command == "bzcat"
    assert Path(path).is_relative_to(builder.root / "nix/var/log/nix/drvs")
    assert path.endswith("-noisy-1.0.drv.bz2")


def test_a_log_cannot_write_to_a_terminal_what_it_should_not(builder: Builder) -> None:
    done = builder.build(r"printf 'a\033[2Jb\tc\r\n'; exit 1")
    assert done["log"] == ["a\N{REPLACEMENT CHARACTER}[2Jb\tc"]


AT_THE_TOP = """
mount -t tmpfs none /nix || exit 99
"$@" || exit 98
touch /nix/store/writable || exit 97
NIX_CONFIG='build-users-group =' exec nix-store --verify --check-contents >&2
"""


@pytest.mark.skipif(not Path("/nix").is_dir(), reason="needs the mount point /nix")
@pytest.mark.parametrize("flags", [("--mount",), ("--mount", "--user", "--map-root-user")], ids=["root", "one uid"])
def test_a_store_at_the_top_of_the_file_system_is_built_into(flags: tuple[str, ...]) -> None:
    """As on a host: /nix is a store of our own, in a mount namespace of its own."""
    if os.geteuid() != 0 and len(flags) == 1:
        flags = ("--mount", "--user", "--map-root-user")
    prefix = ("unshare", *flags, "sh", "-c", AT_THE_TOP.strip(), "sh")
    done = Builder("top", prefix, Path("/")).build(
        "mkdir $out; echo $out > $out/self; ls /nix/store | wc -l > $out/seen"
    )
    assert done["output"].startswith("/nix/store/")
    assert done["references"] == 1
