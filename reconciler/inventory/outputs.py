"""The outputs of packages by the names of their store paths: `jq-1.6-man` is the output `man` of jq 1.6.

The first output, `out` or whatever it is called, is not told by the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from reconciler.core.nix.store_path import StorePath, parse_drv_name

# What nixpkgs calls outputs: `multiple-outputs.sh` and the packages that name their own.
OUTPUTS = frozenset(
    {"bin", "man", "dev", "doc", "debug", "lib", "info", "devdoc", "devman", "static", "dist", "tools", "data", "py"}
    | {"python", "getent", "terminfo", "locale", "share", "libs", "plugins", "examples", "tests", "dnsutils", "host"}
    | {"libgcc", "checksum", "installer", "server", "client", "pam", "sdk", "jre", "mount", "login", "swap", "withDoc"}
)
PROGRAMS, MANUAL = "bin", "man"


@dataclass(frozen=True)
class Named:
    """What the name of a store path says. `output` is empty for a derivation's first output."""

    path: StorePath
    name: str
    version: str
    output: str

    @classmethod
    def of(cls, path: StorePath) -> Named:
        name, version = parse_drv_name(path.name)
        start, dash, end = version.rpartition("-")
        if dash and end in OUTPUTS:
            return cls(path, name, start, end)
        return cls(path, name, version, "")

    @property
    def shown(self) -> str:
        """The version as a reader wants it: the output with programs is the package, any other is named."""
        return self.version if self.output in ("", PROGRAMS) else f"{self.version}-{self.output}"


def told(paths: Iterable[StorePath]) -> Iterator[Named]:
    """The packages among store paths, in their order: a manual that goes along with its programs is none."""
    found = [Named.of(path) for path in paths]
    main = {(each.name, each.version) for each in found if each.output in ("", PROGRAMS)}
    return (each for each in found if each.output != MANUAL or (each.name, each.version) not in main)
