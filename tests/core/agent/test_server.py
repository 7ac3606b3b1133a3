"""The agent's loop: allowlisted verbs, typed arguments, errors that arrive as what they were, an end in any case."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.agent import archive, bootstrap
from reconciler.core.agent.frames import MAGIC, Frame, FrameDecoder, Kind, encode
from reconciler.core.agent.messages import BeginRequest, HistoryRequest, ObserveRequest, StageRequest
from reconciler.core.agent.verbs import VERBS
from reconciler.core.errors import RefusedError
from reconciler.core.values import replace
from tests.core.agent.agents import agent


class Raw:
    """An agent spoken to in frames."""

    def __init__(self, root: Path) -> None:
        packed = archive.build()
        argv = [sys.executable, "-I", "-S", "-c", bootstrap.code(), packed.sha256, f"{root}/none", "-", str(root)]
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert self.process.stdin
        assert self.process.stdout
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.read(len(MAGIC) + 1) == MAGIC + b"S"
        self.send(len(packed.packed()).to_bytes(4, "big") + packed.packed())
        self.decoder = FrameDecoder()
        self.frames: list[Frame] = []
        assert self.next().kind is Kind.HELLO

    def send(self, data: bytes) -> None:
        self.stdin.write(data)
        self.stdin.flush()

    def next(self) -> Frame:
        while not self.frames:
            chunk = os.read(self.stdout.fileno(), 65536)
            assert chunk, self.process.communicate()[1].decode()
            self.frames += [frame for frame in self.decoder.feed(chunk) if frame.kind is not Kind.HEARTBEAT]
        return self.frames.pop(0)

    def ask(self, body: dict[str, Any]) -> Frame:
        self.send(encode(Kind.REQUEST, 5, body))
        return self.next()

    def end(self) -> int:
        self.stdin.close()
        try:
            return self.process.wait(10)
        finally:
            self.stdout.close()
            if self.process.stderr:
                self.process.stderr.close()


@pytest.fixture
def raw(tmp_path: Path) -> Any:
    one = Raw(tmp_path)
    yield one
    one.end()


def test_the_verbs_are_these_and_no_others() -> None:
    known = "observe begin missing import realise substitute stage switch generations history log export holdings leave"
    assert set(VERBS) == {*known.split(), "collect", "verify", "repair", "optimise"}


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_verb_has_a_function(verb: str) -> None:
    assert callable(VERBS[verb].load())


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"verb": "run", "request": {"argv": ["id"]}}, "there is no verb 'run'"),
        ({"verb": ["observe"], "request": {}}, "there is no verb ['observe']"),
        ({"request": {}}, "there is no verb None"),
        ({"verb": "observe", "request": []}, "ObserveRequest: an object was expected, not list"),
        ({"verb": "observe", "request": {"users": "alice"}}, "ObserveRequest.users: a list was expected"),
        ({"verb": "begin", "request": {"deployment": 1}}, "BeginRequest.deployment: str was expected, not int"),
    ],
)
def test_what_is_no_request_is_answered_with_an_error_and_the_next_is_served(
    raw: Raw, body: dict[str, Any], message: str
) -> None:
    answer = raw.ask(body)
    assert (answer.kind, answer.number) == (Kind.ERROR, 5)
    assert answer.body == {"code": "format", "message": message, "hint": None}
    assert raw.ask({"verb": "observe", "request": {}}).kind is Kind.REPLY


def test_the_agent_ends_when_its_input_does(raw: Raw) -> None:
    assert raw.end() == 0


@pytest.mark.parametrize("garbage", [b"\xff" * 100, encode(Kind.REPLY, 1, {}), encode(Kind.HELLO, 0, {})])
def test_an_agent_that_hears_garbage_ends(raw: Raw, garbage: bytes) -> None:
    raw.send(garbage)
    assert raw.process.wait(10) in (0, 1)


def test_the_lock_is_free_when_the_client_has_closed(tmp_path: Path) -> None:
    root = tmp_path / "root"
    with agent(root) as first:
        first.begin(BeginRequest("d1", "alice", ""))
        with agent(root) as second, pytest.raises(RefusedError, match="alice deploys d1"):
            second.begin(BeginRequest("d2", "bob", ""))
    with agent(root) as third:
        started = time.monotonic()
        third.begin(BeginRequest("d3", "bob", ""))
        assert time.monotonic() - started < 0.5


def test_an_error_arrives_as_the_class_it_was(tmp_path: Path) -> None:
    from reconciler.core.errors import InternalError

    with agent(tmp_path / "root") as client:
        with pytest.raises(InternalError, match="d9 was not begun here"):
            client.stage(StageRequest("d9", {}))
        assert client.history(HistoryRequest()).entries == ()


def test_what_prints_on_the_host_does_not_disturb_the_frames(tmp_path: Path) -> None:
    """The agent's own stdout and stdin are put out of everybody's reach."""
    program = (
        "import os,sys; sys.path.insert(0, sys.argv[1])\n"
        "from reconciler.core.agent.server import _take_over_streams\n"
        "incoming, outgoing = _take_over_streams()\n"
        "print('noise', flush=True); os.system('echo more noise; cat')\n"
        "os.write(outgoing, b'frame'); assert os.read(incoming, 9) == b'for us'\n"
    )
    top = str(Path(__file__).parents[3])
    done = subprocess.run([sys.executable, "-c", program, top], input=b"for us", capture_output=True, check=True)
    assert done.stdout == b"frame"
    assert done.stderr.split() == [b"noise", b"more", b"noise"]


@pytest.mark.root
def test_a_read_only_store_is_writable_for_the_agent_and_for_nobody_else(tmp_path: Path) -> None:
    """In a mount namespace of the test's own: the store is bound over itself, read-only, as NixOS has it."""
    (tmp_path / "nix/store").mkdir(parents=True)
    program = (
        "import os,sys; sys.path.insert(0, sys.argv[1]); root = sys.argv[2]\n"
        "from reconciler.core.agent.host import Host\n"
        "from reconciler.core.agent.server import _own_mounts\n"
        "store = root + '/nix/store'\n"
        "def writable():\n"
        "    try: os.close(os.open(store + '/x', os.O_CREAT | os.O_WRONLY)); os.unlink(store + '/x'); return True\n"
        "    except OSError: return False\n"
        "assert not writable()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    _own_mounts(Host(root)); os._exit(0 if writable() else 1)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert not writable()\n"
    )
    top = str(Path(__file__).parents[3])
    script = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && exec "$2" -c "$3" "$4" "$5"'
    argv = [
        "unshare",
        "-m",
        "sh",
        "-ec",
        script,
        "sh",
        f"{tmp_path}/nix/store",
        sys.executable,
        program,
        top,
        str(tmp_path),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_observing_twice_on_one_channel_gives_the_same(tmp_path: Path) -> None:
    with agent(tmp_path / "root") as client:
        first, second = client.observe(ObserveRequest()), client.observe(ObserveRequest())
    assert replace(first, store_free=0) == replace(second, store_free=0)
