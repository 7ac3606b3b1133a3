"""The process that starts the helpers of builds: one for a run, and how its end, or a helper's, is told."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from reconciler.core.build.realise import BuildOptions, realise
from reconciler.core.build.starter import Starter
from reconciler.core.errors import InternalError
from reconciler.core.profile.environment import Element, environment
from reconciler.core.store.store import Store
from tests.core.build.helpers import derivation


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


def test_a_helper_that_is_killed_reports_nothing_and_the_next_one_works(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log) as helper:
            os.kill(helper.pid, signal.SIGKILL)
            assert helper.report() == b""
        with starter.helper(log) as helper:
            helper.tell({})
            assert b"KeyError" in helper.report()  # it read what it was told, and lacks everything


def test_a_helper_that_is_told_nothing_ends_when_it_is_let_go_of(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log) as helper:
            pass
        deadline = time.monotonic() + 5
        while os.path.exists(f"/proc/{helper.pid}") and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not os.path.exists(f"/proc/{helper.pid}")


def test_a_starter_that_is_gone_is_told_with_what_it_said(log: int) -> None:
    with Starter() as starter:
        with starter.helper(log):
            pass
        assert starter._process is not None
        starter._process.kill()
        starter._process.wait()
        with pytest.raises(InternalError, match=r"^no helper process could be started for a build: it said nothing$"):
            starter.helper(log)


def test_a_starter_that_cannot_start_is_told_with_what_it_said(log: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reconciler.core.build.starter._INSIDE", "reconciler.core.build.events")
    with Starter() as starter, pytest.raises(InternalError, match=r"^no helper process .*: .*Error: "):
        starter.helper(log)
