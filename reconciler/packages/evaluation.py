"""Evaluating Nix: by a real Nix on the controller, into a store of its own in the cache directory.

What comes of it are derivations. They, and the paths that the evaluation added, are read from there; what is built is
built elsewhere.
"""

from __future__ import annotations

import shutil
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.errors import FormatError, StoreError, UsageError
from reconciler.core.nix import nar
from reconciler.core.nix.derivation import Derivation
from reconciler.core.nix.store_path import StorePath, parse_drv_name
from reconciler.core.store.store import Store
from reconciler.packages.downloads import run
from reconciler.packages.model import Package, Source

DEADLINE = 1800.0  # seconds for one evaluation
_FEATURES = ("--extra-experimental-features", "nix-command flakes")

# Where derivations and sources go that an evaluation gives.
Made = tuple[MutableMapping[StorePath, Derivation], MutableMapping[StorePath, Source]]


@dataclass(frozen=True)
class EvaluatedSource:
    """A path that an evaluation put into the store of evaluations: copied from there, with what it refers to."""

    path: StorePath
    root: str

    def add_to(self, store: Store) -> None:
        with Store.open(self.root) as evaluated, store.batch() as batch:
            for each in evaluated.closure([self.path]):
                batch.add_nar(evaluated.info(each), nar.ChunkReader(evaluated.nar(each)))


class Evaluator:
    """Real Nix, asked for the expressions of one project. `shown` is how messages name what is evaluated."""

    def __init__(self, project: Path, cache: Path, made: Made) -> None:
        self._project = project
        self._root = str(cache / "nix")
        self._derivations, self._sources = made

    # --- Nix ----------------------------------------------------------------------------------------------------------

    def evaluate(self, flake: str, apply: Sequence[str], shown: str) -> str:
        """What `nix eval` prints for an attribute of a flake."""
        return self._run(["nix", *_FEATURES, "--store", self._root, "eval", flake, *apply], shown)

    def instantiate(self, arguments: Sequence[str], shown: str) -> str:
        """What `nix-instantiate` prints."""
        return self._run(["nix-instantiate", "--store", self._root, *arguments], shown)

    def file(self, name: str, shown: str) -> str:
        """A file, or a folder, relative to the project's root; UsageError when it is not there."""
        path = (self._project / name).resolve()
        if not path.exists():
            raise UsageError(f"{shown}: there is no such file", "a path relative to the project's root")
        return str(path)

    def flake(self, reference: str) -> str:
        """A flake's reference; `path:./x` is relative to the project's root."""
        if reference.startswith("path:") and not reference.startswith("path:/"):
            return f"path:{(self._project / reference[len('path:') :]).resolve()}"
        return reference

    def _run(self, command: Sequence[str], shown: str) -> str:
        if shutil.which(command[0]) is None:
            raise UsageError(
                f"{shown}: `{command[0]}` is not installed, and only Nix can evaluate this",
                "install Nix on the controller; hosts need none",
            )
        Path(self._root).mkdir(parents=True, exist_ok=True)
        try:
            done = run(command, DEADLINE, cwd=self._project)
        except StoreError as error:
            raise UsageError(f"{shown}: {error.message}") from None
        if done.status != 0:
            raise UsageError(f"{shown} cannot be evaluated:\n{done.last_lines(12)}")
        return done.out.decode(errors="replace")

    # --- derivations --------------------------------------------------------------------------------------------------

    def derivation(self, told: str, what: str) -> StorePath:
        """The derivation that an evaluation has printed; UsageError, which begins with `what`, when it is none."""
        lines = told.strip().splitlines()
        try:
            return StorePath.parse(lines[-1].partition("!")[0])
        except (FormatError, IndexError):
            raise UsageError(f"{what} is no derivation") from None

    def is_kept(self, drv: StorePath) -> bool:
        """Whether this was evaluated here before."""
        try:
            with Store.open(self._root) as store:
                return store.is_valid(drv)
        except StoreError:
            return False

    def package(self, name: str, drv: StorePath, shown: str) -> Package:
        """The package that a kept derivation makes."""
        self._read(drv, shown)
        outputs = dict(self._derivations[drv].output_paths())
        main = next((outputs[each] for each in ("bin", "out") if each in outputs), next(iter(outputs.values())))
        also = (outputs["man"],) if "man" in outputs and outputs["man"] != main else ()
        version = parse_drv_name(drv.name.removesuffix(".drv"))[1]
        return Package(name, version, main, drv, also, outputs)

    def _read(self, drv: StorePath, shown: str) -> None:
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
                    raise UsageError(f"{shown}: {error.message}", "it needs what this program lacks") from error
                self._derivations[path] = derivation
                todo += derivation.input_derivations
                for source in derivation.input_sources:
                    self._sources.setdefault(source, EvaluatedSource(source, self._root))
