"""The environment that a builder starts with, as Nix sets it.

Later lines win: PATH, HOME, NIX_STORE and NIX_BUILD_CORES; the derivation's own variables; those of the build
directory; NIX_OUTPUT_CHECKED and the variables named in `impureEnvVars` for a fixed output; NIX_LOG_FD and TERM. A
variable named in `passAsFile` goes to the file `.attr-<base-32 of the sha256 of its name>` in the build directory
instead, and `<name>Path` says where that is.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from reconciler.core.build.sandbox import BUILD_DIR
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.hashes import Hash
from reconciler.core.nix.store_path import STORE_DIR
from reconciler.core.values import value


@value
class Variables:
    """`files`: contents by name, to be written into the build directory."""

    environment: Mapping[str, str]
    files: Mapping[str, bytes]


def variables(derivation: Derivation, cores: int) -> Variables:
    """What the builder of `derivation` finds; `cores` 0 stands for the machine's."""
    environment = {
        "PATH": "/path-not-set",
        "HOME": "/homeless-shelter",
        "NIX_STORE": STORE_DIR,
        "NIX_BUILD_CORES": str(cores or len(os.sched_getaffinity(0))),
    }
    files: dict[str, bytes] = {}
    as_files = set(derivation.environment.get("passAsFile", "").split())
    for name, text in derivation.environment.items():
        if name in as_files:
            file = f".attr-{Hash.sha256(name.encode(errors='surrogateescape')).base32}"
            files[file] = text.encode(errors="surrogateescape")
            environment[f"{name}Path"] = f"{BUILD_DIR}/{file}"
        else:
            environment[name] = text
    environment.update(dict.fromkeys(("NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"), BUILD_DIR))
    if derivation.fixed_output is not None:
        environment["NIX_OUTPUT_CHECKED"] = "1"
        for name in derivation.environment.get("impureEnvVars", "").split():
            environment[name] = os.environ.get(name, "")
    environment["NIX_LOG_FD"] = "2"
    environment["TERM"] = "xterm-256color"
    return Variables(environment, files)
