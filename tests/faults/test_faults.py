"""Killed, out of space, out of power: at sampled points here, at every point in `make soak`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.cases import ALL, CONTROLS, ERRORS, POWER, ROOM, Case, run, run_control
from tests.faults.sweeps import Swept

pytestmark = [pytest.mark.root, pytest.mark.nix]

# How many points the short form tries. A case takes about a third of a second; an undisturbed run comes first.
SHORT = {"kill": 4, **dict.fromkeys((*ERRORS, *ROOM), 3), **dict.fromkeys(POWER, 2)}
# The short form leaves out what another operation shows as well.
SHORTENED = [
    replace(case, count=SHORT[case.kind])
    for case in ALL
    if case.kind in ("kill", "power-journal") or case.operation == "switch"
]


def name(case: Case) -> str:
    return case.name


def tried(case: Case, how: Callable[[Case], Swept] = run) -> Swept:
    if case.kind in POWER and not os.path.exists("/dev/loop-control"):
        pytest.skip("needs loop devices: /dev/loop-control is not there")
    return how(case)


@pytest.mark.parametrize("case", SHORTENED, ids=name)
def test_a_fault_leaves_old_or_new_and_the_same_again_converges(case: Case) -> None:
    assert tried(case).violations == []


@pytest.mark.slow
@pytest.mark.parametrize("case", ALL, ids=name)
def test_a_fault_at_every_point_leaves_old_or_new_and_the_same_again_converges(case: Case) -> None:
    assert tried(case).violations == []


@pytest.mark.slow
@pytest.mark.parametrize("case", CONTROLS, ids=name)
def test_what_is_taken_out_of_the_program_is_seen(case: Case) -> None:
    assert tried(case, run_control).red > 0


@pytest.mark.parametrize("case", [case for case in CONTROLS if case.count is not None][:3], ids=name)
def test_what_is_taken_out_of_the_program_is_seen_at_sampled_points(case: Case) -> None:
    assert tried(case, run_control).red > 0
