"""What package sets offer, as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler.cli.render.words import columns, count, shortened, size
from reconciler.fleet.catalogue import Branch, Details, Edition, Offered

_VERSIONS_SHOWN = 4


def search_text(found: Sequence[Offered], word: str) -> str:
    """A line for each package."""
    if not found:
        return f"No package's name holds '{word}'."
    rows = ((one.name, one.set, _versions(one.versions), shortened(one.text, 60)) for one in found)
    return "\n".join(columns([("package", "set", "versions", ""), *rows]))


def _versions(versions: Sequence[str]) -> str:
    more = f" and {len(versions) - _VERSIONS_SHOWN} more" if len(versions) > _VERSIONS_SHOWN else ""
    return ", ".join(versions[:_VERSIONS_SHOWN]) + more


def search_json(found: Sequence[Offered]) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {"format": 1, "packages": [_offered(one) for one in found]}


def _offered(one: Offered) -> dict[str, Any]:
    return {"name": one.name, "set": one.set, "versions": list(one.versions), "description": one.text}


def show_text(found: Sequence[Details]) -> str:
    """A block for each set that has the package."""
    return "\n\n".join("\n".join(_details(each)) for each in found)


def _details(details: Details) -> list[str]:
    one = details.offered
    head = [f"{one.name}   in {one.set}", *(f"  {text}" for text in (one.text, details.home) if text)]
    rows = [("", *_edition(edition)) for edition in details.editions]
    return [*head, *columns(rows)]


def _edition(edition: Edition) -> tuple[str, str, str, str, str]:
    outputs = f"outputs: {' '.join(edition.outputs)}" if len(edition.outputs) > 1 else ""
    path = str(edition.path) if edition.path is not None else ""
    system = edition.system or ("every system" if path else "")
    return edition.version, system, "" if edition.size is None else size(edition.size), path, outputs


def show_json(found: Sequence[Details]) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {
        "format": 1,
        "packages": [
            {
                **_offered(each.offered),
                "home": each.home,
                "builds": [
                    {
                        "version": edition.version,
                        "system": edition.system or None,
                        "path": None if edition.path is None else str(edition.path),
                        "outputs": list(edition.outputs),
                        "size": edition.size,
                    }
                    for edition in each.editions
                ],
            }
            for each in found
        ],
    }


def tree_text(top: Branch) -> str:
    """The tree, and how large all of it is."""
    lines = [_node(top), *_below(top, "")]
    sizes = _sizes(top)
    return "\n".join([*lines, "", f"{count(len(sizes), 'path')}, {size(sum(sizes.values()))}"])


def _node(branch: Branch) -> str:
    known = f"   {size(branch.size)}" if branch.size is not None else ""
    return f"{branch.path}{known}{'   (see above)' if branch.seen else ''}"


def _below(branch: Branch, indent: str) -> Iterator[str]:
    for index, each in enumerate(branch.branches):
        last = index == len(branch.branches) - 1
        yield f"{indent}{'└───' if last else '├───'}{_node(each)}"
        yield from _below(each, indent + ("    " if last else "│   "))


def _sizes(branch: Branch) -> dict[str, int]:
    found = {str(branch.path): branch.size or 0}
    for each in branch.branches:
        found |= _sizes(each)
    return found


def tree_json(top: Branch) -> dict[str, Any]:
    """As docs/json.md describes it."""
    return {"format": 1, "tree": _branch_json(top)}


def _branch_json(branch: Branch) -> dict[str, Any]:
    return {
        "path": str(branch.path),
        "size": branch.size,
        "seen": branch.seen,
        "references": [_branch_json(each) for each in branch.branches],
    }
