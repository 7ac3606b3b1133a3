"""Nix expressions and flakes as package sets: evaluated by a real Nix on the controller, built and deployed by us.

- NAME: {nix: FILE}      an attribute set, or a function of `system` that gives one; relative to the project's root
- NAME: {flake: REF}     its packages.SYSTEM; `path:./x` is relative to the project's root

A name is an attribute, `hello` or `python3Packages.click`. Nix evaluates into a store of its own in the cache
directory; what comes of it are derivations, which the lock pins. What is pinned, and was evaluated here before, is not
evaluated again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import FormatError, StoreError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath, parse_drv_name
from reconciler.core.store.store import Store
from reconciler.inventory.sets import NixSet
from reconciler.packages import versions
from reconciler.packages.downloads import run
from reconciler.packages.lock import LockEntry
from reconciler.packages.model import NotThereError, Package, Source

DEADLINE = 1800.0  # seconds for one evaluation
# A function is given what it takes of these, as nix-instantiate gives it for --attr.
_NAMES = """{ file, system }:
let
  expression = import (/. + file);
  arguments = builtins.intersectAttrs (builtins.functionArgs expression) { inherit system; };
in builtins.attrNames (if builtins.isFunction expression then expression arguments else expression)
"""
_FEATURES = ("--extra-experimental-features", "nix-command flakes")


@dataclass(frozen=True)
class EvaluatedSource:
    """A path that an evaluation put into the store of evaluations: copied from there, with what it refers to."""

    path: StorePath
    root: str

    def add_to(self, store: Store) -> None:
        with Store.open(self.root) as evaluated, store.batch() as batch:
            for each in evaluated.closure([self.path]):
                batch.add_nar(evaluated.info(each), nar.ChunkReader(evaluated.nar(each)))


class NixPackages:
    """One set. The derivations and sources that it finds go into `made`."""

    def __init__(
        self,
        spec: NixSet,
        project: Path,
        cache: Path,
        made: tuple[MutableMapping[StorePath, Derivation], MutableMapping[StorePath, Source]],
    ) -> None:
        self.spec = spec
        self._project = project
        self._root = str(cache / "nix")
        self._derivations, self._sources = made
        self._names: dict[str, frozenset[str]] = {}
        self._found: dict[tuple[str, str], StorePath] = {}

    @property
    def name(self) -> str:
        return self.spec.name

    def names(self, system: str) -> frozenset[str]:
        """The attributes at the top."""
        if system not in self._names:
            self._names[system] = frozenset(json.loads(self._evaluate(self._list(system))))
        return self._names[system]

    def has(self, name: str, system: str) -> bool:
        """Whether there is an attribute of that name, by its first part."""
        return name.partition(".")[0] in self.names(system)

    def find(self, name: str, wanted: str | None, system: str, reference: str) -> LockEntry:
        """What an attribute is now; NotThereError when it is of another version than `wanted`."""
        drv = self._instantiate(name, system)
        package = self._package(name, drv)
        if wanted is not None and not versions.matches(package.version, wanted):
            raise NotThereError(f"there is no {reference}", f"{self.name} has {package.version}")
        return LockEntry(
            reference,
            system,
            self.name,
            package.version or "0",
            at="",
            by="",
            path=package.output,
            also=package.also,
            derivation=drv,
        )

    def package(self, name: str, pin: LockEntry) -> Package:
        """What is pinned. UsageError when the expression does not give that derivation any more and it is not kept
        here either."""
        assert pin.derivation is not None
        if not self._is_kept(pin.derivation):
            now = self._instantiate(name, pin.system)
            if now != pin.derivation:
                raise UsageError(
                    f"{f'{pin.position}: ' if pin.position else ''}{pin.reference} is locked at {pin.derivation}, and "
                    f"{self._shown} gives {now}",
                    f"reconciler lock --update {pin.reference}",
                )
        return self._package(name, pin.derivation)

    # --- derivations --------------------------------------------------------------------------------------------------

    def _is_kept(self, drv: StorePath) -> bool:
        try:
            with Store.open(self._root) as store:
                return store.is_valid(drv)
        except StoreError:
            return False

    def _package(self, name: str, drv: StorePath) -> Package:
        self._read(drv)
        outputs = dict(self._derivations[drv].output_paths())
        main = next((outputs[each] for each in ("bin", "out") if each in outputs), next(iter(outputs.values())))
        also = (outputs["man"],) if "man" in outputs and outputs["man"] != main else ()
        version = parse_drv_name(drv.name.removesuffix(".drv"))[1]
        return Package(name, version, main, drv, also, outputs)

    def _read(self, drv: StorePath) -> None:
        """Take a derivation and all that it needs out of the store of evaluations."""
        if drv in self._derivations:
            return
        with Store.open(self._root) as store:
            todo = [drv]
            while todo:
                path = todo.pop()
                if path in self._derivations:
                    continue
                try:
                    derivation = store.read_derivation(path)
                except FormatError as error:
                    raise UsageError(f"{self._shown}: {error.message}", "it needs what this program lacks") from error
                self._derivations[path] = derivation
                todo += derivation.input_derivations
                for source in derivation.input_sources:
                    self._sources.setdefault(source, EvaluatedSource(source, self._root))

    # --- Nix ----------------------------------------------------------------------------------------------------------

    @property
    def _shown(self) -> str:
        return f"{self.spec.position}: {self.spec.expression or self.spec.flake}"

    def _instantiate(self, name: str, system: str) -> StorePath:
        key = (name, system)
        if key not in self._found:
            told = self._evaluate(self._one(name, system)).strip().splitlines()
            try:
                self._found[key] = StorePath.parse(told[-1].partition("!")[0])
            except (FormatError, IndexError):
                raise UsageError(f"{self._shown}: {name} is no derivation") from None
        return self._found[key]

    def _list(self, system: str) -> Sequence[str]:
        if self.spec.flake is not None:
            attribute = f"{self._flake()}#packages.{system}"
            return [
                "nix",
                *_FEATURES,
                "--store",
                self._root,
                "eval",
                "--json",
                attribute,
                "--apply",
                "builtins.attrNames",
            ]
        return [
            *("nix-instantiate", "--store", self._root, "--eval", "--strict", "--json", "--expr", _NAMES),
            *("--argstr", "file", self._file(), "--argstr", "system", system),
        ]

    def _one(self, name: str, system: str) -> Sequence[str]:
        if self.spec.flake is not None:
            attribute = f"{self._flake()}#packages.{system}.{name}.drvPath"
            return ["nix", *_FEATURES, "--store", self._root, "eval", "--raw", attribute]
        return ["nix-instantiate", "--store", self._root, self._file(), "--attr", name, "--argstr", "system", system]

    def _file(self) -> str:
        path = (self._project / (self.spec.expression or "")).resolve()
        if not path.exists():
            raise UsageError(f"{self._shown}: there is no such file", "a path relative to the project's root")
        return str(path)

    def _flake(self) -> str:
        flake = self.spec.flake or ""
        if flake.startswith("path:") and not flake.startswith("path:/"):
            return f"path:{(self._project / flake[len('path:') :]).resolve()}"
        return flake

    def _evaluate(self, command: Sequence[str]) -> str:
        if shutil.which(command[0]) is None:
            raise UsageError(
                f"{self._shown}: `{command[0]}` is not installed, and only Nix can evaluate this",
                "install Nix on the controller; hosts need none",
            )
        Path(self._root).mkdir(parents=True, exist_ok=True)
        try:
            done = run(command, DEADLINE, cwd=self._project)
        except StoreError as error:
            raise UsageError(f"{self._shown}: {error.message}") from None
        if done.status != 0:
            raise UsageError(f"{self._shown} cannot be evaluated:\n{done.last_lines(12)}")
        return done.out.decode(errors="replace")
