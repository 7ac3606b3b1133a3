"""Builds one shell script in a store, as whoever runs this, and says how it went: JSON in, JSON out.

Run by itself (`python3 -I -S driver.py PROJECT`), so that a test can put anything before it: another user, another
user namespace, another Python. Input: root, name, script; optional: environment (more variables), hash (sha256 of a
flat fixed output), limits (of BuildLimits). Output: output (physical path), log, or error, hint.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def build(given: dict[str, Any]) -> dict[str, Any]:
    from reconciler.core.build.events import BuildEvent, BuildLimits, BuildOptions
    from reconciler.core.build.realise import realise
    from reconciler.core.build.toolchain import host_system, host_toolchain
    from reconciler.core.errors import ReconcilerError
    from reconciler.core.nix.derivation import Derivation, Output, with_outputs
    from reconciler.core.store.store import Store

    environment = {
        "name": given["name"],
        "system": host_system(),
        "builder": "/bin/sh",
        "out": "",
        "toolchain": host_toolchain(),
        **given.get("environment", {}),
    }
    script = "PATH=/usr/bin:/bin:/usr/sbin:/sbin\n" + given["script"]
    output = Output(None, "sha256", given["hash"]) if "hash" in given else Output(None)
    blank = Derivation({"out": output}, {}, (), environment["system"], "/bin/sh", ("-ec", script), environment)
    limits = BuildLimits(**given.get("limits", {}))
    log: list[str] = []

    def tell(event: BuildEvent) -> None:
        if event.kind == "log":
            log.append(event.detail)

    with Store.open(given["root"], create=True) as store:
        path = store.write_derivation(with_outputs(blank, given["name"], store.read_derivation), given["name"])
        try:
            done = realise(store, [path], BuildOptions(on_event=tell, limits=limits))
        except ReconcilerError as error:
            return {"log": log, "error": error.message, "hint": error.hint}
        return {"log": log, "output": store.real(done.outputs[0].path), "references": len(done.outputs[0].references)}


if __name__ == "__main__":
    sys.path.insert(0, sys.argv[1])
    json.dump(build(json.load(sys.stdin)), sys.stdout)
