"""NixOS hosts: what tells them, and what their system profile takes. `nixos_program` activates it."""

from __future__ import annotations

import os

from reconciler.core.activate.roots import under
from reconciler.core.errors import RefusedError
from reconciler.core.nix.store_path import StorePath
from reconciler.core.profile.toplevel import is_nixos

PROGRAM = "bin/switch-to-configuration"


def is_host(root: str = "/") -> bool:
    """Whether the host runs NixOS: NixOS itself asks the same (its ID in os-release, or /etc/NIXOS)."""
    if os.path.lexists(under(root, "/etc/NIXOS")):
        return True
    try:
        with open(under(root, "/etc/os-release"), encoding="utf-8", errors="replace") as file:
            return any(line.strip() in ("ID=nixos", 'ID="nixos"') for line in file)
    except OSError:
        return False


def check(toplevel: StorePath, root: str = "/") -> None:
    """RefusedError when this NixOS host cannot run `toplevel`, which is in its store."""
    real = under(root, str(toplevel))
    if not is_nixos(real) or not os.access(os.path.join(real, PROGRAM), os.X_OK):
        raise RefusedError(f"this is a NixOS host, and {toplevel} is no NixOS system: it lacks init or {PROGRAM}")
    try:
        with open(os.path.join(real, "system"), encoding="utf-8") as file:
            system = file.read(100).strip()
    except (OSError, ValueError):
        return  # systems of long ago do not say it
    machine = system.partition("-")[0]
    if machine and machine != os.uname().machine:
        raise RefusedError(f"{toplevel} is a system for {system}, and this host is {os.uname().machine}")
