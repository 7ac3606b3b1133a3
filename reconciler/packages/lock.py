"""The lock: what each reference was found to mean, so that it means the same tomorrow and at every controller.

reconciler.lock, beside the inventory, is YAML with one line for each reference and system:

    format: 1
    locked:
      hello@2.10:
        x86_64-linux: {set: recipes, version: 2.10.3, at: 2026-11-22T18:04Z, by: dana@ops01}

`set` is the package set that the reference was found in, `version` what it means there; `at` and `by` say when and by
whom. A recipe is pinned by its version alone, so that a correction of the recipe takes effect. `path` (and `also`, the
outputs that go along; `size` in bytes, of the path's closure; `release`) pin what a channel gives, `path` and
`derivation` what a Nix expression gives. The references of a recipe's inputs are locked like those of an inventory. A
git source, `git+URL#BRANCH`, is pinned by its commit and the store path of its tree, for the system `source`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from reconciler.core import fs
from reconciler.core.errors import FormatError, StoreError, UsageError
from reconciler.core.nix.store_path import StorePath
from reconciler.inventory import yaml
from reconciler.inventory.desired import Position
from reconciler.inventory.faults import FaultLog, InputError
from reconciler.inventory.names import did_you_mean
from reconciler.inventory.schema import ARCHITECTURES

EVERY_SYSTEM = "source"  # of a git source's tree, which is the same for every one
FILE = "reconciler.lock"
FORMAT = 1

_HEAD = """\
# Written by reconciler; keep it with the inventory. `reconciler lock --update NAME` moves what stands here.
"""
_PLAIN = re.compile(r"[A-Za-z0-9/_][A-Za-z0-9/_.+@=#-]*(?::[A-Za-z0-9/_.+@=#-]+)*")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}Z")
_REQUIRED = ("set", "version", "at", "by")
_KEYS = (*_REQUIRED, "path", "derivation", "also", "size", "release")


@dataclass(frozen=True)
class LockEntry:
    """What one reference means on one system. `size`: bytes of the closure, or None. `at`, `2026-11-22T18:04Z`, and
    `by` are empty until it is put into a lock."""

    reference: str
    system: str
    set: str
    version: str
    at: str = ""
    by: str = ""
    path: StorePath | None = None
    also: tuple[StorePath, ...] = ()
    size: int | None = None
    release: str = ""
    derivation: StorePath | None = None
    position: Position | None = field(default=None, compare=False)

    @property
    def key(self) -> tuple[str, str]:
        return self.reference, self.system

    def _line(self) -> str:
        values: dict[str, str] = {"set": self.set, "version": self.version}
        if self.path is not None:
            values["path"] = str(self.path)
        if self.derivation is not None:
            values["derivation"] = str(self.derivation)
        texts = {name: _word(value) for name, value in values.items()}
        if self.also:
            texts["also"] = f"[{', '.join(str(path) for path in self.also)}]"
        if self.size is not None:
            texts["size"] = str(self.size)
        if self.release:
            texts["release"] = _word(self.release)
        texts |= {"at": self.at, "by": _word(self.by)}
        return ", ".join(f"{name}: {text}" for name, text in texts.items())


@dataclass(frozen=True)
class Lock:
    """The entries of a lock file, by reference and system."""

    entries: Mapping[tuple[str, str], LockEntry] = field(default_factory=dict)

    def get(self, reference: str, system: str) -> LockEntry | None:
        """What is pinned for `reference` on `system`."""
        return self.entries.get((reference, system))

    def with_entries(self, entries: Iterable[LockEntry]) -> Lock:
        """A lock in which `entries` take the place of what stood for the same references."""
        return Lock({**self.entries, **{entry.key: entry for entry in entries}})

    def without(self, keys: Iterable[tuple[str, str]]) -> Lock:
        """A lock that does not pin `keys`."""
        gone = frozenset(keys)
        return Lock({key: entry for key, entry in self.entries.items() if key not in gone})

    def serialise(self) -> str:
        """The text of the file: sorted, a line for each reference and system."""
        lines = [_HEAD.rstrip("\n"), f"format: {FORMAT}", "locked:" if self.entries else "locked: {}"]
        last = None
        for key in sorted(self.entries):
            entry = self.entries[key]
            if entry.reference != last:
                lines.append(f"  {_word(entry.reference)}:")
                last = entry.reference
            lines.append(f"    {_word(entry.system)}: {{{entry._line()}}}")
        return "\n".join(lines) + "\n"


def lock_file(inventory_directory: Path) -> Path:
    """Where the lock of an inventory stands."""
    return inventory_directory / FILE


def load(path: Path, shown: str) -> Lock:
    """The lock in a file; an empty one where there is no file. Faults with everything that is wrong in it, UsageError
    for a format that is newer than this program."""
    if not path.exists():
        return Lock()
    node = yaml.load(path, shown)
    log = FaultLog()
    lock = Lock()
    with log.catching():
        lock = _Reader(log).lock(node)
    log.check()
    return lock


def save(lock: Lock, path: Path) -> None:
    """Write the file durably, whole or not at all; StoreError when it cannot be written."""
    try:
        fs.replace_file(str(path), lock.serialise().encode())
    except OSError as error:
        raise StoreError(
            f"{path}: the lock cannot be written: {error.strerror or error}",
            hint="make its directory writable, or run `reconciler lock` where it is and keep the file",
        ) from error


def _word(text: str) -> str:
    """A scalar as YAML reads it back: plain where that is safe, else quoted."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text)


