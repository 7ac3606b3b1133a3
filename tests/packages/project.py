"""A project on disk whose recipes a test writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from reconciler.packages.resolver import Resolver

SYSTEM = "x86_64-linux"


@dataclass(frozen=True)
class Project:
    """Recipes beside the inventory `inventories/test` and at the root of the project."""

    root: Path

    @property
    def inventory(self) -> Path:
        return self.root / "inventories/test"

    def recipe(self, name: str, text: str, near: bool = True) -> Path:
        """Write a recipe; beside the inventory when `near`."""
        path = (self.inventory if near else self.root) / "packages" / f"{name}.yml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def file(self, name: str, text: str) -> Path:
        """Write a source beside the inventory's recipes."""
        path = self.inventory / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def resolver(self) -> Resolver:
        return Resolver(self.root, self.inventory)
