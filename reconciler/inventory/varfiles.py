"""group_vars/ and host_vars/ beside the hosts file.

For each group or host one of NAME (a file, or a folder whose files are read in the order of their names, folders within
it too), NAME.yml, NAME.yaml, NAME.json: the first of these that exists, as Ansible does. A second one would silently
not be read, so it is a fault; so is `desired` for a group or host that a written inventory does not have.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from reconciler.inventory.desired import Position
from reconciler.inventory.faults import InputError
from reconciler.inventory.graph import Draft, Drafts
from reconciler.inventory.json_tree import parse_json
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.yaml import Entry, Node, Scalar, parse, read
from reconciler.inventory.yaml import Mapping as MappingNode

EXTENSIONS = ("", ".yml", ".yaml", ".json")
_VAULT = b"$ANSIBLE_VAULT;"


class VariableFiles:
    """Reads both folders of an inventory. `unread` collects the files that ansible-vault encrypted."""

    def __init__(self, directory: str, drafts: Drafts) -> None:
        self._directory = directory
        self._drafts = drafts
        self.unread: list[str] = []

    def read(self, complete: bool) -> None:
        """Put every file's variables into the drafts. `complete` says that no group can come or go by itself."""
        for folder, kind, drafts in (
            ("group_vars", "group", self._drafts.groups),
            ("host_vars", "host", self._drafts.hosts),
        ):
            path = os.path.join(self._directory, folder)
            if not os.path.isdir(path):
                continue
            names = sorted(os.listdir(path))
            for name in names:
                self._one(path, name, kind, drafts, complete)

    def _one(self, folder: str, name: str, kind: str, drafts: Mapping[str, Draft], complete: bool) -> None:
        path = os.path.join(folder, name)
        draft, extension = _owner(name, drafts)
        if name.startswith(".") or name.endswith("~"):
            return
        if draft is None:
            if complete:
                self._stray(path, kind, drafts)
            return
        first = _first(os.path.join(folder, draft.name))
        if first != path:
            hint = f"move it into {first}/" if os.path.isdir(first) else f"join the two; only {first} is read"
            self._drafts.log.add(InputError(Position(path, 0, 0), f"not read, because {first} exists", hint))
            return
        for file in _files(path, extension):
            for entry in self._entries(file):
                self._say(draft, entry, f"{kind} {draft.name}")

    def _say(self, draft: Draft, entry: Entry, scope: str) -> None:
        if entry.key.text == "ansible_group_priority":
            hint = "say it in the hosts file: Ansible reads it nowhere else"
            self._drafts.log.add(InputError(entry.key.position, "ansible_group_priority has no effect here", hint))
        draft.say(entry, scope, from_file=True)

    def _stray(self, path: str, kind: str, drafts: Mapping[str, Draft]) -> None:
        """A file of no group: Ansible passes over it, and what it desires would never be."""
        name = os.path.splitext(os.path.basename(path))[0]
        if os.path.splitext(path)[1] not in EXTENSIONS:
            return
        for file in _files(path, os.path.splitext(path)[1]):
            for entry in self._entries(file):
                if entry.key.text == "desired":
                    text = f"'desired' of a {kind} that the inventory does not have: '{name}'"
                    self._drafts.log.add(InputError(entry.key.position, text, did_you_mean(name, drafts)))

    def _entries(self, file: str) -> list[Entry]:
        with self._drafts.log.catching():
            data = read(file, file)
            if data.startswith(_VAULT):
                self.unread.append(file)
                return []
            node: Node = parse_json(data, file) if file.endswith(".json") else parse(data, file)
            if isinstance(node, MappingNode):
                return list(node.entries.values())
            if not (isinstance(node, Scalar) and node.is_null):
                raise InputError(node.position, "a mapping of variables is wanted here")
        return []


def _owner(name: str, drafts: Mapping[str, Draft]) -> tuple[Draft | None, str]:
    """Whose variables a file of this name holds, and the extension that was taken off."""
    if name in drafts:
        return drafts[name], ""
    for extension in EXTENSIONS[1:]:
        if name.endswith(extension) and name.removesuffix(extension) in drafts:
            return drafts[name.removesuffix(extension)], extension
    return None, ""


def _first(stem: str) -> str:
    return next(stem + extension for extension in EXTENSIONS if os.path.exists(stem + extension))


def _files(path: str, extension: str) -> Iterator[str]:
    """The files that a path stands for: itself, or those below a folder, hidden ones and backups left out."""
    if not os.path.isdir(path):
        yield path
        return
    if extension:
        return
    for name in sorted(os.listdir(path)):
        inner = os.path.join(path, name)
        ending = os.path.splitext(name)[1]
        if not name.startswith(".") and not name.endswith("~") and ending in EXTENSIONS:
            yield from _files(inner, ending)
