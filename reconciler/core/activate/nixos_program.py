"""NixOS hosts, whose system is activated by its own program.

    TOPLEVEL/bin/switch-to-configuration test    make it what runs; the boot loader stays as it is
    TOPLEVEL/bin/switch-to-configuration boot    have the boot loader start what /nix/var/nix/profiles/system is now

Their statuses (NixOS, switch-to-configuration-ng/src/main.rs): 0 done; 1 refused, or the boot loader was not installed;
2 the activation script failed; 4 units failed; 100 the system that runs cannot become this one without a boot.

The program is started as a transient unit, as nixos-rebuild does: it may restart whatever serves our login.
"""

from __future__ import annotations

import os
import subprocess

from reconciler.core import afresh
from reconciler.core.activate.nixos import PROGRAM
from reconciler.core.activate.roots import under
from reconciler.core.errors import RefusedError, StoreError

UNIT = "reconciler-switch-to-configuration"
DEADLINE = 900.0  # seconds for one start of the program; a switch that is undone has four

_OUTSIDE = "reconciler.core.activate.outside"
_PATH = "/run/current-system/sw/bin:/run/wrappers/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LINES = 8
_WHY = {
    1: "it refused, or the boot loader could not be installed",
    2: "its activation script failed",
    3: "systemd could not take up its units, or temporary files were not made",
    4: "units failed",
}
_TRIED = 30.0  # seconds to find out whether there is a systemd that starts units
_NEEDS_BOOT = 100


def run(toplevel: str, action: str, outside: int | None, root: str = "/") -> None:
    """Have a system do `test` or `boot`. `outside`: the descriptor of the host's mount namespace, where this process
    has left it.

    RefusedError, and nothing was done, when the system can only be booted into, or when such a program is at work
    already; StoreError, with the last lines of what was said, for all else that went wrong.
    """
    program = [f"{toplevel}/{PROGRAM}", action]
    if _has_systemd(outside, root):
        _check_ended(outside, root)
        options = ["--collect", "--no-ask-password", "--pipe", "--quiet", "--service-type=exec", "--wait"]
        program = [_program_of("systemd-run", root), *options, f"--unit={UNIT}", *program]
    status, said = _run(program, outside, root, DEADLINE)
    if status == 0:
        return
    what = f"{toplevel}/{PROGRAM} {action}"
    told = "".join(f"\n  {line}" for line in said[-_LINES:])
    if status == _NEEDS_BOOT:
        raise RefusedError(
            f"{toplevel} cannot take over from the system that runs: its init is another{told}",
            "deploy it with --action boot, then boot the host",
        )
    raise StoreError(f"{what}: {_WHY.get(status, 'it failed')} (status {status}){told}")


def _program_of(name: str, root: str) -> str:
    """The host's path of one of systemd's programs; empty where there is none."""
    for directory in _PATH.split(":"):
        if os.access(under(root, f"{directory}/{name}"), os.X_OK):
            return f"{directory}/{name}"
    return ""


def _has_systemd(outside: int | None, root: str) -> bool:
    """Whether a systemd runs the host and starts units for us; in some containers it does not."""
    program = _program_of("systemd-run", root)
    if not program or not os.path.isdir(under(root, "/run/systemd/system")):
        return False
    return _run([program, "--collect", "--quiet", "--wait", "true"], outside, root, _TRIED)[0] == 0


def _check_ended(outside: int | None, root: str) -> None:
    """A unit outlives the agent that started it. RefusedError while one does."""
    command = [_program_of("systemctl", root), "show", "--property=ActiveState", "--value", UNIT]
    said = _run(command, outside, root, _TRIED)[1]
    if said and said[0] not in ("inactive", "failed"):
        raise RefusedError(
            f"an earlier switch of the system is still at work ({UNIT}.service is {said[0]})",
            f"wait until it ends (systemctl status {UNIT} on the host), then deploy again",
        )


def _run(command: list[str], outside: int | None, root: str, deadline: float) -> tuple[int, list[str]]:
    """A program of the host's: its status, and the lines that it printed."""
    spec = {
        "namespace": outside,
        "root": root,
        "command": command,
        "environment": {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8"},
    }
    try:
        done = subprocess.run(
            afresh.command(),
            input=afresh.message(_OUTSIDE, spec),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=() if outside is None else (outside,),
            env={},
            timeout=deadline,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StoreError(f"{' '.join(command[-2:])}: not done after {deadline:g} s") from None
    return done.returncode, done.stdout.decode(errors="replace").splitlines()
