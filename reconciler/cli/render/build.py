"""What was built, as text and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.building import Built, Difference

_FILES_SHOWN = 20


def build_text(built: Sequence[Built], store: str) -> str:
    """A line for each store path; below it what differs in a second build."""
    return "\n".join(line for one in built for line in _lines(one, store))


def _lines(one: Built, store: str) -> list[str]:
    lines = [_place(path, store) for path in one.package.paths]
    if one.differences is None:
        return lines
    if not one.differences:
        return [*lines, "  built twice, the same both times"]
    return lines + [line for difference in one.differences for line in _difference(difference)]


def _difference(difference: Difference) -> list[str]:
    files = difference.files[:_FILES_SHOWN]
    more = len(difference.files) - len(files)
    lines = [f"  built twice, {difference.output.name} DIFFERS:", *(f"    {name}" for name in files)]
    return lines + ([f"    … and {more} more"] if more else [])


def _place(path: StorePath, store: str) -> str:
    """Where the files are: below the store's root, where that is not /."""
    return str(path) if store == "/" else f"{store.rstrip('/')}{path}"


def build_json(built: Sequence[Built], store: str) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {
        "format": 1,
        "store": store,
        "packages": [
            {
                "reference": one.reference,
                "name": one.package.name,
                "version": one.package.version,
                "paths": [str(path) for path in one.package.paths],
                "outputs": {name: str(path) for name, path in sorted(one.package.outputs.items())},
                "built": one.built,
                "differences": None
                if one.differences is None
                else [{"output": str(each.output), "files": list(each.files)} for each in one.differences],
            }
            for one in built
        ],
    }
