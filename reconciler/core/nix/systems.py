"""Nix's word for a machine, `x86_64-linux`, from what the kernel calls it (uname -m)."""

from __future__ import annotations

# What kernels say of machines that Nix has one word for; armv8l: a 64-bit one, told to programs of 32 bits.
_MACHINES = {
    **dict.fromkeys(("i386", "i486", "i586"), "i686"),
    "armv8l": "armv7l",
    "arm64": "aarch64",
    "amd64": "x86_64",
    "ppc64le": "powerpc64le",
}


def system_of(machine: str) -> str:
    return f"{_MACHINES.get(machine, machine)}-linux"
