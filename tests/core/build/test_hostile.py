"""Builds that try to get out, to get at what is not theirs, or to smuggle something into the store.

With test_sandbox.py, where a build is denied, killed and refused by itself, this is every kind of build that FAULTS
knows. Real Nix verifies each store afterwards, so that what came through is exactly what was registered.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.core.build.helpers import Builder
from tests.core.build.test_sandbox import seconds, wait_until_gone

pytestmark = pytest.mark.nix

EMPTY = hashlib.sha256(b"").hexdigest()
FIXED = {"outputHash": EMPTY, "outputHashAlgo": "sha256", "outputHashMode": "flat"}


def python(code: str) -> str:
    """A script that runs `code` by the toolchain's Python."""
    return f"python3 -I -S - <<'EOF'\n{code}\nEOF\n"


# --- memory -----------------------------------------------------------------------------------------------------------

MEMORY = 256 * 2**20
HOGS = {
    "private memory": python("held = bytearray(600 * 2**20)"),
    "a file in memory": "head -c 600M /dev/zero > /dev/shm/held",
}


@pytest.mark.parametrize("what", HOGS)
def test_a_build_that_wants_too_much_memory_fails_and_says_how_it_gets_more(builder: Builder, what: str) -> None:
    script = f"touch $out\n{HOGS[what]}"
    done = builder.build(script, limits={"max_memory": MEMORY})
    assert "failed with exit status" in done["error"] or f"more than {MEMORY} bytes of memory" in done["error"]
    if what == "private memory":
        assert "builds: {memory: 16G}" in done["hint"]
    # The control: the same build with room for it.
    assert "output" in builder.build(script, "roomy", limits={"max_memory": 8 * MEMORY})


# --- what a build leaves ----------------------------------------------------------------------------------------------


def test_a_daemon_that_writes_into_the_output_is_gone_when_the_output_is_read(builder: Builder) -> None:
    mark = seconds()
    daemon = f"while true; do echo more >> $out/log; sleep 0.01; done & exec sleep {mark}"
    # A double fork into a session of its own, with no descriptor of the build's.
    script = f"mkdir $out; (setsid sh -c '{daemon}' > /dev/null 2>&1 < /dev/null &) & wait; sleep 0.3"
    done = builder.build(script)
    written = (Path(done["output"]) / "log").read_bytes()
    assert written.startswith(b"more\n")  # it was at work
    assert wait_until_gone(mark)
    time.sleep(0.1)
    assert (Path(done["output"]) / "log").read_bytes() == written


SPECIAL = {
    "a socket": ("import os, socket; socket.socket(socket.AF_UNIX).bind(os.environ['out'])", "neither a file nor"),
    "a device": ("import os; os.mknod(os.environ['out'], 0o020666, os.makedev(1, 3))", "Operation not permitted"),
    "a setuid program that sh did not make": (
        "import os; fd = os.open(os.environ['out'], os.O_CREAT | os.O_WRONLY, 0o755); os.fchmod(fd, 0o6755)",
        "is setuid",
    ),
    "a hard link of the machine's file": ("import os; os.link('/usr/bin/env', os.environ['out'])", "cross-device link"),
    "a hard link of a file in /tmp": (
        "import os; open('/tmp/x', 'w').close(); os.link('/tmp/x', os.environ['out'])",
        "cross-device link",
    ),
    "a sparse file that no disk can hold": (
        "import os; os.truncate(os.open(os.environ['out'], os.O_CREAT | os.O_RDWR), 15 * 2**40)",
        "the outputs hold 16492674416640 bytes, and ",
    ),
}


@pytest.mark.parametrize("what", SPECIAL)
def test_an_output_that_cannot_be_a_store_path_is_refused(builder: Builder, what: str) -> None:
    code, answer = SPECIAL[what]
    done = builder.build(python(code))
    if what.startswith("a sparse") and "File too large" in done["error"]:
        pytest.skip("the file system here holds no such file")
    assert answer.lower() in done["error"].lower()


def test_a_sparse_file_that_fits_is_taken(builder: Builder) -> None:
    done = builder.build("truncate -s 20M $out")
    assert Path(done["output"]).read_bytes() == bytes(20 * 2**20)


def test_links_out_are_kept_as_links_and_never_followed(builder: Builder) -> None:
    script = "mkdir $out; ln -s /etc/shadow $out/passwords; ln -s ../../../../etc $out/etc; ln -s $out/etc $out/self"
    done = builder.build(script)
    top = Path(done["output"])
    assert os.readlink(top / "passwords") == "/etc/shadow"
    assert os.readlink(top / "etc") == "../../../../etc"
    assert sorted(os.listdir(top)) == ["etc", "passwords", "self"]
    assert all(stat.S_ISLNK(path.lstat().st_mode) for path in top.iterdir())


def test_an_output_that_is_itself_a_link_out_is_only_that(builder: Builder) -> None:
    done = builder.build("ln -s /etc $out")
    assert os.readlink(done["output"]) == "/etc"


ODD = [b"n" * 255, b"new\nline", b"not \xff utf-8", b"-rf", b" ", b"\x1b[2J", b"'\"$(reboot)`", b"..."]


