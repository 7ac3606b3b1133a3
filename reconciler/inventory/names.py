"""Names of hosts and groups: which are allowed, which was meant, and what a range of hosts spells.

host     [letters digits _] then [letters digits _ . - : %], at most 253 characters; never a path, an option or a word
         that a shell would read twice: the name becomes an argument of ssh and the name of files
group    anything printable without '/', as Ansible allows
range    [BEGIN:END] or [BEGIN:END:STEP] anywhere in a host key, ends included; digits (a leading zero fixes the
         width) or single letters; several in one key multiply
"""

from __future__ import annotations

import difflib
import re
import string
from collections.abc import Iterable, Iterator

MAX_HOST_LENGTH = 253
MAX_EXPANDED = 100_000

_HOST = re.compile(r"\w[\w.:%-]*")
_RANGE = re.compile(r"\[([^\[\]]*)\]")
_PORT = re.compile(r"(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>(?:[^:\[\]]|\[[^\]]*\])+)):(?P<port>[0-9]+)")


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that was probably meant."""
    close = difflib.get_close_matches(word, list(candidates), n=1, cutoff=0.6)
    return close[0] if close else None


def did_you_mean(word: str, candidates: Iterable[str]) -> str | None:
    """A hint naming the nearest candidate; None where none is near."""
    meant = nearest(word, candidates)
    return None if meant is None else f"did you mean '{meant}'?"


def host_name_problem(name: str) -> str | None:
    """Why a text cannot name a host; None when it can."""
    if len(name) > MAX_HOST_LENGTH:
        return f"a host name has at most {MAX_HOST_LENGTH} characters"
    if _HOST.fullmatch(name) is None:
        return f"{name!r} cannot name a host"
    return None


def host_name_hint(name: str) -> str:
    """The nearest allowed spelling of a refused host name, and the rule."""
    rule = "a host name has letters, digits, '.', '-' and '_'"
    cleaned = re.sub(r"[^\w.-]+", "-", name).strip("-.")[:MAX_HOST_LENGTH]
    return f"{rule}; did you mean '{cleaned}'?" if cleaned else rule


def group_name_problem(name: str) -> str | None:
    """Why a text cannot name a group; None when it can."""
    if not name or not name.isprintable() or "/" in name or name in {".", ".."}:
        return f"{name!r} cannot name a group"
    return None


def split_port(key: str) -> tuple[str, int | None]:
    """A host key's name and its `:PORT`, if it has one. A bare IPv6 address has none."""
    match = _PORT.fullmatch(key)
    if match is None:
        return key, None
    return match["bracketed"] or match["plain"], int(match["port"])


def expand_ranges(text: str) -> Iterator[str]:
    """Every host that a key with ranges spells, in order; ValueError saying what is wrong with a range."""
    match = _RANGE.search(text)
    if match is None:
        yield text
        return
    head, tail = text[: match.start()], text[match.end() :]
    for part in _range_values(match[1]):
        for rest in expand_ranges(tail):
            yield head + part + rest


def _range_values(inside: str) -> list[str]:
    bounds = inside.split(":")
    if len(bounds) not in {2, 3}:
        raise ValueError(f"the range [{inside}] is not [BEGIN:END] or [BEGIN:END:STEP]")
    begin, end, step = bounds[0] or "0", bounds[1], bounds[2] if len(bounds) == 3 else "1"
    if not step.isdecimal() or int(step) == 0:
        raise ValueError(f"the step of the range [{inside}] is not a number above 0")
    if begin.isdecimal() and end.isdecimal():
        return _numbers(begin, end, int(step), inside)
    letters = string.ascii_letters
    if len(begin) == len(end) == 1 and begin in letters and end in letters:
        first, last = letters.index(begin), letters.index(end)
        return _not_empty(list(letters[first : last + 1 : int(step)]), inside)
    raise ValueError(f"the ends of the range [{inside}] are not two numbers or two letters")


def _numbers(begin: str, end: str, step: int, inside: str) -> list[str]:
    width = len(begin) if begin.startswith("0") and len(begin) > 1 else 0
    if width and len(end) != width:
        raise ValueError(f"the ends of the range [{inside}] have different widths")
    if (int(end) - int(begin)) // step >= MAX_EXPANDED:
        raise ValueError(f"the range [{inside}] has more than {MAX_EXPANDED:,} hosts")
    return _not_empty([str(number).zfill(width) for number in range(int(begin), int(end) + 1, step)], inside)


def _not_empty(values: list[str], inside: str) -> list[str]:
    if not values:
        raise ValueError(f"the range [{inside}] ends before it begins")
    return values
