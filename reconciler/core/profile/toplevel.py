"""System profiles (toplevels): data at a content-addressed path, the same whoever makes it, wherever and whenever.

    sw                          -> the environment of the system's packages
    system                      Nix's word for the architecture, no newline: x86_64-linux
    activation                  `reconciler-activation 1`: the version of what else stands here
    bin/switch-to-configuration a fixed script that hands over to the host's own agent

An agent activates this version and every older one, and refuses a newer one by name.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import StorePath, source_path

if TYPE_CHECKING:  # a probe reads toplevels, and makes none
    from reconciler.core.nix import nar

NAME = "reconciler-system"
INTERFACE = 1

_ACTIVATION = "reconciler-activation"
# Part of every toplevel's content, and so of its store path: a changed byte is a new INTERFACE.
_SCRIPT = b"""\
#!/bin/sh
# Puts the system profile that this script stands in to work: switch-to-configuration ACTION
set -eu
toplevel=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd -P)
activate=/nix/var/nix/profiles/reconciler/bin/activate
if [ ! -x "$activate" ]; then
    echo "switch-to-configuration: $activate is not there; activate with: reconciler deploy" >&2
    exit 1
fi
exec "$activate" "$toplevel" "$@"
"""


def toplevel(sw: StorePath, architecture: str) -> tuple[StorePath, nar.Directory, tuple[StorePath, ...]]:
    """The system profile with the environment `sw`: its store path, its contents, and what it refers to. Pure."""
    from reconciler.core.nix import nar
    from reconciler.core.nix.hashes import Hash

    tree = nar.Directory(
        {
            "activation": nar.File(f"{_ACTIVATION} {INTERFACE}\n".encode()),
            "bin": nar.Directory({"switch-to-configuration": nar.File(_SCRIPT, executable=True)}),
            "sw": nar.Link(str(sw)),
            "system": nar.File(architecture.encode()),
        }
    )
    references = (sw,)
    return source_path(NAME, Hash.sha256(nar.encode(tree)), references), tree, references


def interface_version(real_path: str) -> int | None:
    """The interface version of the toplevel at `real_path`; None when it is none of ours. FormatError when garbled."""
    try:
        with open(os.path.join(real_path, "activation"), "rb") as file:
            words = file.read(100).split()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if len(words) != 2 or words[0] != _ACTIVATION.encode() or not words[1].isdigit():
        raise FormatError(f"{real_path}/activation: '{_ACTIVATION} <version>' was expected")
    return int(words[1])


def is_nixos(real_path: str) -> bool:
    """Whether the system profile at `real_path` is NixOS's: it has the program that a boot starts."""
    return os.path.lexists(os.path.join(real_path, "init"))


def sw_of(real_path: str) -> StorePath | None:
    """The environment of the toplevel at `real_path`; None where it has none."""
    try:
        return StorePath.parse(os.readlink(os.path.join(real_path, "sw")))
    except (OSError, FormatError):
        return None
