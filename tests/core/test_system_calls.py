"""The numbers of system calls that core/ makes past the C library: the kernel's own headers are the judge."""

from __future__ import annotations

import functools
import os
import subprocess

import pytest

from reconciler.core import fs
from reconciler.core.build import inside

# What the kernel's common table counts for; the others have tables of their own.
COMMON = ("aarch64", "riscv64", "loongarch64")
HERE = os.uname().machine


@functools.cache
def numbers(header: str) -> dict[str, int]:
    """The numbers that a kernel header defines, by the call's name."""
    done = subprocess.run(
        ["cc", "-E", "-dM", "-D__BITS_PER_LONG=64", "-D__ARCH_WANT_SYS_CLONE3", "-"],
        input=f"#include <{header}>\n",
        capture_output=True,
        text=True,
        check=True,
    )
    defined = (line.split() for line in done.stdout.splitlines() if line.startswith("#define __NR_"))
    return {words[1].removeprefix("__NR_"): int(words[2]) for words in defined if words[2:] and words[2].isdigit()}


def of(machine: str) -> dict[str, int]:
    if machine == HERE:
        return numbers("asm/unistd.h")
    return numbers("asm/unistd_32.h" if machine == "i686" else "asm-generic/unistd.h")


@pytest.mark.parametrize("machine", sorted({HERE, *COMMON, *(["i686"] if HERE == "x86_64" else [])}))
def test_the_numbers_are_those_of_the_kernels_headers(machine: str) -> None:
    known = of(machine)
    assert fs._RENAMEAT2[machine] == known["renameat2"]
    assert known["clone3"] == inside.SYS_CLONE3


def test_machines_of_another_table_have_other_numbers() -> None:
    """The judge tells them apart: what is right for one would be another call on another."""
    assert numbers("asm/unistd.h") != numbers("asm-generic/unistd.h") or HERE in COMMON
    assert len(numbers("asm-generic/unistd.h")) > 250
