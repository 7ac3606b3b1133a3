"""One checker, run after every fault: what must hold of a host's root whatever happened to it.

Its own reading of database, links and files comes first; real Nix is asked after that, since it changes what it looks
at. Each thing that is wrong is one line of words; none means that all is well.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import os
import re
import sqlite3
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from reconciler.core.agent import history, lock, profiles
from reconciler.core.agent.host import Host
from reconciler.core.errors import ReconcilerError
from reconciler.core.nix import nar
from reconciler.core.profile.names import ProfileId
from tests.oracle import RealNix


class Outcome(enum.Enum):
    """What the operation may have come to: it was cut off, it said that it failed, or it said that it was done."""

    EITHER = "old or new"
    OLD = "old"
    NEW = "new"


@dataclass(frozen=True)
class Expected:
    """What a host may look like.

    `before`, `after`: the store path that each profile leads to, empty for none. `kept`: paths that are valid and right
    whatever happens; `gained`: valid after the operation, and kept by a root; `lost`: not valid any more after it.
    `broken`: paths of the beginning whose files are not right, which the operation mends. `told`: how often each
    profile's change stands in the history. `reshapes`: directories may have another mode and time
    while it is under way.
    """

    before: Mapping[str, str]
    after: Mapping[str, str]
    kept: frozenset[str]
    gained: frozenset[str] = frozenset()
    lost: frozenset[str] = frozenset()
    broken: frozenset[str] = frozenset()
    told: int = 1
    reshapes: bool = False


@dataclass(frozen=True)
class Row:
    """One valid path as the database has it."""

    path: str
    hash: str
    size: int


TEMPORARY = re.compile(r"\.\d+_.+|\..+\.tmp-\d+-[0-9a-f]+|\.tmp-link.*")
_STORE = "nix/store"
_PROFILES = "nix/var/nix/profiles"


def check(root: Path, expected: Expected, outcome: Outcome) -> list[str]:
    """What is wrong. Reads only (but for what SQLite does to recover its log)."""
    found: list[str] = []
    try:
        found += [*_profiles(root, expected, outcome), *_locks(root)]
        if not (root / "nix/var/nix/db/schema").exists():
            return [*found, *(["there is no store"] if expected.kept or outcome is Outcome.NEW else [])]
        rows = _rows(root, found)
        found += [*_paths(root, rows, expected, outcome), *_roots(root, rows), *_history(root, expected, outcome)]
    except (ReconcilerError, OSError) as error:
        found.append(f"it cannot be read: {error}")
    return found


# --- profiles ---------------------------------------------------------------------------------------------------------


def _profiles(root: Path, expected: Expected, outcome: Outcome) -> Iterator[str]:
    for name in {**expected.before, **expected.after}:
        old, new = expected.before.get(name, ""), expected.after.get(name, "")
        allowed = {Outcome.EITHER: {old, new}, Outcome.OLD: {old}, Outcome.NEW: {new}}[outcome]
        found = profiles.find(Host(str(root)), ProfileId.parse(name))
        leads_to = _follow(root, found.link)
        if found.problem:
            yield f"{name}: {found.problem}"
        elif leads_to not in allowed:
            yield f"{name} leads to '{leads_to}', not to {' or '.join(map(repr, sorted(allowed)))}"
        elif leads_to and (found.current is None or found.current.number == 0 or found.current.path != leads_to):
            yield f"{name} leads to {leads_to} by no generation: {found.current}"


def _follow(root: Path, link: str) -> str:
    """The store path that the host's link `link` leads to, read link by link; empty when it leads nowhere."""
    physical = link if link.startswith(f"{root}/") else f"{root}{link}"
    for _ in range(10):
        try:
            target = os.readlink(physical)
        except OSError:
            return ""
        if target.startswith("/nix/store/"):
            return target
        physical = os.path.join(os.path.dirname(physical), target) if not target.startswith("/") else f"{root}{target}"
    return "a circle of links"


def _history(root: Path, expected: Expected, outcome: Outcome) -> Iterator[str]:
    if outcome is Outcome.EITHER:
        return
    host = Host(str(root))
    if outcome is Outcome.NEW and os.path.lexists(host.switching):
        yield "the record of a switch under way is still there"
    entries = history.read(host.history)
    for name, path in expected.after.items():
        if path == expected.before.get(name, ""):
            continue
        told = sum(one.profile == name and one.after is not None and one.after.path == path for one in entries)
        wanted = expected.told if outcome is Outcome.NEW else expected.told - 1
        if told != wanted:
            yield f"the history tells {told} times that {name} became {path}, not {wanted} times"


# --- registered means durable and right -------------------------------------------------------------------------------


def _rows(root: Path, found: list[str]) -> dict[str, Row]:
    try:
        with _database(root) as database:
            for (said,) in database.execute("pragma integrity_check"):
                if said != "ok":
                    found.append(f"the database is not whole: {said}")
            found += [f"the database refers to nothing: {row}" for row in database.execute("pragma foreign_key_check")]
            rows = database.execute("select path, hash, narSize from ValidPaths").fetchall()
    except sqlite3.Error as error:
        found.append(f"the database cannot be read: {error}")
        return {}
    return {path: Row(path, hash_, size) for path, hash_, size in rows}


