"""A host that lies, floods, stalls or dies: the call ends in time, with bounded memory, and says what it was."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from reconciler.core.agent.messages import ExportRequest, HistoryRequest, ObserveRequest, PathMessage, RealiseRequest
from reconciler.core.errors import LinkLostError, ReconcilerError, RefusedError
from reconciler.transport import pump
from reconciler.transport.errors import NotFit
from tests.transport.channels import end_all, start

PATH = PathMessage("/nix/store/" + "0" * 32 + "-x", "sha256:" + "0" * 52, 1000, ())


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    end_all()
    deadline = time.monotonic() + 5
    while set(threading.enumerate()) - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not set(threading.enumerate()) - before


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("hello(); asked(); out(b'\\xff' * 100000)", "the agent sent a frame of kind 255"),
        (
            "hello(); asked(); out(struct.pack('>BIII', REPLY, 1, 2**32-1, 0))",
            "the agent sent a REPLY frame of 4294967295",
        ),
        ("hello(); asked(); out(struct.pack('>BIII', DATA, 1, 0, 2**31))", "the agent sent a DATA frame"),
        ("hello(); out(frame(REPLY, asked(), []))", "a frame's JSON is no object"),
        ("hello(); n = asked(); out(struct.pack('>BIII', REPLY, n, 100000, 0) + b'[' * 100000)", "JSON is broken"),
        ("hello(); out(frame(REPLY, asked() + 1, {}))", "a REPLY frame that nobody asked for"),
        ("hello(); asked(); out(frame(HELLO, 0, {}))", "a HELLO frame that nobody asked for"),
        ("hello(); out(frame(REQUEST, asked(), {'verb': 'observe'}))", "a REQUEST frame that nobody asked for"),
        ("hello(); out(frame(DATA, asked(), None, b'x'))", "DATA in answer to history"),
        ("hello(); out(frame(EVENT, asked(), {}))", "an EVENT in answer to history"),
        ("hello(); out(frame(REPLY, asked(), {}))", "'entries' is missing"),
        ("hello(); out(frame(REPLY, asked(), {'entries': 'x'}))", "a list was expected"),
        ("hello(); asked(); sys.exit(3)", r"the agent ended \(exit status 3\)"),
        (
            "hello(); asked(); sys.stderr.write('Traceback\\n\\x1b[2JValueError: no\\n'); sys.exit(1)",
            r"\(exit status 1\): Traceback; .\[2JValueError: no",
        ),
        ("hello(); asked(); os.kill(os.getpid(), 9)", "the connection broke|exit status"),
    ],
)
def test_what_is_no_answer_ends_the_link_and_says_what_it_was(program: str, message: str) -> None:
    client = start(program)
    with pytest.raises(LinkLostError, match=message) as caught:
        client.history(HistoryRequest(), deadline=10)
    assert caught.value.message.startswith("ssh root@web01: ")
    with pytest.raises(LinkLostError):
        client.observe(ObserveRequest())
    client.close()


def test_an_error_is_raised_as_what_the_agent_says_with_control_characters_taken_out() -> None:
    client = start(
        "hello(); out(frame(ERROR, asked(), {'code': 'refused', 'message': 'a\\x1b[31mb\\x07\\nc', 'hint': 5}))"
    )
    with pytest.raises(RefusedError) as caught:
        client.history(HistoryRequest())
    assert (caught.value.message, caught.value.hint) == (
        "a\N{REPLACEMENT CHARACTER}[31mb\N{REPLACEMENT CHARACTER}\nc",
        None,
    )
    client.close()


@pytest.mark.parametrize("body", ["{}", "{'code': [], 'message': {}}", "{'code': 'no such', 'message': None}"])
def test_an_error_that_says_nothing_is_an_error_still(body: str) -> None:
    client = start(f"hello(); out(frame(ERROR, asked(), {body}))")
    with pytest.raises(ReconcilerError, match="did not say why"):
        client.history(HistoryRequest())
    client.close()


@pytest.mark.parametrize(
    "program",
    [
        "hello(); n = asked()\nwhile True: out(frame(EVENT, n, {'kind': 'log', 'detail': 'x' * 60000}))",
        "hello(); n = asked()\nwhile True: out(frame(DATA, n, None, b'x' * 1000000))",
        "hello(); asked()\nwhile True: os.write(2, b'y' * 60000)",
        "hello(); asked()\nwhile True: out(frame(HEARTBEAT) * 1000)",
    ],
)
def test_a_flood_takes_bounded_memory_and_the_deadline_holds(program: str) -> None:
    client = start(program)
    tracemalloc.start()
    started = time.monotonic()
    with pytest.raises(LinkLostError):
        client.realise(RealiseRequest(()), lambda event: None, deadline=1.5)
    assert time.monotonic() - started < 6
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    client.close()
    assert peak < 48 * 1024 * 1024


def test_frames_that_nobody_takes_stop_the_sender() -> None:
    """Both directions are bounded: an agent that floods an idle controller fills a window, not the memory."""
    client = start(
        "hello(); n = asked(); out(frame(REPLY, n, {'entries': []}))\n"
        "while True: out(frame(DATA, n, None, b'x' * 1000000))"
    )
    client.history(HistoryRequest())
    tracemalloc.start()
    time.sleep(1.0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    client.close()
    assert peak < 40 * 1024 * 1024


def test_noise_before_the_agent_is_skipped_up_to_a_bound() -> None:
    client = start(
        "out(b'Welcome to web01\\n' * 100 + b'\\0\\0recon'); hello(); out(frame(REPLY, asked(), {'entries': []}))"
    )
    assert client.history(HistoryRequest()).entries == ()
    client.close()
    with pytest.raises(NotFit, match="printed 64 KiB and no agent started"):
        start("out(b'Welcome\\n' * 20000); time.sleep(30)")


def test_fifty_megabytes_on_stderr_and_stdout_at_once_do_not_lock_up() -> None:
    program = (
        "import threading\n"
        "def noise():\n"
        "    for _ in range(50): os.write(2, b'e' * 1000000)\n"
        "hello(); n = asked(); t = threading.Thread(target=noise); t.start()\n"
        "for _ in range(1000): out(frame(EVENT, n, {'detail': 'x' * 50000}))\n"
        "t.join(); out(frame(REPLY, n, {'built': [], 'outputs': []}))"
    )
    events: list[object] = []
    client = start(program)
    client.realise(RealiseRequest(()), events.append, deadline=60)
    client.close()
    assert len(events) == 1000


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("time.sleep(30)", "the agent did not start within 1 s"),
        ("out(MAGIC + b'R'); time.sleep(30)", "the agent did not start within 1 s"),
        ("out(MAGIC + b'Q'); time.sleep(30)", "the agent began with b'Q'"),
        ("out(MAGIC + b'R' + frame(HELLO, 0, {'protocol': 2})); time.sleep(30)", "did not say hello"),
        ("out(MAGIC + b'R' + frame(HEARTBEAT)); time.sleep(30)", "did not say hello"),
        ("out(MAGIC + b'R' + b'\\xff' * 20); time.sleep(30)", "kind 255"),
        ("out(MAGIC + b'S'); time.sleep(30)", "the agent did not start within 1 s"),
    ],
)
def test_a_start_that_comes_to_nothing_ends_in_time(program: str, message: str) -> None:
    started = time.monotonic()
    with pytest.raises(ReconcilerError, match=message):
        start(program, seconds=1)
    assert time.monotonic() - started < 5


def test_a_silent_peer_is_dead_after_a_while_and_a_beating_one_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "SILENCE_SECONDS", 0.5)
    monkeypatch.setattr(pump, "HEARTBEAT_SECONDS", 0.1)
    client = start("hello(); asked(); time.sleep(30)")
    started = time.monotonic()
    with pytest.raises(LinkLostError, match="silent for"):
        client.history(HistoryRequest())
    assert 0.4 < time.monotonic() - started < 3
    client.close()
    client = start(
        "hello(); n = asked()\n"
        "for _ in range(15): out(frame(HEARTBEAT)); time.sleep(0.1)\n"
        "out(frame(REPLY, n, {'entries': []}))"
    )
    assert client.history(HistoryRequest()).entries == ()
    client.close()


def test_the_controller_beats_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pump, "HEARTBEAT_SECONDS", 0.05)
    program = (
        "hello(); n = asked(); beats = 0\n"
        "while beats < 5:\n"
        "    head = b''\n"
        "    while len(head) < 13: head += os.read(0, 13 - len(head))\n"
        "    beats += head[0] == HEARTBEAT\n"
        "out(frame(REPLY, n, {'entries': []}))"
    )
    client = start(program)
    assert client.history(HistoryRequest(), deadline=10).entries == ()
    client.close()


def test_a_peer_that_takes_nothing_does_not_hold_a_copy_for_ever() -> None:
    client = start("hello(); asked()\nwhile True: out(frame(HEARTBEAT)); time.sleep(0.1)")
    big = PathMessage(PATH.path, PATH.nar_hash, 50_000_000, ())
    started = time.monotonic()
    with pytest.raises(LinkLostError):
        client.import_paths([big], lambda path: iter([b"x" * 1_000_000] * 50), deadline=1)
    assert time.monotonic() - started < 10
    client.close()


def test_an_error_in_the_middle_of_a_copy_ends_the_copy() -> None:
    program = (
        "hello(); n = asked(); out(frame(ERROR, n, {'code': 'store', 'message': 'the disk is full', 'hint': None}))\n"
        "while os.read(0, 1000000): pass"
    )
    client = start(program)

    def slowly(path: str) -> Iterator[bytes]:
        time.sleep(0.01)
        yield b"x" * 1000

    with pytest.raises(ReconcilerError, match="the disk is full"):
        client.import_paths([PATH] * 500, slowly)
    client.close()


class Nothing:
    def begin(self, path: PathMessage) -> None: ...
    def write(self, data: bytes) -> None: ...
    def end(self, path: PathMessage) -> None: ...


EXPORT = f"hello(); n = asked(); out(frame(REPLY, n, {{'paths': [{PATH.to_json()!r}]}}))\n"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        ("out(frame(DATA, n, None, b'x' * 1001))", "DATA where 1000 bytes of"),
        ("out(frame(DATA, n, None, b'x' * 999) + frame(END, n, {}))", "END where 1 bytes of"),
        ("out(frame(DATA, n, None, b'x' * 1000) * 2)", "DATA where 0 bytes of"),
        ("out(frame(REPLY, n, {}))", "REPLY where 1000 bytes of"),
    ],
)
def test_an_export_of_another_size_than_announced_is_refused(program: str, message: str) -> None:
    client = start(EXPORT + program)
    with pytest.raises(LinkLostError, match=message):
        client.export(ExportRequest((PATH.path,)), Nothing(), deadline=10)
    client.close()


def test_closing_from_another_thread_wakes_a_call() -> None:
    client = start("hello(); asked(); time.sleep(60)")
    threading.Timer(0.3, client.close).start()
    started = time.monotonic()
    with pytest.raises(LinkLostError):
        client.history(HistoryRequest())
    assert time.monotonic() - started < 5


def test_closing_twice_is_no_error() -> None:
    client = start("hello(); asked()")
    client.close()
    client.close()
