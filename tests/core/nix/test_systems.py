"""Nix's word for a machine."""

from __future__ import annotations

import os

import pytest

from reconciler.core.build.toolchain import host_system
from reconciler.core.nix.systems import system_of
from reconciler.inventory.schema import ARCHITECTURES

SAID = {
    "x86_64": "x86_64-linux",
    "amd64": "x86_64-linux",
    "aarch64": "aarch64-linux",
    "arm64": "aarch64-linux",
    "i586": "i686-linux",
    "armv6l": "armv6l-linux",
    "armv8l": "armv7l-linux",
    "riscv64": "riscv64-linux",
    "ppc64le": "powerpc64le-linux",
    "s390x": "s390x-linux",
    "loongarch64": "loongarch64-linux",
}


@pytest.mark.parametrize("machine", SAID)
def test_what_a_kernel_calls_its_machine_has_a_word_that_inventories_know(machine: str) -> None:
    assert system_of(machine) == SAID[machine]
    assert SAID[machine] in ARCHITECTURES


def test_this_machine_is_what_its_kernel_says() -> None:
    assert host_system() == system_of(os.uname().machine)
