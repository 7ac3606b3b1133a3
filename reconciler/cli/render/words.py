"""Sizes, times, counts and columns, as people read them."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence

from reconciler.core.agent.messages import GenerationRef
from reconciler.core.errors import FormatError
from reconciler.core.nix.store_path import StorePath
from reconciler.fleet.plan import ChangeKind, PackageChange
from reconciler.inventory.outputs import told

DAY = 86_400
# Above this many, hosts are named by ranges, and then only the first of them.
NAMED_HOSTS = 12


def size(count: int) -> str:
    """A number of bytes: `812 B`, `6.3 MiB`."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        if value < 1024 or unit == "TiB":
            return f"{value:.1f} {unit}"
    raise AssertionError("unreachable")


def duration(seconds: float) -> str:
    """`0.04 s`, `0.2 s`, `41 s`, `1 min 52 s`, `2 h 5 min`."""
    if seconds < 0.095:
        return f"{seconds:.2f} s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ago(seconds: float) -> str:
    """`25 min ago`, `3 days ago`."""
    if seconds < 60:
        return "just now"
    if seconds < 3600:
        return f"{int(seconds // 60)} min ago"
    if seconds < 2 * DAY:
        return f"{int(seconds // 3600)} h ago"
    return f"{int(seconds // DAY)} days ago"


def when(moment: float, now: float) -> str:
    """`today 14:12`, `Tue 09:31` within six days, else `2026-03-10 09:31`; local time."""
    then, today = time.localtime(moment), time.localtime(now)
    clock = time.strftime("%H:%M", then)
    if then[:3] == today[:3]:
        return f"today {clock}"
    if 0 <= now - moment < 6 * DAY:
        return f"{('Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat', 'Sun')[then.tm_wday]} {clock}"
    return time.strftime("%Y-%m-%d %H:%M", then)


def count(number: int, noun: str) -> str:
    """`1 host`, `3 hosts`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def revision(text: str) -> str:
    """A revision as the journal keeps it (a commit, perhaps with `-dirty`): `git 9bc1f04, clean`; empty for none."""
    if not text:
        return ""
    commit, dirty, _ = text.partition("-dirty")
    return f"git {commit[:7]}, {'with changes' if dirty else 'clean'}"


def quoted(text: str) -> str:
    """A message as it is shown: in single quotes, on one line."""
    return "'" + " ".join(text.split()) + "'"


def shortened(text: str, width: int) -> str:
    """`text`, cut where it is longer than `width`."""
    return text if len(text) <= width else text[: width - 1].rstrip() + "…"


def shell_word(text: str) -> str:
    """A word to be typed into a shell: quoted when it has to be."""
    import shlex

    return shlex.quote(text)


def abbreviated(text: str) -> str:
    """Text with the hash of each store path in it cut short: `/nix/store/7p3…-orders-5.2.3`."""
    return re.sub(r"(/nix/store/[0-9a-z]{3})[0-9a-z]{29}-", r"\1…-", text)


def packages_named(paths: Iterable[str]) -> list[tuple[str, str]]:
    """Name and version of every package among store paths; (path, "") of anything else."""
    parsed, other = [], []
    for path in paths:
        try:
            parsed.append(StorePath.parse(path))
        except FormatError:
            other.append((path, ""))
    return [*((each.name, each.shown) for each in told(parsed)), *other]


def hosts_named(names: Sequence[str]) -> str:
    """Hosts in a line: every name, or ranges as a pattern writes them, or the first and how many more."""
    if len(names) <= NAMED_HOSTS:
        return " ".join(names)
    parts = ranges(names)
    if len(parts) <= NAMED_HOSTS:
        return " ".join(parts)
    return f"{' '.join(names[:NAMED_HOSTS])} … and {len(names) - NAMED_HOSTS} more"


def ranges(names: Sequence[str]) -> list[str]:
    """Names that count up, next to each other, as one: web[01:30].example."""
    runs: list[list[tuple[str, str, str]]] = []
    for name in names:
        match = re.fullmatch(r"(.*?)(\d+)(\D*)", name, re.DOTALL)
        parts = (match[1], match[2], match[3]) if match else (name, "", "")
        if runs and _follows(runs[-1][-1], parts):
            runs[-1].append(parts)
        else:
            runs.append([parts])
    return [text for run in runs for text in _spelled(run)]


def _follows(one: tuple[str, str, str], other: tuple[str, str, str]) -> bool:
    same = one[0] == other[0] and one[2] == other[2] and one[1] != "" and other[1] != ""
    return same and int(other[1]) == int(one[1]) + 1 and other[1] == str(int(other[1])).zfill(len(one[1]))


def _spelled(run: list[tuple[str, str, str]]) -> list[str]:
    if len(run) < 3:
        return ["".join(parts) for parts in run]
    (head, first, tail), last = run[0], run[-1][1]
    return [f"{head}[{first}:{last}]{tail}"]


def columns(rows: Iterable[Sequence[str]], gap: int = 3, indent: str = "") -> list[str]:
    """Lines whose columns stand under each other; the last column is not padded."""
    table = [list(row) for row in rows]
    widths: dict[int, int] = {}
    for row in table:
        for index, cell in enumerate(row[:-1]):
            widths[index] = max(widths.get(index, 0), len(cell))
    return [
        (indent + "".join(cell.ljust(widths.get(i, 0) + gap) for i, cell in enumerate(row[:-1])) + row[-1]).rstrip()
        if row
        else ""
        for row in table
    ]


def change_words(change: PackageChange) -> str:
    """A package's change in a line: `nginx 1.24.0 -> 1.26.1`, `+ fd 10.2.0`, `- fd`."""
    if change.kind is ChangeKind.ADDED:
        return f"+ {change.name} {change.after}".rstrip()
    if change.kind is ChangeKind.REMOVED:
        return f"- {change.name}"
    if change.rebuilt:
        return f"{change.name} {change.after} rebuilt".replace("  ", " ")
    return f"{change.name} {versions(change)}"


def versions(change: PackageChange) -> str:
    """The version column of a plan's line."""
    if change.kind is ChangeKind.ADDED:
        return change.after
    if change.kind is ChangeKind.REMOVED:
        return change.before
    if change.rebuilt:
        return f"{change.after} rebuilt".strip()
    return f"{change.before or '?'} -> {change.after or '?'}"


def number(generation: GenerationRef | None) -> str:
    """A generation's number, or `-`."""
    return str(generation.number) if generation else "-"
