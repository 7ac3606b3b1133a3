"""Versions: Nix's order, and what `name@version` matches.

A version is read as components: runs of digits, and runs of whatever is neither a digit nor `.` nor `-`, which only
separate. Two versions are compared component by component: numbers as numbers; `pre` before everything, the end
included; the end before words and numbers; words before numbers, else as text.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from itertools import zip_longest

_COMPONENT = re.compile(r"[0-9]+|[^0-9.\-]+")


def components(version: str) -> list[str]:
    """`1.24pre1` is 1, 24, pre, 1."""
    return _COMPONENT.findall(version)


def compare(left: str, right: str) -> int:
    """Below 0, 0, or above 0, as `left` is older than, as old as, or newer than `right`."""
    for one, other in zip_longest(components(left), components(right), fillvalue=""):
        if one == other:
            continue
        if _is_older(one, other):
            return -1
        if _is_older(other, one):
            return 1
    return 0


def _is_older(one: str, other: str) -> bool:
    if one.isdigit() and other.isdigit():
        return int(one) < int(other)
    ranks = _rank(one), _rank(other)
    return ranks[0] < ranks[1] or (ranks[0] == ranks[1] and one < other)


def _rank(component: str) -> int:
    """`pre`, then the end, then words, then numbers."""
    if component == "pre":
        return 0
    if component == "":
        return 1
    return 3 if component.isdigit() else 2


def newest_first(versions: Iterable[str]) -> list[str]:
    """Sorted; versions that Nix finds equal (1.0 and 1-0) in the order of their text."""
    return sorted(sorted(versions), key=functools.cmp_to_key(compare), reverse=True)


def matches(version: str, wanted: str) -> bool:
    """Whether `@wanted` means `version`: 1.24 means 1.24 and 1.24.3, and neither 1.240 nor 1.24pre1."""
    return version == wanted or version.startswith(wanted + ".")
