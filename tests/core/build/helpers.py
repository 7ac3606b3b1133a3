"""Derivations for tests, and the ways in which a build can be run: as root, as nobody, where one uid is mapped."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from reconciler.core.build.toolchain import host_system, host_toolchain
from reconciler.core.nix.derivation import Derivation, Output, with_outputs
from reconciler.core.nix.store_path import StorePath
from reconciler.core.store.store import Store
from tests.oracle import RealNix

PROJECT = Path(__file__).parents[3]
DRIVER = Path(__file__).with_name("driver.py")
PATH_LINE = "PATH=/usr/bin:/bin:/usr/sbin:/sbin\n"
NOBODY = "65534"
CONTAINER_UID = 1_800_000_000
CONTAINER = ("/usr/bin/python3", "-I", "-S", str(DRIVER.with_name("container.py")), str(CONTAINER_UID))


def derivation(
    store: Store,
    name: str,
    script: str,
    inputs: Iterable[StorePath] = (),
    *,
    outputs: Mapping[str, Output] | None = None,
    **environment: str,
) -> StorePath:
    """Write the derivation of a shell script that sees the host's toolchain; its inputs are other derivations."""
    made = dict(outputs or {"out": Output(None)})
    variables = {
        "name": name,
        "system": host_system(),
        "builder": "/bin/sh",
        "toolchain": host_toolchain(),
        **dict.fromkeys(made, ""),
        **environment,
    }
    blank = Derivation(
        outputs=made,
        input_derivations=dict.fromkeys(inputs, ("out",)),
        input_sources=(),
        system=variables["system"],
        builder=variables["builder"],
        arguments=("-ec", PATH_LINE + script),
        environment=variables,
    )
    return store.write_derivation(with_outputs(blank, name, store.read_derivation), name)


def output(store: Store, drv: StorePath, name: str = "out") -> StorePath:
    return store.read_derivation(drv).output_paths()[name]


@dataclass(frozen=True)
class Builder:
    """Somebody who builds: `prefix` stands before the interpreter, `root` is a store that is theirs."""

    name: str
    prefix: tuple[str, ...]
    root: Path
    python: str = "/usr/bin/python3"

    def build(self, script: str, name: str = "test", **more: Any) -> dict[str, Any]:
        """Build one script; what driver.py says."""
        given = {"root": str(self.root), "name": name, "script": script, **more}
        command = [*self.prefix, self.python, "-I", "-S", str(DRIVER), str(PROJECT)]
        done = subprocess.run(
            command, input=json.dumps(given), text=True, capture_output=True, check=False, timeout=120, cwd="/"
        )
        assert done.returncode == 0, done.stderr
        answer = json.loads(done.stdout)
        assert isinstance(answer, dict)
        return answer

    def verify(self) -> None:
        RealNix(self.root).verify()


def builders(tmp: Path) -> dict[str, Builder]:
    """Those that this machine and this user can be."""
    found = {"us": Builder("us", (), tmp / "us")}
    if os.geteuid() == 0:
        found["nobody"] = Builder(
            "nobody", ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"), tmp / "nobody"
        )
        # A container: root over 65,536 uids, none of them the machine's own.
        found["container"] = Builder("container", CONTAINER, tmp / "container")
        (tmp / "container").mkdir()
        os.chown(tmp / "container", CONTAINER_UID, CONTAINER_UID)
    found["one uid"] = Builder("one uid", ("unshare", "--user", "--map-root-user"), tmp / "one-uid")
    for builder in found.values():
        builder.root.mkdir(exist_ok=True)
    if "nobody" in found:
        os.chown(found["nobody"].root, int(NOBODY), int(NOBODY))
    return found


def require_python() -> None:
    if not Path("/usr/bin/python3").exists() or shutil.which("unshare") is None:
        pytest.skip("needs the distribution's python3 and unshare")
