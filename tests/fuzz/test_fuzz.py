"""Every kept input of every fuzz target, and seconds of mutations of each. `make fuzz` does more of it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest

from reconciler.core.errors import FormatError
from tests.fuzz import engine
from tests.fuzz.engine import CORPUS, corpus, mutate, run_own
from tests.fuzz.targets import TARGETS, Target, execute

MEMORY_AN_INPUT = 48 * 1024 * 1024  # an inventory's file is read into a buffer of 32 MiB, the most it may have
ROOT = Path(__file__).parents[2]
# Of mutations, for each target: about a minute in all in CI.
SECONDS = 3.0 if os.environ.get("CI") == "true" else 1.0


@pytest.mark.parametrize("name", TARGETS)
def test_every_kept_input_is_read_or_refused_in_bounded_memory(name: str) -> None:
    inputs = corpus(name)
    assert inputs
    for data in inputs:
        execute(TARGETS[name], data)  # what is imported and cached at the first use is not the input's
        tracemalloc.start()
        try:
            outcome = execute(TARGETS[name], data)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert outcome.finding is None, data
        assert peak < MEMORY_AN_INPUT, data


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_find_nothing(name: str) -> None:
    result = run_own(TARGETS[name], SECONDS)
    assert not result.findings, "\n".join(f"{finding.data!r}\n{finding.what}" for finding in result.findings)
    assert result.executions > len(corpus(name))


@pytest.mark.parametrize("name", TARGETS)
def test_some_kept_input_is_read_to_its_end(name: str) -> None:
    """Else a target could refuse everything and never be seen to."""
    assert "read" in {execute(TARGETS[name], data).kind for data in corpus(name)}


def test_every_folder_of_kept_inputs_has_its_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == set(TARGETS)


def broken(data: bytes) -> None:
    """A parser that forgets one case."""
    if not data.startswith(b"ok"):
        raise FormatError("not ok")
    data.decode()


def test_a_parser_that_forgets_a_case_is_found() -> None:
    """Positive control, with the input that shows it, once for each place."""
    result = run_own(Target("broken", broken), 20.0, first=[b"ok, then"], most=1)
    assert [finding.place.split(" at ")[0] for finding in result.findings] == ["UnicodeDecodeError"]
    assert execute(Target("broken", broken), result.findings[0].data).finding is not None


def test_an_input_that_takes_too_long_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "SECONDS_AN_INPUT", -1.0)
    result = run_own(Target("slow", lambda data: None), 5.0, first=[b""], most=1)
    assert result.findings[0].what.startswith("took ")


def test_the_same_seed_gives_the_same_inputs() -> None:
    for name in TARGETS:
        pool = corpus(name)
        made = [[mutate(random.Random(seed), pool, TARGETS[name].words, 500) for seed in range(20)] for _ in range(2)]
        assert made[0] == made[1]
        assert all(len(data) <= 500 for data in made[0])


def test_the_command_tells_the_figures_and_ends_well() -> None:
    command = [sys.executable, "-m", "tests.fuzz", "cacheinfo", "spellings", "--seconds", "1", "--engine", "ours"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["cacheinfo", "spellings"]
    assert all("executions" in line and "0 findings" in line for line in lines)
