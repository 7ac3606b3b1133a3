"""The process that starts builds: one for a run, and how its end, or that of a build's process 1, is told."""

from __future__ import annotations

import marshal
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reconciler.core.build.realise import BuildOptions, realise
from reconciler.core.build.starter import Starter
from reconciler.core.errors import InternalError
from reconciler.core.profile.environment import Element, environment
from reconciler.core.store.store import Store
from tests.core.build.helpers import derivation

SINGLE = os.geteuid() != 0


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The starters that were started."""
    found: list[subprocess.Popen[bytes]] = []
    start = Starter._start

    def counted(self: Starter) -> object:
        socket = start(self)
        assert self._process is not None
        found.append(self._process)
        return socket

    monkeypatch.setattr(Starter, "_start", counted)
    return found


def test_all_builds_of_a_run_have_one_starter_which_ends_with_it(
    store: Store, started: list[subprocess.Popen[bytes]]
) -> None:
    realise(store, [derivation(store, name, "touch $out") for name in "abc"], BuildOptions(jobs=2))
    (process,) = started
    assert process.returncode == 0


def test_what_we_make_ourselves_needs_no_starter(store: Store, started: list[subprocess.Popen[bytes]]) -> None:
    plan = environment([Element(store.add_text("thing", b""))])
    with store.batch() as batch:
        batch.add_text("env-manifest.nix", plan.manifest_contents, plan.manifest_references)
        batch.add_derivation(plan.derivation, "user-environment")
    realise(store, [plan.drv_path])
    assert not started


@pytest.fixture
def log(tmp_path: Path) -> int:
    return os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)


def test_how_a_process_was_killed_is_reported_and_the_next_one_works(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log, SINGLE) as helper:
            os.kill(helper.pid, signal.SIGKILL)
            assert marshal.loads(helper.report()) == ("signal", signal.SIGKILL)
        with starter.helper(log, SINGLE) as helper:
            helper.tell({})
            assert b"KeyError" in helper.report()  # it read what it was told, and lacks everything


def test_a_process_is_reported_while_another_is_under_way(log: int) -> None:
    with Starter() as starter, starter.helper(log, SINGLE) as first, starter.helper(log, SINGLE) as second:
        os.kill(first.pid, signal.SIGKILL)
        assert marshal.loads(first.report()) == ("signal", signal.SIGKILL)
        second.tell({})
        assert b"KeyError" in second.report()


def test_what_the_kernel_refuses_is_reported_as_what_it_is(log: int, tmp_path: Path) -> None:
    script = (
        "import marshal, sys\n"
        "from reconciler.core.build.starter import Starter\n"
        "with Starter() as starter, starter.helper(2, False) as helper:\n"
        "    helper.tell({})\n"
        "    print(marshal.loads(helper.report()))\n"
    )
    refusing = 'echo 0 > /proc/sys/user/max_pid_namespaces; exec "$@"'
    argv = ["unshare", "--user", "--map-root-user", "sh", "-c", refusing, "sh", sys.executable, "-c", script]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout == "('error', 'entering namespaces of its own: No space left on device')\n", done.stderr


def test_a_process_that_is_told_nothing_ends_when_it_is_let_go_of(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log, SINGLE) as helper:
            pass
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{helper.pid}") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not os.path.exists(f"/proc/{helper.pid}")


def test_a_starter_that_is_gone_is_told_with_what_it_said(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log, SINGLE):
            pass
        assert starter._process is not None
        starter._process.kill()
        starter._process.wait()
        with pytest.raises(InternalError, match=r"^no process could be started for a build: it said nothing$"):
            starter.helper(log, SINGLE)


def test_a_starter_that_cannot_start_is_told_with_what_it_said(log: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.core.build.starter._INSIDE", "reconciler.core.build.events")
    with Starter() as starter, pytest.raises(InternalError, match=r"^no process .*: .*Error: "):
        starter.helper(log, SINGLE)
