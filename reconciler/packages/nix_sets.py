"""Nix expressions and flakes as package sets: evaluated by a real Nix on the controller, built and deployed by us.

- NAME: {nix: FILE}      an attribute set, or a function of `system` that gives one; relative to the project's root
- NAME: {flake: REF}     its packages.SYSTEM; `path:./x` is relative to the project's root

A name is an attribute, `hello` or `python3Packages.click`. Nix evaluates into a store of its own in the cache
directory; what comes of it are derivations, which the lock pins. What is pinned, and was evaluated here before, is not
evaluated again.
"""

from __future__ import annotations

import json

from reconciler.core.errors import UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.inventory.sets import NixSet
from reconciler.packages import versions
from reconciler.packages.evaluation import Evaluator
from reconciler.packages.lock import LockEntry
from reconciler.packages.model import NotThereError, Package

# A function is given what it takes of these, as nix-instantiate gives it for --attr.
_NAMES = """{ file, system }:
let
  expression = import (/. + file);
  arguments = builtins.intersectAttrs (builtins.functionArgs expression) { inherit system; };
in builtins.attrNames (if builtins.isFunction expression then expression arguments else expression)
"""


class NixPackages:
    """One set."""

    def __init__(self, spec: NixSet, evaluator: Evaluator) -> None:
        self.spec = spec
        self._nix = evaluator
        self._names: dict[str, frozenset[str]] = {}
        self._found: dict[tuple[str, str], StorePath] = {}

    @property
    def name(self) -> str:
        return self.spec.name

    def names(self, system: str) -> frozenset[str]:
        """The attributes at the top."""
        if system not in self._names:
            self._names[system] = frozenset(json.loads(self._list(system)))
        return self._names[system]

    def has(self, name: str, system: str) -> bool:
        """Whether there is an attribute of that name, by its first part."""
        return name.partition(".")[0] in self.names(system)

    def find(self, name: str, wanted: str | None, system: str, reference: str) -> LockEntry:
        """What an attribute is now; NotThereError when it is of another version than `wanted`."""
        drv = self._instantiate(name, system)
        package = self._nix.package(name, drv, self._shown)
        if wanted is not None and not versions.matches(package.version, wanted):
            raise NotThereError(f"there is no {reference}", f"{self.name} has {package.version}")
        return LockEntry(
            reference,
            system,
            self.name,
            package.version or "0",
            path=package.output,
            also=package.also,
            derivation=drv,
        )

    def package(self, name: str, pin: LockEntry) -> Package:
        """What is pinned. UsageError when the expression does not give that derivation any more and it is not kept
        here either."""
        assert pin.derivation is not None
        if not self._nix.is_kept(pin.derivation):
            now = self._instantiate(name, pin.system)
            if now != pin.derivation:
                raise UsageError(
                    f"{f'{pin.position}: ' if pin.position else ''}{pin.reference} is locked at {pin.derivation}, and "
                    f"{self._shown} gives {now}",
                    f"reconciler lock --update {pin.reference}",
                )
        return self._nix.package(name, pin.derivation, self._shown)

    @property
    def _shown(self) -> str:
        return f"{self.spec.position}: {self.spec.expression or self.spec.flake}"

    def _instantiate(self, name: str, system: str) -> StorePath:
        key = (name, system)
        if key not in self._found:
            self._found[key] = self._nix.derivation(self._one(name, system), f"{self._shown}: {name}")
        return self._found[key]

    def _list(self, system: str) -> str:
        if self.spec.flake is not None:
            attribute = f"{self._nix.flake(self.spec.flake)}#packages.{system}"
            return self._nix.evaluate(attribute, ["--json", "--apply", "builtins.attrNames"], self._shown)
        arguments = ["--eval", "--strict", "--json", "--expr", _NAMES]
        return self._nix.instantiate(
            [*arguments, "--argstr", "file", self._file(), "--argstr", "system", system], self._shown
        )

    def _one(self, name: str, system: str) -> str:
        if self.spec.flake is not None:
            attribute = f"{self._nix.flake(self.spec.flake)}#packages.{system}.{name}.drvPath"
            return self._nix.evaluate(attribute, ["--raw"], self._shown)
        return self._nix.instantiate([self._file(), "--attr", name, "--argstr", "system", system], self._shown)

    def _file(self) -> str:
        return self._nix.file(self.spec.expression or "", self._shown)
