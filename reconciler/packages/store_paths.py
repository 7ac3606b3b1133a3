"""A channel's list of store paths: which of them a name means.

The list has one path a line, of all systems and outputs, sorted or not. An output other than the first is told by the
end of the name: `htop-3.3.0-man`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import STORE_DIR, StorePath, parse_drv_name
from reconciler.inventory.outputs import Named


class StorePathList:
    """The text of a list, searched by name; parsing all of it would take seconds."""

    def __init__(self, text: str) -> None:
        self._text = text

    def named(self, name: str) -> tuple[Named, ...]:
        """Every path whose package has this name, in the order of the list."""
        line = re.compile(rf"^{STORE_DIR}/[0-9a-z]{{32}}-{re.escape(name)}(?:-[^\n/]+)?$", re.MULTILINE)
        found = (Named.of(path) for path in _parsed(match[0] for match in line.finditer(self._text)))
        return tuple(candidate for candidate in found if candidate.name == name)

    def search(self, word: str) -> dict[str, set[str]]:
        """Versions by name, of every package whose name holds `word`, whatever its case."""
        line = re.compile(rf"^{STORE_DIR}/[0-9a-z]{{32}}-[^\n]*{re.escape(word)}[^\n/]*$", re.MULTILINE | re.IGNORECASE)
        found: dict[str, set[str]] = {}
        for candidate in map(Named.of, _parsed(match[0] for match in line.finditer(self._text))):
            if word.lower() in candidate.name.lower() and candidate.version:
                found.setdefault(candidate.name, set()).add(candidate.version)
        return found

    def names(self) -> frozenset[str]:
        """The name of every package, for finding what was meant by a name that there is not."""
        lines = self._text.splitlines()
        return frozenset(parse_drv_name(line[len(STORE_DIR) + 34 :])[0] for line in lines)


def _parsed(lines: Iterable[str]) -> Iterable[StorePath]:
    for line in lines:
        try:
            path = StorePath.parse(line)
        except FormatError:
            continue  # a list that is only searched does not fail for a line that nobody asks for
        if not path.is_derivation:
            yield path
