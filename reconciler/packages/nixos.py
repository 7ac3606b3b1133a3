"""NixOS systems (toplevels), as an inventory's `nixos` names them; evaluated by a real Nix on the controller.

    FLAKE#NAME            nixosConfigurations.NAME of a flake; `path:./x`, or `./x`, is relative to the project's root
    FILE.nix              what NixOS's `nixos` function gives for a configuration, or a function of `system` to that
    FILE.nix#ATTRIBUTE    such a thing below an attribute

as `nixos-rebuild` takes them by --flake, --file and --attr; of each `config.system.build.toplevel` is meant.

What lies on this machine (`path:`, `./x`, `/x`, files) is evaluated by each run, so that what the user edits takes
effect: what it is made from is pinned beside it, by flake.lock or by its own words. A flake elsewhere is pinned by the
lock, as its derivation.
"""

from __future__ import annotations

import json

from reconciler.core.errors import UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.packages.evaluation import Evaluator
from reconciler.packages.lock import LockEntry
from reconciler.packages.model import Package

NAME = "nixos"
_TOPLEVEL = "config.system.build.toplevel"


class NixosSystems:
    """The systems of one project. `text` is what the inventory says, `shown` how messages name it."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._nix = evaluator
        self._found: dict[tuple[str, str], StorePath] = {}

    def moves(self, text: str) -> bool:
        """Whether something else than an edit of the project can change what this means."""
        return not (text.startswith(("path:", ".", "/")) or _is_file(text))

    def now(self, text: str, system: str, shown: str) -> Package:
        """What it is now; UsageError when it cannot be evaluated."""
        key = (text, system)
        if key not in self._found:
            self._found[key] = self._nix.derivation(self._evaluated(text, system, shown), f"{shown}: {_TOPLEVEL}")
        return self._nix.package(NAME, self._found[key], shown)

    def find(self, reference: str, text: str, system: str, shown: str) -> LockEntry:
        """What a flake elsewhere gives now, to be pinned."""
        package = self.now(text, system, shown)
        return LockEntry(
            reference,
            system,
            NAME,
            package.version or "0",
            path=package.output,
            derivation=package.derivation,
        )

    def pinned(self, text: str, pin: LockEntry, shown: str) -> Package:
        """What the lock pins; UsageError when it can not be had any more."""
        assert pin.derivation is not None
        if not self._nix.is_kept(pin.derivation):
            now = self.now(text, pin.system, shown).derivation
            if now != pin.derivation:
                raise UsageError(
                    f"{shown} is locked at {pin.derivation}, and gives {now}",
                    f"reconciler lock --update '{pin.reference}'",
                )
        return self._nix.package(NAME, pin.derivation, shown)

    def _evaluated(self, text: str, system: str, shown: str) -> str:
        source, _, name = text.partition("#")
        if _is_file(text):
            attribute = f"{name}.{_TOPLEVEL}" if name else _TOPLEVEL
            file = self._nix.file(source, shown)
            return self._nix.instantiate([file, "--attr", attribute, "--argstr", "system", system], shown)
        # A name may have dots in it, `web01.example.org`, so it is quoted.
        attribute = f"{self._nix.flake(source)}#nixosConfigurations.{json.dumps(name)}.{_TOPLEVEL}.drvPath"
        return self._nix.evaluate(attribute, ["--raw"], shown)


def _is_file(text: str) -> bool:
    return text.partition("#")[0].endswith(".nix") and ":" not in text.partition("#")[0]