class _Reader:
    def __init__(self, log: FaultLog) -> None:
        self._log = log

    def lock(self, node: yaml.Node) -> Lock:
        if not isinstance(node, yaml.Mapping):
            raise InputError(node.position, "a lock is a mapping", _REMAKE)
        self._format(node)
        for key in node.entries.values():
            if key.key.text not in ("format", "locked"):
                self._log.add(InputError(key.key.position, f"unknown key '{key.key.text}'", _REMAKE))
        locked = node.get("locked")
        entries = [
            entry
            for name, systems in _entries(locked, "locked")
            for system, value in _entries(systems, name.text)
            if (entry := self._caught(name.text, system, value)) is not None
        ]
        return Lock({entry.key: entry for entry in entries})

    def _format(self, node: yaml.Mapping) -> None:
        number = node.get("format")
        text = number.text if isinstance(number, yaml.Scalar) else ""
        if not text.isascii() or not text.isdigit():
            raise InputError(node.position, "the lock does not say its format", f"its first line is `format: {FORMAT}`")
        if int(text) > FORMAT:
            at = number.position if number is not None else node.position
            raise InputError(
                at, f"the lock has format {text}, which is newer than this program", f"{FORMAT} is the newest known"
            )

    def _caught(self, reference: str, system: yaml.Scalar, node: yaml.Node) -> LockEntry | None:
        with self._log.catching():
            return _entry(reference, system, node)
        return None


_REMAKE = "take the file from version control again, or remove it and run `reconciler lock`"


def _entries(node: yaml.Node | None, what: str) -> list[tuple[yaml.Scalar, yaml.Node]]:
    if node is None or (isinstance(node, yaml.Scalar) and node.is_null):
        return []
    if not isinstance(node, yaml.Mapping):
        raise InputError(node.position, f"'{what}' is not a mapping", _REMAKE)
    return [(entry.key, entry.value) for entry in node.entries.values()]


def _entry(reference: str, system: yaml.Scalar, node: yaml.Node) -> LockEntry:
    values = {key.text: value for key, value in _entries(node, reference)}
    for key, _ in _entries(node, reference):
        if key.text not in _KEYS:
            raise InputError(key.position, f"unknown key '{key.text}'", did_you_mean(key.text, _KEYS) or _REMAKE)
    texts = {name: _text(values, name, node.position) for name in _REQUIRED}
    if not _TIME.fullmatch(texts["at"]):
        raise InputError(values["at"].position, f"'{texts['at']}' is not a time", "2026-11-22T18:04Z")
    size = _text(values, "size", node.position) if "size" in values else None
    if size is not None and not (size.isascii() and size.isdigit()):
        raise InputError(values["size"].position, f"'{size}' is not a number of bytes")
    entry = LockEntry(
        reference,
        system.text,
        **texts,
        path=_path(values["path"]) if "path" in values else None,
        derivation=_path(values["derivation"]) if "derivation" in values else None,
        also=_paths(values.get("also")),
        size=None if size is None else int(size),
        release=_text(values, "release", node.position) if "release" in values else "",
        position=system.position,
    )
    if system.text not in (*ARCHITECTURES, EVERY_SYSTEM):  # it would never be asked for, and something else be meant
        raise InputError(
            system.position, f"'{system.text}' is not a system", did_you_mean(system.text, ARCHITECTURES) or _REMAKE
        )
    return entry


def _text(values: Mapping[str, yaml.Node], name: str, position: Position) -> str:
    node = values.get(name)
    if node is None:
        raise InputError(position, f"'{name}' is missing", _REMAKE)
    if not isinstance(node, yaml.Scalar) or not node.text:
        raise InputError(node.position, f"'{name}' is not one word", _REMAKE)
    return node.text


def _path(node: yaml.Node) -> StorePath:
    if not isinstance(node, yaml.Scalar):
        raise InputError(node.position, "a store path is wanted", _REMAKE)
    try:
        return StorePath.parse(node.text)
    except FormatError as error:
        raise InputError(node.position, error.message, _REMAKE) from None


def _paths(node: yaml.Node | None) -> tuple[StorePath, ...]:
    if node is None:
        return ()
    if not isinstance(node, yaml.Sequence):
        raise InputError(node.position, "a list of store paths is wanted", _REMAKE)
    return tuple(_path(item) for item in node.items)


def moved(entry: LockEntry, known: Iterable[str], where: str) -> UsageError:
    """The error for a pin that leads nowhere any more: `where` lacks the version."""
    place = f"{entry.position}: " if entry.position else ""
    return UsageError(
        f"{place}{entry.reference} is locked at {entry.version}, and {where} has {', '.join(known) or 'nothing'}",
        f"reconciler lock --update {entry.reference}",
    )