def _database(root: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(root / "nix/var/nix/db/db.sqlite", isolation_level=None))


def _paths(root: Path, rows: Mapping[str, Row], expected: Expected, outcome: Outcome) -> Iterator[str]:
    wanted = expected.kept | (expected.gained if outcome is Outcome.NEW else frozenset())
    yield from (f"{path} is not valid" for path in sorted(wanted - rows.keys()))
    if outcome is Outcome.NEW:
        yield from (f"{path} is still valid" for path in sorted(expected.lost & rows.keys()))
    for row in rows.values():
        real = f"{root}{row.path}"
        if not os.path.lexists(real):
            yield f"{row.path} is valid, and nothing is there"
        elif outcome is Outcome.NEW or row.path not in expected.broken:
            yield from _wrong(row, real, expected.reshapes and outcome is not Outcome.NEW)


def _wrong(row: Row, real: str, reshaped: bool) -> Iterator[str]:
    try:
        hash_, size = nar.hash_path(real)
    except OSError as error:
        yield f"{row.path}: {error}"
        return
    if (hash_.hex_prefixed, size) != (row.hash, row.size):
        yield f"{row.path} is valid, and its files are not what was registered"
    for path in (real, *_below(real)):
        status = os.lstat(path)
        if reshaped and stat.S_ISDIR(status.st_mode):
            continue
        mode = stat.S_IMODE(status.st_mode)
        if status.st_mtime_ns != 10**9 or (not stat.S_ISLNK(status.st_mode) and mode not in (0o444, 0o555)):
            yield f"{path} has mode {mode:o} and mtime {status.st_mtime}"


def _below(top: str) -> Iterator[str]:
    for directory, folders, files in os.walk(top):
        yield from (os.path.join(directory, name) for name in (*folders, *files))


def _roots(root: Path, rows: Mapping[str, Row]) -> Iterator[str]:
    """Generations that lead to what is not valid: something live was deleted, or a link came before its files."""
    for link in (root / _PROFILES).rglob("*"):
        if link.is_symlink() and (target := os.readlink(link)).startswith("/nix/store/") and target not in rows:
            yield f"{link.relative_to(root)} leads to {target}, which is not valid"


# --- locks ------------------------------------------------------------------------------------------------------------


def _locks(root: Path) -> Iterator[str]:
    """No lock outlives its owner."""
    fixed = [root / "nix/var/reconciler/lock", root / "nix/var/nix/db/big-lock", root / "nix/var/nix/gc.lock"]
    temp_roots = [*(root / "nix/var/nix/temproots").glob("*")]
    for file in (*fixed, *temp_roots, *(root / _STORE).glob("*.lock"), *(root / _PROFILES).rglob("*.lock")):
        if file.is_file():
            with open(file, "rb") as opened:
                try:
                    fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    yield f"{file.relative_to(root)} is locked, and its owner is dead"
    if (owner := lock.owner(Host(str(root)))) is not None:
        yield f"the host is locked by {owner}"


# --- real Nix ---------------------------------------------------------------------------------------------------------


def nix_verify(root: Path) -> list[str]:
    """What `nix-store --verify --check-contents` finds, and where `nix-env` counts other generations than we do."""
    try:
        nix = RealNix(root)
        nix.verify()
        listed = nix.output("nix-env", "--profile", f"{root}/{_PROFILES}/system", "--list-generations")
    except AssertionError as error:
        return [f"real Nix: {error}"]
    theirs = [int(line.split()[0]) for line in listed.splitlines()]
    ours = [one.number for one in profiles.find(Host(str(root)), ProfileId.SYSTEM).generations]
    return [] if theirs == ours else [f"real Nix sees the generations {theirs}, and we see {ours}"]


def nix_collect(root: Path) -> list[str]:
    """What is wrong after one real garbage collection: it failed, or something is left that nothing needs."""
    try:
        RealNix(root).run("nix-store", "--gc")
    except AssertionError as error:
        return [f"real Nix: {error}"]
    with _database(root) as database:
        valid = {os.path.basename(path) for (path,) in database.execute("select path from ValidPaths")}
    left = set(os.listdir(root / _STORE)) - valid - {".links"}
    found = [f"left over in the store after a collection: {name}" for name in sorted(left)]
    found += [f"left over: temproots/{name}" for name in os.listdir(root / "nix/var/nix/temproots")]
    return found


def leftovers(root: Path) -> list[str]:
    """Temporary names of whoever was cut off, anywhere outside the store."""
    found = []
    for directory, folders, files in os.walk(root):
        if directory == str(root / "nix") and "store" in folders:
            folders.remove("store")
        for name in (*folders, *files):
            if TEMPORARY.fullmatch(name):
                found.append(f"left over: {os.path.relpath(os.path.join(directory, name), root)}")
    return found