def test_names_of_any_bytes_are_kept_as_they_are(builder: Builder) -> None:
    code = (
        f"import os; os.mkdir(os.environ['out'])\nfor name in {ODD!r}:\n    os.mkdir(os.environb[b'out'] + b'/' + name)"
    )
    done = builder.build(python(code))
    assert sorted(os.listdir(os.fsencode(done["output"]))) == sorted(ODD)


# --- what is not its own ----------------------------------------------------------------------------------------------


def test_a_build_reads_no_file_of_the_machine_also_where_everybody_may(builder: Builder) -> None:
    secret = builder.root.parent / "secret"
    secret.write_text("for people, not for builds")
    secret.chmod(0o644)
    done = builder.build(f"cat {secret}")
    assert f"{secret}: No such file or directory" in done["error"]
    assert "not for builds" not in done["error"]


def test_a_build_sees_no_store_path_but_its_inputs_and_writes_none(builder: Builder) -> None:
    other = builder.build("echo other > $out", "other")["output"]
    name = Path(other).name
    done = builder.build(f"test ! -e /nix/store/{name}; echo evil > /nix/store/{name}; ls /nix/store > $out", "second")
    assert sorted(Path(done["output"]).read_text().split()) == sorted([name, Path(done["output"]).name])
    assert Path(other).read_text() == "other\n"


def test_what_a_build_leaves_beside_its_output_is_not_kept(builder: Builder) -> None:
    done = builder.build(f"touch $out /nix/store/{'0' * 32}-openssl-3")
    assert not list(Path(done["output"]).parent.glob("*openssl*"))


# --- the network ------------------------------------------------------------------------------------------------------


@contextmanager
def listening(family: int, kind: int, address: object) -> Iterator[tuple[socket.socket, list[bytes]]]:
    """A socket of this machine, and what it was sent so far."""
    heard: list[bytes] = []
    with socket.socket(family, kind) as own:
        own.bind(address)  # type: ignore[arg-type]  # what a family takes
        own.settimeout(0.1)
        done = threading.Event()

        def listen() -> None:
            while not done.is_set():
                try:
                    heard.append(own.recv(100))
                except TimeoutError:
                    continue

        thread = threading.Thread(target=listen)
        thread.start()
        yield own, heard
        time.sleep(0.2)
        done.set()
        thread.join()


SEND = """
import os, socket
socket.socket({family}, socket.SOCK_DGRAM).sendto(b"out", {address!r})
open(os.environ["out"], "w")
"""


def _udp() -> tuple[int, object]:
    return socket.AF_INET, ("127.0.0.1", 0)


def _abstract() -> tuple[int, object]:
    return socket.AF_UNIX, f"\0reconciler-{secrets.token_hex(8)}"


SOCKETS: dict[str, Callable[[], tuple[int, object]]] = {"UDP": _udp, "an abstract socket": _abstract}


@pytest.mark.parametrize("what", SOCKETS)
def test_a_build_reaches_no_socket_of_the_machine_unless_its_output_is_fixed(builder: Builder, what: str) -> None:
    family, address = SOCKETS[what]()
    with listening(family, socket.SOCK_DGRAM, address) as (own, heard):
        script = python(SEND.format(family=int(family), address=own.getsockname()))
        builder.build(script)
        assert heard == []
        fixed = builder.build(script, "fixed", hash=EMPTY, environment=FIXED)
        assert "error" not in fixed
    assert heard == [b"out"]


# --- fixed outputs ----------------------------------------------------------------------------------------------------


LEAK = """
import array, os, socket
out = os.open(os.environ["out"], os.O_CREAT | os.O_RDWR)
friend = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
friend.connect({address!r})
friend.sendmsg([b"here"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [out]))])
friend.recv(1)
"""


class Accomplice:
    """A process outside that is handed the output of a fixed build, and writes to it from then on."""

    def __init__(self) -> None:
        self.address = f"\0reconciler-{secrets.token_hex(8)}"
        self.writes = 0
        self._stop = threading.Event()
        self._own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._own.bind(self.address)
        self._own.listen()
        self._own.settimeout(30)
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        connection, _ = self._own.accept()
        _, (fd,), _, _ = socket.recv_fds(connection, 10, 1)
        connection.close()  # the build goes on, and ends
        while not self._stop.is_set():
            os.pwrite(fd, b"evil", 0)
            os.ftruncate(fd, 0 if self.writes % 2 else 4)
            self.writes += 1
        os.pwrite(fd, b"evil", 0)
        os.close(fd)

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._own.close()


def test_a_fixed_output_cannot_be_changed_through_a_descriptor_that_left_the_build(builder: Builder) -> None:
    """The network of a fixed output has the machine's abstract sockets, and those carry descriptors."""
    for attempt in range(2):
        accomplice = Accomplice()
        try:
            script = python(LEAK.format(address=accomplice.address))
            done = builder.build(script, f"leak-{attempt}", hash=EMPTY, environment=FIXED)
            assert accomplice.writes, "it had the descriptor"
        finally:
            accomplice.end()
        if "output" in done:
            assert Path(done["output"]).read_bytes() == b""
        else:
            assert any(word in done["error"] for word in ("hash", "NAR", "archive", "shrank", "changed")), done["error"]
